"""Recipes, which decide under one name how a network that finds boxes is trained; and the task of training it.

Takes any dataset of (image, boxes) pairs. Knows networks, losses and metrics; not how the data was made.
:mod:`heartbox.training.loop` trains by a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from heartbox.boxes import EDGES_PER_BOX, HEART
from heartbox.evaluation.metrics import all_boxes, evaluate, mean_box
from heartbox.models.build import build_model
from heartbox.models.fetch import file_sha256
from heartbox.models.heads import BoxNet
from heartbox.models.weights import load_weights
from heartbox.training.device import mixed_precision
from heartbox.training.losses import box_loss, distribution_loss, mask_loss, mse_loss
from heartbox.training.task import ProgressiveSchedule, Task

# ---------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Recipe(ProgressiveSchedule):
    """Everything that decides how a network that finds boxes is trained, besides its :class:`ProgressiveSchedule`.

    Attributes
    ----------
    backbone, head, pretrained, targets
        See :func:`heartbox.models.build.build_model`.
    start : str
        A weights file of the same kind of network to start from, such as the released one; "" for none.
    loss : {"mse", "box", "edges"}
        ``"mse"``: mean squared error in square pixels, the classic loss. ``"box"``: smooth L1 plus 1 - IoU.
        ``"edges"``: these two plus the cross-entropy of each edge's distribution.
    start_at_mean : bool
        Whether the regression head's bias starts at the mean training box, which then need not be learnt first.
    rule : {"ellipse", "corners", "mask"}
        How boxes are rotated in augmentation, see :class:`cardiac_dataset.CardiacDataset`.
    augment : {"published", "strong", "ward"}
        How strongly training images are changed, see :func:`cardiac_dataset.make_augmentation`.
    mask_weight : float
        Weight of the auxiliary mask loss, where the training set has masks; 0 for none.
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
    # As the exercise was published: MSE in pixels, Adam at 1e-4, 50 epochs, batches of 8, boxes rotated by corners.
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
    # The same network with today's good practice.
    "sensible": Recipe(head="regression", loss="box", start_at_mean=True),
    # Distributions over columns and rows instead of bare numbers, and what else helped
    # (benchmarks/recipe_ablation.py measures what each ingredient brings).
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


def make_model(recipe: Recipe, train: Dataset, hidden: Sequence[int] = ()) -> BoxNet:
    """Build the untrained network of a recipe for the images and boxes of a training set.

    `hidden` is that of :func:`heartbox.models.build.build_model`.

    Raises
    ------
    ValueError
        If `recipe.start` names weights of another kind of network, if no training film has a label of one of the
        targets, or if the head cannot do what the recipe asks for.
    """
    x = train[0][0]
    model = build_model(recipe.backbone, recipe.head, recipe.pretrained, recipe.targets, x.shape[-1], hidden)
    labels = all_boxes(train)
    unknown = np.isnan(labels.reshape(len(labels), -1, EDGES_PER_BOX)).all(axis=(0, 2))
    if unknown.any():
        missing = [target for target, never in zip(recipe.targets, unknown, strict=True) if never]
        raise ValueError(f"no training film has a label of the {' or the '.join(missing)}: leave it out of the targets")
    if recipe.start_at_mean:
        model.start_at(torch.from_numpy(mean_box(labels)).float())
    if recipe.start:
        load_start(model, recipe)
    if recipe.mask_weight:
        model.add_mask_head()
    return model


def load_start(model: BoxNet, recipe: Recipe) -> None:
    """Copy the weights that a recipe starts from into its network.

    Raises
    ------
    ValueError
        If they are of another kind of network, or do not know the recipe's targets.
    """
    trained, config = load_weights(recipe.start)
    if (config.backbone, config.head) != (recipe.backbone, recipe.head):
        raise ValueError(
            f"{recipe.start}: weights of {config.backbone} with the {config.head} head; this recipe has "
            f"{recipe.backbone} with {recipe.head}"
        )
    if config.targets[: len(recipe.targets)] != tuple(recipe.targets):
        raise ValueError(f"{recipe.start}: knows {', '.join(config.targets)}, not {', '.join(recipe.targets)}")
    # The first axis of a head's weights runs over the edges, so a network for fewer targets takes the first ones. An
    # orientation head is left out: it belongs to features that training changes.
    own, others = model.state_dict(), trained.state_dict()
    model.load_state_dict({name: others[name][: len(own[name])] if own[name].ndim else others[name] for name in own})


# ---------------------------------------------------------------- the task


class BoxTask(Task):
    """Learn the edges of boxes by a recipe.

    A sample is x, (1, size, size), and boxes, (4 * targets,), in pixels; from the training set also masks,
    (targets, h, w), where the recipe learns from masks and there are any. The figures of an epoch are ``val_loss``,
    and ``val_mae`` in pixels and ``val_iou`` of the first target.
    """

    score = "val_iou"

    def __init__(self, recipe: Recipe):
        self.schedule = recipe

    def settings(self) -> dict:
        """Return the recipe; the weights it starts from count by their content, wherever the file is."""
        start = self.schedule.start
        return super().settings() | {"start": file_sha256(start) if start else ""}

    def labels(self, dataset: Dataset) -> NDArray:
        """Return all boxes."""
        return all_boxes(dataset)

    def loss(self, model: BoxNet, batch: Sequence[Tensor], epoch: int, device: torch.device) -> Tensor:
        """Return the recipe's loss of a batch; the first epochs may use smaller images."""
        recipe, (full, boxes, *masks) = self.schedule, batch
        x = recipe.shrink(full, epoch)
        boxes = boxes * (x.shape[-1] / full.shape[-1])
        x, boxes = x.to(device, memory_format=torch.channels_last), boxes.to(device)
        features = compute_features(model, x)
        loss, _ = compute_loss(model, features, boxes, recipe, x.shape[-1])
        if recipe.mask_weight and masks:
            loss = loss + recipe.mask_weight * mask_loss(model.mask_head(features), masks[0])
        return loss

    def validate(self, model: BoxNet, val: Dataset, device: torch.device) -> tuple[NDArray, dict[str, float]]:
        """Return all coordinates, (N, 4 * targets), in pixels, and the epoch's figures."""
        predicted, losses = [], []
        for x, boxes, *_ in DataLoader(val, self.schedule.batch_size):
            x, boxes = x.to(device, memory_format=torch.channels_last), boxes.to(device)
            loss, coordinates = compute_loss(model, compute_features(model, x), boxes, self.schedule)
            predicted.append(coordinates.cpu().numpy())
            losses += [loss.item()] * len(x)
        predicted = np.concatenate(predicted)
        measured = evaluate(predicted[:, HEART], all_boxes(val)[:, HEART])
        figures = {"val_loss": float(np.mean(losses)), "val_mae": measured["mae"]}
        return predicted, figures | {"val_iou": round(measured["iou_mean"], 4)}


def compute_features(model: BoxNet, x: Tensor) -> Tensor:
    """Run the backbone, in bfloat16 where that is faster, and return float32.

    The head always works in float32: in bfloat16 a coordinate near 200 would be accurate to one pixel only.
    """
    with mixed_precision(x.device, model.training):
        features = model.features(x)
    return features.float()


def compute_loss(
    model: BoxNet, features: Tensor, boxes: Tensor, recipe: Recipe, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the recipe's loss and the coordinates, (N, 4 * targets), in pixels.

    Parameters
    ----------
    model : BoxNet
        The network.
    features : Tensor, shape (N, C, h, w)
        From :func:`compute_features`.
    boxes : Tensor, shape (N, 4 * targets)
        Labels in pixels; NaN where unknown.
    recipe : Recipe
        Names the loss.
    size : int, optional
        Side of the images in pixels, if it is not the network's own.

    Raises
    ------
    ValueError
        If the loss is unknown, or needs distributions that the head does not have.
    """
    size = size or model.size
    distributions = model.predict_distribution(features)
    predicted = model.coordinates(features) if distributions is None else distributions.coordinates
    if recipe.loss == "edges":
        if distributions is None:
            raise ValueError(f"the {model.head_name} head has no distributions for the loss 'edges': choose mse or box")
        return distribution_loss(distributions, boxes) + box_loss(predicted, boxes, size), predicted
    if recipe.loss == "box":
        return box_loss(predicted, boxes, size), predicted
    if recipe.loss == "mse":
        return mse_loss(predicted, boxes), predicted
    raise ValueError(f"unknown loss {recipe.loss!r}: choose mse, box or edges")
