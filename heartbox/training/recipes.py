"""Recipes: everything that decides how a network of boxes is trained, under one name.

Knows networks, losses and measuring; takes any dataset of (image, boxes) pairs and knows nothing of how it was made.
The loop that follows a recipe is in :mod:`heartbox.training.loop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from heartbox.evaluation.metrics import all_boxes, evaluate, mean_box
from heartbox.models.build import build_model
from heartbox.models.fetch import file_sha256
from heartbox.models.weights import load_weights
from heartbox.training.device import mixed_precision
from heartbox.training.losses import box_loss, distribution_loss, mask_loss
from heartbox.training.task import ProgressiveSchedule, Task

# ---------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Recipe(ProgressiveSchedule):
    """Everything that decides how a network of boxes is trained; with what :class:`ProgressiveSchedule` has.

    Attributes
    ----------
    backbone, head, pretrained, targets
        See :func:`heartbox.models.build.build_model`.
    start : str
        A weights file of the same network to start from, such as the released one; "" for none.
    loss : {"mse", "box", "edges"}
        ``"mse"``: mean squared error in square pixels, the classic. ``"box"``: smooth L1 and 1 - IoU.
        ``"edges"``: those two and the cross-entropy of each edge's distribution.
    start_at_mean : bool
        Start the regression head's bias at the mean training box, so that it need not be learnt first.
    rule : {"ellipse", "corners", "mask"}
        How boxes are turned in augmentation, see :class:`cardiac_dataset.CardiacDataset`.
    augment : {"published", "strong"}
        How strongly training images are changed, see :func:`heartbox.augmentation.make_augmentation`.
    mask_weight : float
        Weight of the masks' loss beside that of the edges, where the training set gives masks; 0 for none.
    """

    backbone: str = "resnet18"
    head: str = "edges"
    pretrained: bool = False
    start: str = ""
    targets: tuple[str, ...] = ("heart", "thorax")
    loss: str = "edges"
    start_at_mean: bool = False
    rule: str = "ellipse"
    augment: str = "published"
    mask_weight: float = 0.0


RECIPES = {
    # As the exercise was published: MSE on raw pixels, Adam at 1e-4, 50 epochs, batches of 8, corners boxed.
    "classic": Recipe(
        head="regression",
        targets=("heart",),
        epochs=50,
        batch_size=8,
        learning_rate=1e-4,
        weight_decay=0.0,
        one_cycle=False,
        loss="mse",
        rule="corners",
    ),
    # The same network with what is good practice today.
    "sensible": Recipe(head="regression", loss="box", start_at_mean=True),
    # Distributions over columns and rows instead of four bare numbers, and what else helped
    # (benchmarks/recipe_ablation.py takes it apart).
    "edges": Recipe(
        epochs=16,
        rule="mask",
        augment="strong",
        mask_weight=1.0,
        average=0.99,
        small_size=160,
        small_share=0.6,
    ),
}


def make_model(recipe: Recipe, train: Dataset, hidden: Sequence[int] = ()) -> nn.Module:
    """Build the network of a recipe, not yet trained, for the images and boxes of a training set.

    `hidden` is that of :func:`heartbox.models.build.build_model`.

    Raises
    ------
    ValueError
        If the weights that `recipe.start` names are of another network, if no training film has a label of one of
        the targets, or if the recipe asks a head for what it cannot do.
    """
    x = train[0][0]
    model = build_model(recipe.backbone, recipe.head, recipe.pretrained, recipe.targets, x.shape[-1], hidden)
    labels = all_boxes(train)
    unknown = np.isnan(labels.reshape(len(labels), -1, 4)).all(axis=(0, 2))
    if unknown.any():
        missing = [target for target, none in zip(recipe.targets, unknown, strict=True) if none]
        raise ValueError(f"no training film has a label of the {' or the '.join(missing)}: leave it out of the targets")
    if recipe.mask_weight and not model.can_learn_masks:
        raise ValueError(f"the {recipe.head} head cannot learn from masks: set mask_weight to 0")
    if recipe.start_at_mean:
        model.start_at(torch.from_numpy(mean_box(labels)).float())
    if recipe.start:
        _start_from(model, recipe)
    if recipe.mask_weight:
        model.add_mask_head()
    return model


def _start_from(model: nn.Module, recipe: Recipe) -> None:
    learnt, config = load_weights(recipe.start)
    if (config.backbone, config.head) != (recipe.backbone, recipe.head):
        raise ValueError(
            f"{recipe.start}: weights of {config.backbone} with the {config.head} head; this recipe has "
            f"{recipe.backbone} with {recipe.head}"
        )
    if config.targets[: len(recipe.targets)] != tuple(recipe.targets):
        raise ValueError(f"{recipe.start}: knows {', '.join(config.targets)}, not {', '.join(recipe.targets)}")
    # What belongs to an edge stands first along the first axis, so a network for fewer targets takes the first ones.
    mine = model.state_dict()
    model.load_state_dict(
        {name: value[: len(mine[name])] if value.ndim else value for name, value in learnt.state_dict().items()}
    )


# ---------------------------------------------------------------- what the loop does with one


class BoxTask(Task):
    """Learn the edges of boxes, as a recipe says.

    Samples are x, (1, size, size), and boxes, (4 * targets,), in pixels; from the training set also masks,
    (targets, h, w), where the recipe learns from them and there are any. The figures of an epoch are ``val_loss``,
    and ``val_mae`` in pixels and ``val_iou`` of the first target.
    """

    score = "val_iou"

    def __init__(self, recipe: Recipe):
        self.schedule = recipe

    def settings(self) -> dict:
        """Return the recipe, with what it starts from by its content: the same file elsewhere is the same."""
        start = self.schedule.start
        return super().settings() | {"start": file_sha256(start) if start else ""}

    def labels(self, side: Dataset) -> NDArray:
        """Return all boxes."""
        return all_boxes(side)

    def loss(self, model: nn.Module, batch: Sequence[Tensor], epoch: int, device: torch.device) -> Tensor:
        """Return the recipe's loss; the first epochs may learn from shrunken images."""
        recipe, (full, boxes, *masks) = self.schedule, batch
        x = recipe.shrink(full, epoch)
        boxes = boxes * (x.shape[-1] / full.shape[-1])
        x, boxes = x.to(device, memory_format=torch.channels_last), boxes.to(device)
        features = _features(model, x)
        loss, _ = compute_loss(model, features, boxes, recipe, x.shape[-1])
        if recipe.mask_weight and masks:
            loss = loss + recipe.mask_weight * mask_loss(model.mask_head(features), masks[0])
        return loss

    def validate(self, model: nn.Module, val: Dataset, device: torch.device) -> tuple[NDArray, dict[str, float]]:
        """Return all coordinates, (N, 4 * targets), in pixels, and how good they are."""
        predicted, losses = [], []
        for x, boxes, *_ in DataLoader(val, self.schedule.batch_size):
            x, boxes = x.to(device, memory_format=torch.channels_last), boxes.to(device)
            loss, coordinates = compute_loss(model, _features(model, x), boxes, self.schedule)
            predicted.append(coordinates.cpu().numpy())
            losses += [loss.item()] * len(x)
        predicted = np.concatenate(predicted)
        measured = evaluate(predicted[:, :4], all_boxes(val)[:, :4])
        figures = {"val_loss": float(np.mean(losses)), "val_mae": measured["mae"]}
        return predicted, figures | {"val_iou": round(measured["iou_mean"], 4)}


def compute_loss(
    model: nn.Module, features: Tensor, boxes: Tensor, recipe: Recipe, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the recipe's loss and the coordinates (N, 4 * targets), from the backbone's features.

    `size` is the side of the images, where it is not the model's own.
    """
    size = size or model.size
    if recipe.loss == "edges":
        edges = model.predict_distribution(features)
        loss = distribution_loss(edges, boxes) + box_loss(edges.coordinates, boxes, size)
        return loss, edges.coordinates
    predicted = model.coordinates(features)
    if recipe.loss == "box":
        return box_loss(predicted, boxes, size), predicted
    if recipe.loss == "mse":
        known = ~boxes.isnan()
        # Nothing known: zero, with a gradient of zero.
        loss = F.mse_loss(predicted[known], boxes[known]) if known.any() else predicted.sum() * 0
        return loss, predicted
    raise ValueError(f"unknown loss {recipe.loss!r}: choose mse, box or edges")


def _features(model: nn.Module, x: Tensor) -> Tensor:
    """Run the backbone, in bfloat16 where that is faster; the head gets float32.

    A coordinate near 200 in bfloat16 is only good to a pixel, so the head never works in it.
    """
    with mixed_precision(x.device, model.training):
        features = model.features(x)
    return features.float()
