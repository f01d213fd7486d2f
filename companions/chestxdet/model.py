"""The networks of both stages and their tasks: a small CNN for normal or abnormal, a Faster R-CNN for the findings.

Knows networks and datasets; the loop with its checkpoints is :func:`heartbox.training.loop.fit`.
"""

from __future__ import annotations

import dataclasses
import urllib.error
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from companions.chestxdet.metrics import average_precision, threshold_at_floor
from companions.pneumonia.metrics import auroc
from heartbox.models.backbones import grey_input
from heartbox.models.weights import load_weights, released_weights
from heartbox.training.device import mixed_precision
from heartbox.training.loop import fit
from heartbox.training.task import Schedule, Task

# ---------------------------------------------------------------- stage 1: normal or abnormal


class SmallCNN(nn.Module):
    """Blocks of convolution, batch normalisation, ReLU and pooling, each twice as wide as the last; then one logit.

    Parameters
    ----------
    width : int
        Channels of the first block.
    blocks : int
        Number of blocks; each halves the image.
    dropout : float
        Share of the features that are dropped in training before the last layer.
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
        """Map films (N, 1, size, size) to logits (N,); above 0 is abnormal."""
        features = self.features(x)
        # The mean describes the film as a whole, the maximum its most conspicuous place.
        return self.classify(torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1))[:, 0]


class AbnormalityTask(Task):
    """Learn normal or abnormal: binary cross-entropy of logits, with abnormal films weighted by `positive_weight`.

    The figures of an epoch are ``val_loss``, ``val_auc`` and ``val_recall``: the recall at the threshold at which the
    specificity on the validation films is at least `floor`.
    """

    score = "val_recall"

    def __init__(self, schedule: Schedule, floor: float, positive_weight: float = 1.0):
        self.schedule, self.floor, self.positive_weight = schedule, floor, positive_weight

    def settings(self) -> dict:
        """Return the schedule, the floor and the weight."""
        return super().settings() | {"floor": self.floor, "positive_weight": self.positive_weight}

    def labels(self, films: Dataset) -> NDArray:
        """Return which films are abnormal."""
        return films.abnormal

    def loss(self, model: nn.Module, batch: Sequence[Tensor], epoch: int, device: torch.device) -> Tensor:
        """Return the weighted cross-entropy."""
        x, abnormal = (part.to(device) for part in batch)
        weight = torch.tensor(self.positive_weight, device=device)
        with mixed_precision(device):
            logits = model(x)
        return F.binary_cross_entropy_with_logits(logits.float(), abnormal, pos_weight=weight)

    def validate(self, model: nn.Module, val: Dataset, device: torch.device) -> tuple[NDArray, dict[str, float]]:
        """Return a score in [0, 1] for each film, and how good they are."""
        scores = predict_scores(model, val, device)
        loss = F.binary_cross_entropy(torch.from_numpy(scores), torch.from_numpy(val.abnormal))
        figures = {"val_loss": float(loss), "val_auc": auroc(val.abnormal, scores)}
        return scores, figures | {"val_recall": threshold_at_floor(scores, val.abnormal, self.floor)["recall"]}


@torch.no_grad()
def predict_scores(model: nn.Module, films: Dataset, device: torch.device | str = "cpu") -> NDArray[np.float32]:
    """Return a score in [0, 1] for each film; the nearer to 1, the more likely abnormal."""
    model.eval()
    batches = DataLoader(films, 32)
    return torch.cat([model(x.to(device)).sigmoid().cpu() for x, _ in batches]).numpy()


def train_small_cnn(
    settings: dict, train: Dataset, val: Dataset, folder: str | Path, epochs: int, floor: float, seed: int = 0,
    progress: bool = False,
) -> tuple[SmallCNN, AbnormalityTask, pd.DataFrame]:  # fmt: skip
    """Train one small CNN; return it, its task and its history.

    Its settings are those drawn by :func:`companions.chestxdet.tuning.suggest`; the other parameters are those of
    :func:`heartbox.training.loop.fit`.
    """
    schedule = Schedule(epochs, 16, settings["learning_rate"], settings["weight_decay"])
    task = AbnormalityTask(schedule, floor, settings["positive_weight"])
    torch.manual_seed(seed)
    model = SmallCNN(settings["width"], settings["blocks"], settings["dropout"])
    history = fit(model, train, val, task, folder, seed=seed, progress=progress)
    return model, task, history


# ---------------------------------------------------------------- stage 2: which finding, and where


@dataclasses.dataclass(frozen=True)
class DetectionRecipe(Schedule):
    """Everything that decides how a detector is trained.

    Attributes
    ----------
    backbone : {"resnet18", "resnet50"}
        ``"resnet50"``: torchvision's Faster R-CNN with ResNet50-FPN, for real data and a GPU. ``"resnet18"``: the
        same class with a lighter pyramid and fewer proposals, for a CPU.
    start : {"", "heart", "imagenet", "coco"}
        Initial weights: random; the released heart weights, which know chest films (``"resnet18"`` only); ImageNet;
        or COCO (``"resnet50"`` only). torchvision downloads the last two once.
    size : int
        Side of the images on which the network works, in pixels; films of another size are resized inside it.
    """

    backbone: str = "resnet18"
    start: str = "heart"
    size: int = 224


def make_detector(recipe: DetectionRecipe, classes: int, seed: int = 0) -> FasterRCNN:
    """Build a Faster R-CNN (Ren 2015) with a feature pyramid (Lin 2017) for grey films.

    If the initial weights are not available, a warning says so and the network starts from random weights; its
    attribute ``started_from`` says which it was.

    Parameters
    ----------
    recipe : DetectionRecipe
        Backbone, start and size.
    classes : int
        Number of findings, without the background.
    seed : int
        Decides the random weights.

    Returns
    -------
    FasterRCNN
        Takes a list of (1, rows, columns) in [0, 1], in training also a list of ``boxes`` and ``labels``; returns its
        losses in training, else ``boxes, labels, scores`` for each film, in pixels of the film.

    Raises
    ------
    ValueError
        If backbone and start do not fit together.
    """
    starts = {"resnet18": ("", "heart", "imagenet"), "resnet50": ("", "imagenet", "coco")}
    if recipe.start not in starts.get(recipe.backbone, ()):
        raise ValueError(
            f"backbone {recipe.backbone!r} cannot start from {recipe.start!r}: choose '', 'heart' or 'imagenet' for "
            "resnet18, and '', 'imagenet' or 'coco' for resnet50"
        )
    torch.manual_seed(seed)
    build = _light_detector if recipe.backbone == "resnet18" else _full_detector
    try:
        model = build(recipe, classes, recipe.start)
        model.started_from = recipe.start
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        warnings.warn(
            f"the {recipe.start} weights for {recipe.backbone} are not available ({error}); starting from random "
            f"weights instead. Downloaded weights are looked for in {torch.hub.get_dir()}/checkpoints/.",
            stacklevel=2,
        )
        torch.manual_seed(seed)
        model = build(recipe, classes, "")
        model.started_from = ""
    return model


def _full_detector(recipe: DetectionRecipe, classes: int, start: str) -> FasterRCNN:
    grey = {"image_mean": [0.449], "image_std": [0.226]}  # means over ImageNet's three colours
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights="COCO_V1" if start == "coco" else None,
        weights_backbone="IMAGENET1K_V1" if start == "imagenet" else None,
        trainable_backbone_layers=3 if start else None,  # from random weights all layers learn
        min_size=recipe.size,
        max_size=recipe.size,
        **grey,
    )
    model.backbone.body.conv1 = grey_input(model.backbone.body.conv1)
    model.roi_heads.box_predictor = FastRCNNPredictor(model.roi_heads.box_predictor.cls_score.in_features, classes + 1)
    return model


class _MixedBackbone(BackboneWithFPN):
    """A backbone that trains in bfloat16 where that is faster.

    Its output is float32: three significant digits would not place the sides of a box to a pixel.
    """

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with mixed_precision(x.device, self.training):
            levels = super().forward(x)
        return {name: level.float() for name, level in levels.items()}


def _light_detector(recipe: DetectionRecipe, classes: int, start: str) -> FasterRCNN:
    # Batch statistics learnt elsewhere stay as they are: batches of a few films would only blur them.
    norm = FrozenBatchNorm2d if start else nn.BatchNorm2d
    body = torchvision.models.resnet18(weights="IMAGENET1K_V1" if start == "imagenet" else None, norm_layer=norm)
    body.conv1 = grey_input(body.conv1)
    mean, std = 0.449, 0.226
    if start == "heart":
        heart, config = load_weights(released_weights())
        mean, std = config.mean, config.std
        stem = heart.levels[0]
        own_parts = (body.conv1, body.bn1, body.layer1, body.layer2, body.layer3, body.layer4)
        for own, layer in zip(own_parts, (stem[0], stem[1], stem[4], stem[5], *heart.levels[1:]), strict=True):
            own.load_state_dict(layer.state_dict())
    if start:
        for part in (body.conv1, body.layer1):  # edges and textures: known already, and the most expensive to train
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
        rpn_fg_iou_thresh=0.5,  # 0.7 is meant for photographs, with denser anchors
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

    def __init__(self, recipe: DetectionRecipe, findings: Sequence[str]):
        self.schedule, self.findings = recipe, tuple(findings)

    def settings(self) -> dict:
        """Return the recipe and the names of the classes."""
        return super().settings() | {"findings": list(self.findings)}

    @staticmethod
    def collate(samples: list) -> tuple[list, list]:
        """Make a batch of samples: lists, because each film has its own number of boxes."""
        images, targets = zip(*samples, strict=True)
        return list(images), list(targets)

    def labels(self, films: Dataset) -> NDArray:
        """Return the number of films, and film, class and box of every finding."""
        rows = [
            [k, label, *box]
            for k, (boxes, labels) in enumerate(films.targets)
            for box, label in zip(boxes, labels, strict=True)
        ]
        return np.array([[len(films), 0, 0, 0, 0, 0], *rows], dtype=np.float64)

    def loss(self, model: nn.Module, batch: Sequence, epoch: int, device: torch.device) -> Tensor:
        """Return the sum of the losses of proposals and detections, for class and box each."""
        images, targets = batch
        images = [image.to(device) for image in images]
        targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
        return sum(model(images, targets).values())

    def validate(self, model: nn.Module, val: Dataset, device: torch.device) -> tuple[list, dict[str, float]]:
        """Return the answers for each film, and their mean average precision."""
        answers = detect_findings(model, val, device)
        measured = average_precision(answers, val.truths(), self.findings)
        return answers, {"val_map50": measured.map(0.5), "val_map": measured.map()}


@torch.no_grad()
def detect_findings(model: nn.Module, films: Dataset, device: torch.device | str = "cpu") -> list[dict[str, Tensor]]:
    """Detect the findings of each film: a dict of ``boxes`` (n, 4), ``labels`` (n,) and ``scores`` (n,), best first."""
    model.eval()
    answers = []
    for first in range(0, len(films), 8):
        images = [torch.from_numpy(films.raw(i))[None].to(device) for i in range(first, min(first + 8, len(films)))]
        answers += [{name: value.cpu() for name, value in answer.items()} for answer in model(images)]
    return answers
