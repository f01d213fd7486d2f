"""Plausible wrong answers to every exercise, which its check must refuse, and right ones in another form.

Each is code that stands in place of the solution, in a notebook that has been run with the solution up to there.
Nothing is trained for them, except that notebook 03 takes a few steps.
"""

NOTEBOOKS = ("01-Preprocessing.ipynb", "02-Dataset.ipynb", "03-Model-Training.ipynb", "04-Interpretability.ipynb")
ATRIUM, CHESTXDET, PNEUMONIA, VGG16 = (
    f"companions/{name}.ipynb"
    for name in ("Atrium-Segmentation", "ChestX-Det10", "Pneumonia-Classification", "VGG16-Heart-Detection")
)

WRONG: dict[str, dict[str, list[str]]] = {
    NOTEBOOKS[0]: {
        "exercise-1": [
            "clipped_share = np.isin(windowed, (0, 1)).mean()  # of the full width",
            "clipped_share = 100 * share_clipped(width / 2)",
            "clipped_share = 1 - share_clipped(width / 2)",
        ],
        "exercise-2": [
            "friends_box = box",
            "friends_box = box * np.tile([512 / frame[1], 320 / frame[0]], 2)  # rows and columns exchanged",
            "friends_box = box * np.tile([320 / original.shape[1], 512 / original.shape[0]], 2)  # the other frame",
        ],
        "exercise-3": [
            "torn_apart = 0",
            "torn_apart = 0.32",
            "torn_apart = 2 * sum(validates[roster == patient].sum() == 1 for patient in range(100))  # films",
        ],
        "exercise-4": [
            # standard deviations averaged
            "shares = np.array([first[0], second[0]])\n"
            "means = np.array([part[1] / part[0] for part in (first, second)])\n"
            "stds = [np.sqrt(part[2] / part[0] - m**2) for part, m in zip((first, second), means, strict=True)]\n"
            "joint_mean, joint_std = np.average(means, weights=shares), np.average(stds, weights=shares)",
            # the number of pixels ignored
            "joint_mean, joint_std = means.mean(), np.mean(stds)",
            # the root forgotten
            "count, total_sum, total_squares = np.add(first, second)\n"
            "joint_mean = total_sum / count\n"
            "joint_std = total_squares / count - joint_mean**2",
            "joint_std = None",
        ],
    },
    NOTEBOOKS[1]: {
        "exercise-1": ["black = 0", "black = stats['mean'] / stats['std']", "black = -stats['mean']"],
        "exercise-2": [
            "mirrored_box = [side - box[0], box[1], side - box[2], box[3]]  # left is right of right",
            "mirrored_box = [side - 1 - box[2], box[1], side - 1 - box[0], box[3]]",
            "mirrored_box = [box[0], side - box[3], box[2], side - box[1]]  # upside down",
        ],
        "exercise-3": ["worst_angle = 90", "worst_angle = -int(np.argmax(differences))", "worst_angle = 30"],
        "exercise-4": [
            "my_augmentation = iaa.Affine(scale={'x': (0.8, 1.2), 'y': (0.8, 1.2)})  # no gamma",
            "my_augmentation = iaa.Sequential([iaa.GammaContrast((0.7, 1.7)), iaa.Affine(scale=(0.8, 1.2))])",
            "my_augmentation = iaa.Sequential(\n"
            "    [iaa.GammaContrast((0.7, 1.7)), iaa.Affine(scale={'x': (0.5, 1.5), 'y': (0.5, 1.5)})]\n)",
            "my_augmentation = iaa.Sequential(\n"
            "    [iaa.Multiply((0.7, 1.7)), iaa.Affine(scale={'x': (0.8, 1.2), 'y': (0.8, 1.2)})]\n)",
            "my_augmentation = augmentation",
        ],
    },
    NOTEBOOKS[2]: {
        "exercise-1": ["shifted_iou = 0.9", "shifted_iou = 0.8", "shifted_iou = 90 * 100 / (2 * 100 * 100)"],
        "exercise-2": [
            "best_constant = all_boxes(hearts).mean(axis=0)",
            "best_constant = np.median(true_hearts, axis=0)  # of the validation labels",
            "best_constant = np.median(all_boxes(hearts))",
        ],
        "exercise-3": [
            "hard_bin_error = 2.0  # the largest",
            "hard_bin_error = np.sqrt((nearest**2).mean())",
            "hard_bin_error = 0.0  # as with soft bins",
        ],
        "exercise-4": [
            "losses_by_rate = {1e-6: 400.0, 1e-4: 350.0, 1e-2: 900.0}",
            "losses_by_rate = dict.fromkeys((1e-6, 1e-4, 1e-2), loss_at(1e-4))",
            "losses_by_rate = {1e-4: loss_at(1e-4)}",
            # one network for all three
            "losses_by_rate, fresh = {}, copy.deepcopy(twin).to(device)\n"
            "for rate in (1e-6, 1e-4, 1e-2):\n"
            "    torch.manual_seed(SEED)\n"
            "    loader = DataLoader(few, batch_size=8, shuffle=True)\n"
            "    losses_by_rate[rate] = train_epoch(fresh, loader, torch.optim.Adam(fresh.parameters(), lr=rate))",
        ],
        "exercise-5": [
            "best_iou = baseline['iou_mean']",
            "best_iou = history['val_mae'].min()",
            "best_iou = 100 * history['val_iou'].max()",
        ],
    },
    NOTEBOOKS[3]: {
        "exercise-1": [
            "heart_width = found.heart[3] - found.heart[1]  # its height",
            "heart_width = found.heart[0] - found.heart[2]",
            "heart_width = (found.heart[2] - found.heart[0]) * 224 / columns",
        ],
        "exercise-2": [
            "blackened = np.zeros_like(xray.image)",
            "blackened = xray.image.copy()  # a strip of rows\n"
            "blackened[int(found.heart[1]) - rows // 12 : int(found.heart[1]) + rows // 12] = 0",
            "blackened = xray.image.copy()  # the right border\n"
            "blackened[:, int(found.heart[2]) - columns // 12 : int(found.heart[2]) + columns // 12] = 0",
            "blackened = xray.image.copy()  # all to the left of it\nblackened[:, : int(found.heart[0])] = 0",
            "blackened = xray.image",
        ],
        "exercise-3": [
            "upside_down = xray.image.copy()",
            "upside_down = xray.image[:, ::-1]",
            "upside_down = xray.image[::-1, ::-1]  # turned by 180 degrees",
        ],
        "exercise-4": [
            "left_with_relu = after[0]",
            "left_with_relu = contributions[0].clamp_min(0).sum()",
            "left_with_relu = before[0] + contributions[0].abs().sum()",
        ],
        "exercise-5": [
            "moved_by_map = 0.0",
            "moved_by_map = by_chance",
            "moved_by_map = moved_by(-contributions[0].abs())  # the least important",
        ],
    },
    ATRIUM: {
        "exercise-1": [
            "iou_answer = dice_0",
            "iou_answer = 2 * dice_0 / (1 + dice_0)  # the wrong way round",
            "iou_answer = (a & b).sum()",
        ],
        "exercise-2": [
            "voxels_answer = in_mm",
            "voxels_answer = in_mm / val_volumes[0].spacing[0]",
            "voxels_answer = metrics.surface_distances(means[0], val_volumes[0].mask, (1, 1, 1))  # both numbers",
        ],
        "exercise-3": [
            "thick_answer = baseline",
            "thick_answer = metrics.measure_all(val_volumes, [ndimage.binary_erosion(v.mask) for v in val_volumes])",
            "thick_answer = metrics.measure_all(\n"
            "    val_volumes, [ndimage.binary_dilation(v.mask, np.ones((3, 3, 3))) for v in val_volumes]\n)",
        ],
        "exercise-4": [
            "single_history = history",
            "single_history = history.assign(train_loss=history['train_loss'] + 1, val_dice=0.5)",
            "single_history = single_history.head(1)",
        ],
        "exercise-5": [
            "entropy_history = history",
            "entropy_history = single_history",
            "saved = torch.load(RESULTS / 'cross-entropy' / 'checkpoints' / 'last.pt', weights_only=True)\n"
            "entropy_history = pd.DataFrame(saved['history'])  # the right run, of a class that has changed since\n"
            "class CrossEntropyTask(AtriumTask):  # still the Dice loss\n"
            "    pass",
            "class CrossEntropyTask(AtriumTask):  # probabilities instead of logits\n"
            "    def loss(self, model, batch, epoch, device):\n"
            "        logits = model(batch[0].to(device))\n"
            "        return nn.functional.binary_cross_entropy_with_logits(logits.sigmoid(), batch[1].to(device))",
        ],
    },
    CHESTXDET: {
        "exercise-1": [
            "recall_at_95 = 100 * expected['recall'] + 1\nspecificity_at_95 = 100 * expected['specificity']",
            "recall_at_95, specificity_at_95 = 1 - expected['recall'], 1 - expected['specificity']",
            "recall_at_95 = expected['recall']\nspecificity_at_95 = None",
        ],
        "exercise-2": [
            "def my_iou(a, b):  # no max(0, ...)\n"
            "    shared = (min(a[2], b[2]) - max(a[0], b[0])) * (min(a[3], b[3]) - max(a[1], b[1]))\n"
            "    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)",
            "def my_iou(a, b):  # what is shared is counted twice\n"
            "    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))\n"
            "    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]))",
            "my_iou = 0.5",
        ],
        "exercise-3": [
            "gains_most = int(np.argmax(gain))",
            "gains_most = gain.max()",
            "gains_most = films.findings[int(np.argmax(gain))].lower()",
        ],
        "exercise-4": [
            "recall_of_the_detector = 100 * expected_recall + 1",
            "recall_of_the_detector = 1.1 - expected_recall / 2",
            "recall_of_the_detector = expected_recall + 1 / len(is_abnormal)  # one film more",
        ],
    },
    PNEUMONIA: {
        "exercise-1": [
            "false_positives_at_50, false_positives_at_99 = 0.1, 0.9",
            "false_positives_at_50, false_positives_at_99 = -counts[0] - 1, counts[1]",
            "false_positives_at_50, false_positives_at_99 = counts[0], counts[1] + 1",
        ],
        "exercise-2": [
            "average_precision_by_hand = precision_so_far.mean()  # at every film",
            "average_precision_by_hand = network['auroc'] + 0.01",
            "average_precision_by_hand = precision_so_far[truth == 1].mean() / 2  # another order",
        ],
        "exercise-3": [
            "patients_in_both = 0.5",
            "patients_in_both = len(set(labels['patient'])) + 1",
            "patients_in_both = set(labels['patient'][by_film == TRAIN]) & set(labels['patient'][by_film == VAL])",
        ],
        "exercise-4": [
            "fall_in_the_boxes, fall_in_the_mirror = -expected[0], -expected[1]  # after minus before",
            "fall_in_the_boxes, fall_in_the_mirror = expected[0] + 0.05, expected[1]",
            "fall_in_the_boxes, fall_in_the_mirror = expected[0], None",
        ],
    },
    VGG16: {
        "exercise-1": [
            "iou_answer = overlap / areas",
            "iou_answer = overlap / np.prod(truth[0][2:] - truth[0][:2])",
            "iou_answer = 1 - overlap / (areas - overlap)",
        ],
        "exercise-2": [
            "layer_answer = untrained['difference'].idxmin() + ', the last one'",
            "layer_answer = passed.idxmax()",
            "layer_answer = passed.min()",
        ],
        "exercise-3": [
            "def variation_answer(predicted, labels):  # over edges instead of images\n"
            "    return (predicted.std(axis=1) / labels.std(axis=1)).mean()",
            "def variation_answer(predicted, labels):  # of all numbers together\n"
            "    return predicted.std() / labels.std()",
            "def variation_answer(predicted, labels):  # upside down\n"
            "    return (labels.std(axis=0) / np.maximum(predicted.std(axis=0), 1e-9)).mean()",
        ],
        "exercise-4": [
            "mse_answer = table.loc['mended', 'mse']  # with the training statistics",
            "mse_answer = ((own - truth) ** 2).mean()  # at the size of the images",
            "mse_answer = np.abs(own - truth).mean() * 224 / SIZE",
        ],
        "exercise-5": [
            "boxes_answer = predictions['published']",
            "boxes_answer = predictions['mended']",
            "boxes_answer = predict(network, val)[0]\nrecipe_answer = started",
            "boxes_answer = None",
        ],
    },
}

ALSO_RIGHT: dict[str, dict[str, list[str]]] = {
    NOTEBOOKS[0]: {
        "exercise-1": ["clipped_share = ((narrow == 0) | (narrow == 1)).sum() / narrow.size"],
        "exercise-2": ["friends_box = scale_boxes(box, frame, (512, 320)).round(1).tolist()"],
        "exercise-3": ["torn_apart = int((validates[::2] != validates[1::2]).sum())"],
        "exercise-4": [
            "joint_mean, joint_std = images[:].astype(np.float64).mean(), images[:].astype(np.float64).std()"
        ],
    },
    NOTEBOOKS[1]: {
        "exercise-2": ["mirrored_box = transform_box(box, np.array([[-1.0, 0, side], [0, 1, 0]]), 'corners')"],
        "exercise-4": [
            "my_augmentation = iaa.Sequential(\n"
            "    [iaa.Affine(scale={'x': (0.8, 1.2), 'y': (0.8, 1.2)}), iaa.GammaContrast((0.7, 1.7))]\n)"
        ],
    },
    NOTEBOOKS[2]: {
        "exercise-1": ["shifted_iou = 0.818"],
        "exercise-2": ["best_constant = np.sort(all_boxes(hearts), axis=0)[(len(hearts) - 1) // 2].tolist()"],
        "exercise-3": ["hard_bin_error = float(np.abs((true_hearts - 86 + 2) % 4 - 2).mean())"],
        "exercise-4": ["losses_by_rate = {rate: round(loss, 1) for rate, loss in reversed(losses_by_rate.items())}"],
        "exercise-5": ["best_iou = history['val_iou'].max()"],
    },
    NOTEBOOKS[3]: {
        "exercise-1": ["heart_width = round(float(np.diff(found.heart[[0, 2]])[0]))"],
        "exercise-2": [
            "blackened = np.where(np.abs(np.arange(columns) - found.heart[0]) < columns / 12, 0, xray.image)",
        ],
        "exercise-3": ["upside_down = np.flipud(xray.image)"],
        "exercise-4": ["left_with_relu = float(before[0] + contributions[0][contributions[0] > 0].sum())"],
        "exercise-5": ["moved_by_map = -moved_by_map"],
    },
    ATRIUM: {"exercise-1": ["iou_answer = dice_0 / (2 - dice_0)"]},
    CHESTXDET: {"exercise-2": ["my_iou = box_iou"]},
    PNEUMONIA: {"exercise-2": ["average_precision_by_hand = round(network['average_precision'], 5)"]},
    VGG16: {
        "exercise-1": ["iou_answer = box_iou(mean_box, truth[0])"],
        "exercise-3": [
            "def variation_answer(predicted, labels):\n"
            "    return np.mean([predicted[:, k].std() / labels[:, k].std() for k in range(4)])",
        ],
    },
}
