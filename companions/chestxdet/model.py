"""Both stages' networks and how they learn: a small CNN for normal or not, and a Faster R-CNN for the findings.

The loop, its checkpoints and its going on after a stop are :func:`heartbox.training.loop.fit`'s; here are the tasks.
"""

from __future__ import annotations

import dataclasses
import urllib.error
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.classification import binary_auroc
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from companions.chestxdet.metrics import average_precision, threshold_at_floor
from heartbox.models.backbones import grey_input
from heartbox.models.weights import load_weights
from heartbox.training.device import mixed_precision
from heartbox.training.loop import fit
from heartbox.training.task import Schedule, Task

HEART_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "heart-resnet18.pt"

# ---------------------------------------------------------------- stage 1: normal or not


class SmallCNN(nn.Module):
    """Blocks of convolution, normalisation, ReLU and pooling, each twice as wide; then one logit.

    Parameters
    ----------
    width : int
        Channels of the first block.
    blocks : int
        How many; each halves the image.
    dropout : float
        Share of the features that training leaves out before the last layer.
    """

    def __init__(self, width: int = 16, blocks: int = 4, dropout: float = 0.2):
        super().__init__()
        layers, channels = [], 1
        for block in range(blocks):
            wider = width * 2**block
            layers += [nn.Conv2d(channels, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
            channels = wider
        self.features = nn.Sequential(*layers)
        self.classify = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map films (N, 1, size, size) to logits (N,); above 0 is ill."""
        features = self.features(x)
        # The mean says how the film is as a whole, the maximum whether there is one conspicuous place.
        return self.classify(torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1))[:, 0]


class NormalTask(Task):
    """Learn normal or not: binary cross-entropy with logits, ill films weighted by `positive_weight`.

    The figures of an epoch are ``val_loss``, ``val_auc`` and ``val_recall``: the recall at the threshold at which the
    specificity on the validation films is at least `floor`.
    """

    score = "val_recall"

    def __init__(self, schedule: Schedule, floor: float, positive_weight: float = 1.0):
        self.schedule, self.floor, self.positive_weight = schedule, floor, positive_weight

    def settings(self) -> dict:
        """Return the schedule, the floor and the weight."""
        return super().settings() | {"floor": self.floor, "positive_weight": self.positive_weight}

    def labels(self, side: Dataset) -> NDArray:
        """Return who is ill."""
        return side.ill

    def loss(self, model: nn.Module, batch: Sequence[Tensor], epoch: int, device: torch.device) -> Tensor:
        """Return the weighted cross-entropy."""
        x, ill = (part.to(device) for part in batch)
        weight = torch.tensor(self.positive_weight, device=device)
        with mixed_precision(device):
            logits = model(x)
        return F.binary_cross_entropy_with_logits(logits.float(), ill, pos_weight=weight)

    def validate(self, model: nn.Module, val: Dataset, device: torch.device) -> tuple[NDArray, dict[str, float]]:
        """Return a score in [0, 1] for each film, and how good they are."""
        scores = score_films(model, val, device)
        ill = torch.from_numpy(val.ill)
        figures = {"val_loss": float(F.binary_cross_entropy(torch.from_numpy(scores), ill))}
        figures["val_auc"] = float(binary_auroc(torch.from_numpy(scores), ill.long()))
        return scores, figures | {"val_recall": threshold_at_floor(scores, val.ill, self.floor)["recall"]}


@torch.no_grad()
def score_films(model: nn.Module, films: Dataset, device: torch.device | str = "cpu") -> NDArray[np.float32]:
    """Return a score in [0, 1] for each film; the nearer to 1, the more likely ill."""
    model.eval()
    batches = DataLoader(films, 32)
    return torch.cat([model(x.to(device)).sigmoid().cpu() for x, _ in batches]).numpy()


def train_normal(
    settings: dict, train: Dataset, val: Dataset, folder: str | Path, epochs: int, floor: float, seed: int = 0,
    progress: bool = False,
) -> tuple[SmallCNN, NormalTask, object]:  # fmt: skip
    """Train one small CNN; return it, its task and its history.

    Its settings are those that :func:`companions.chestxdet.tuning.suggest` draws; the rest is `fit`'s.
    """
    schedule = Schedule(epochs, 16, settings["learning_rate"], settings["weight_decay"])
    task = NormalTask(schedule, floor, settings["positive_weight"])
    torch.manual_seed(seed)
    model = SmallCNN(settings["width"], settings["blocks"], settings["dropout"])
    history = fit(model, train, val, task, folder, seed=seed, progress=progress)
    return model, task, history


# ---------------------------------------------------------------- stage 2: which finding, and where


@dataclasses.dataclass(frozen=True)
class Detection(Schedule):
    """Everything that decides a detector's training; with what :class:`heartbox.training.task.Schedule` has.

    Attributes
    ----------
    backbone : {"resnet18", "resnet50"}
        ``"resnet50"``: torchvision's Faster R-CNN with ResNet50-FPN, for real data and a GPU. ``"resnet18"``: the
        same class with a lighter pyramid and fewer proposals, for a CPU.
    start : {"", "heart", "imagenet", "coco"}
        What the weights start from: nothing; the released heart weights, which know chest films (``"resnet18"``
        alone, lies in ``weights/``); ImageNet, or COCO (``"resnet50"`` alone), which torchvision fetches once.
    size : int
        Side of the images that the network works on; films of another size are resized inside it.
    """

    backbone: str = "resnet18"
    start: str = "heart"
    size: int = 224


def make_detector(recipe: Detection, classes: int, seed: int = 0) -> FasterRCNN:
    """Build a Faster R-CNN (Ren 2015) with a feature pyramid (Lin 2017) for grey films.

    Where the weights to start from cannot be had, a warning says so and the network starts from scratch; its
    attribute ``started_from`` says which it was.

    Parameters
    ----------
    recipe : Detection
        Backbone, start and size.
    classes : int
        Findings, without the background.
    seed : int
        Decides the weights that nothing brings along.

    Returns
    -------
    FasterRCNN
        Takes a list of (1, rows, columns) in [0, 1], in training also a list of ``boxes`` and ``labels``; gives its
        losses in training, else ``boxes, labels, scores`` for each film, in pixels of the film.

    Raises
    ------
    ValueError
        If backbone and start do not go together.
    """
    starts = {"resnet18": ("", "heart", "imagenet"), "resnet50": ("", "imagenet", "coco")}
    if recipe.start not in starts.get(recipe.backbone, ()):
        raise ValueError(
            f"backbone {recipe.backbone!r} cannot start from {recipe.start!r}: there is resnet18 from nothing, "
            "'heart' or 'imagenet', and resnet50 from nothing, 'imagenet' or 'coco'"
        )
    torch.manual_seed(seed)
    build = _light_detector if recipe.backbone == "resnet18" else _full_detector
    try:
        model = build(recipe, classes, recipe.start)
        model.started_from = recipe.start
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        warnings.warn(
            f"the {recipe.start} weights for {recipe.backbone} could not be had ({error}); starting from scratch "
            f"instead. Fetched weights are looked for in {torch.hub.get_dir()}/checkpoints/.",
            stacklevel=2,
        )
        torch.manual_seed(seed)
        model = build(recipe, classes, "")
        model.started_from = ""
    return model


def _full_detector(recipe: Detection, classes: int, start: str) -> FasterRCNN:
    grey = {"image_mean": [0.449], "image_std": [0.226]}  # the means over ImageNet's three colours
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights="COCO_V1" if start == "coco" else None,
        weights_backbone="IMAGENET1K_V1" if start == "imagenet" else None,
        trainable_backbone_layers=3 if start else None,  # from nothing all layers learn
        min_size=recipe.size,
        max_size=recipe.size,
        **grey,
    )
    model.backbone.body.conv1 = grey_input(model.backbone.body.conv1)
    model.roi_heads.box_predictor = FastRCNNPredictor(model.roi_heads.box_predictor.cls_score.in_features, classes + 1)
    return model


class _MixedBackbone(BackboneWithFPN):
    """A backbone that trains in bfloat16 where that is faster.

    What it gives is float32, for in three digits the heads could not tell the sides of a box to a pixel.
    """

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with mixed_precision(x.device, self.training):
            levels = super().forward(x)
        return {name: level.float() for name, level in levels.items()}


def _light_detector(recipe: Detection, classes: int, start: str) -> FasterRCNN:
    # Statistics that were learnt elsewhere stay as they are: a batch of a few films would only blur them.
    norm = FrozenBatchNorm2d if start else nn.BatchNorm2d
    body = torchvision.models.resnet18(weights="IMAGENET1K_V1" if start == "imagenet" else None, norm_layer=norm)
    body.conv1 = grey_input(body.conv1)
    mean, std = 0.449, 0.226
    if start == "heart":
        heart, config = load_weights(HEART_WEIGHTS)
        mean, std = config.mean, config.std
        stem = heart.levels[0]
        ours = (body.conv1, body.bn1, body.layer1, body.layer2, body.layer3, body.layer4)
        for mine, theirs in zip(ours, (stem[0], stem[1], stem[4], stem[5], *heart.levels[1:]), strict=True):
            mine.load_state_dict(theirs.state_dict())
    if start:
        for part in (body.conv1, body.layer1):  # edges and textures: known, and the dearest to learn anew
            part.requires_grad_(False)
    width, hidden = 64, 256
    backbone = _MixedBackbone(body, {f"layer{k}": str(k - 2) for k in (2, 3, 4)}, [128, 256, 512], width)
    scale = recipe.size / 224  # two sizes of anchors on each of the strides 8, 16, 32 and 64
    sizes = tuple(tuple(scale * side for side in pair) for pair in ((12, 18), (28, 42), (60, 84), (112, 150)))
    return FasterRCNN(
        backbone,
        min_size=recipe.size,
        max_size=recipe.size,
        image_mean=[mean],
        image_std=[std],
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 4),
        rpn_fg_iou_thresh=0.5,  # 0.7 is for photographs, where anchors of every size lie close
        rpn_pre_nms_top_n_train=400,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=128,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2),
        box_head=TwoMLPHead(width * 49, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes + 1),
        box_batch_size_per_image=64,
        box_detections_per_img=30,
        box_score_thresh=0.02,
    )


class DetectionTask(Task):
    """Learn findings and their boxes: the sum of Faster R-CNN's four losses.

    The figures of an epoch are ``val_map50``, mean average precision at IoU 0.5, and ``val_map`` over 0.5 to 0.95.
    """

    score = "val_map50"

    def __init__(self, recipe: Detection, findings: Sequence[str]):
        self.schedule, self.findings = recipe, tuple(findings)

    def settings(self) -> dict:
        """Return the recipe and the names of the classes."""
        return super().settings() | {"findings": list(self.findings)}

    @staticmethod
    def collate(samples: list) -> tuple[list, list]:
        """Make a batch of samples: lists, since each film has its own number of boxes."""
        images, targets = zip(*samples, strict=True)
        return list(images), list(targets)

    def labels(self, side: Dataset) -> NDArray:
        """Return film, class and box of every finding."""
        rows = [
            [k, label, *box]
            for k, (boxes, labels) in enumerate(side.targets)
            for box, label in zip(boxes, labels, strict=True)
        ]
        return np.array([[len(side), 0, 0, 0, 0, 0], *rows], dtype=np.float64)

    def loss(self, model: nn.Module, batch: Sequence, epoch: int, device: torch.device) -> Tensor:
        """Return the losses of proposals and of answers, class and box each."""
        images, targets = batch
        images = [image.to(device) for image in images]
        targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
        return sum(model(images, targets).values())

    def validate(self, model: nn.Module, val: Dataset, device: torch.device) -> tuple[list, dict[str, float]]:
        """Return the answers for each film, and their mean average precision."""
        answers = find(model, val, device)
        measured = average_precision(answers, [val.truth(i) for i in range(len(val))], self.findings)
        return answers, {"val_map50": measured.map(0.5), "val_map": measured.map()}


@torch.no_grad()
def find(model: nn.Module, films: Dataset, device: torch.device | str = "cpu") -> list[dict[str, Tensor]]:
    """Answer every film: a dict of ``boxes`` (n, 4), ``labels`` (n,) and ``scores`` (n,), the best first."""
    model.eval()
    answers = []
    for first in range(0, len(films), 8):
        images = [torch.from_numpy(films.raw(i))[None].to(device) for i in range(first, min(first + 8, len(films)))]
        answers += [{name: value.cpu() for name, value in answer.items()} for answer in model(images)]
    return answers
