"""How good predicted boxes are compared with the mean box, and how much of the images each layer still carries.

Knows networks, boxes and datasets; no training and no drawing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cardiac_dataset import CardiacDataset
from heartbox.evaluation.metrics import all_boxes, evaluate, mean_box, skill_over
from heartbox.models.heads import BoxNet

REPORTED_SIZE = 224  # errors are given in pixels of an image with this side, whatever the network sees


def at_224(boxes: NDArray, size: int) -> NDArray[np.float64]:
    """Scale boxes, (N, 4), from an image with a side of `size` pixels to one of 224."""
    return np.asarray(boxes, dtype=np.float64) * (REPORTED_SIZE / size)


def compare(predictions: Mapping[str, NDArray], train: CardiacDataset, val: CardiacDataset) -> pd.DataFrame:
    """Measure predictions for the validation images beside the mean training box.

    Parameters
    ----------
    predictions : mapping
        For each name the predicted boxes, (N, 4), in pixels of the images.
    train, val : CardiacDataset
        The two splits.

    Returns
    -------
    DataFrame
        A row for the mean box and for each of `predictions`: ``mae`` in pixels at 224 and ``mse`` in square pixels;
        ``skill``, 1 - mae / mae of the mean box; ``iou_mean``, ``iou_worst``; and ``variation``, see
        :func:`variation`.
    """
    size = val.stats.size
    truth = at_224(all_boxes(val), size)
    baseline = np.tile(mean_box(all_boxes(train)), (len(val), 1))
    rows = {}
    for name, boxes in {"mean box": baseline, **predictions}.items():
        predicted = at_224(boxes, size)
        measured = evaluate(predicted, truth)
        if name == "mean box":
            measured_baseline = measured
        row = {key: measured[key] for key in ("images", "mae", "mse", "iou_mean", "iou_worst")}
        rows[name] = row | {"skill": skill_over(measured, measured_baseline), "variation": variation(predicted, truth)}
    columns = ["images", "mae", "skill", "mse", "iou_mean", "iou_worst", "variation"]
    return pd.DataFrame.from_dict(rows, orient="index")[columns].astype({"images": int})


def variation(predicted: NDArray, truth: NDArray) -> float:
    """Return how much predictions vary from image to image, as a fraction of how much the labels do.

    It is the standard deviation over the images divided by that of the labels, averaged over the four edges. 0 means
    the same answer for every image. About 1 means answers as varied as the labels, which does not make them right.
    """
    return float((predicted.std(axis=0) / truth.std(axis=0)).mean())


# ---------------------------------------------------------------- what the layers still carry


@torch.no_grad()
def difference_by_layer(model: BoxNet, x: Tensor) -> pd.DataFrame:
    """Measure, for each layer of a VGG16, how much images differ and in how many independent directions.

    If the difference is near 0, the layer responds the same way to every image, and so does everything after it. With
    a single direction the layer carries one number per image: the four edges can then only move together.

    Parameters
    ----------
    model : BoxNet
        A network on a VGG16 backbone; in evaluation mode afterwards.
    x : Tensor, shape (N, 1, size, size)
        Several images, normalised.

    Returns
    -------
    DataFrame
        A row for the image, the five blocks of convolutions, what follows them, and the coordinates; columns
        ``difference`` and ``directions``, see :func:`measure_difference`.
    """
    rows, handles = {"image": measure_difference(x)}, []
    device = next(model.parameters()).device
    for name, module in _layers_to_watch(model):
        handles.append(_watch(module, name, rows))
    try:
        rows["coordinates"] = measure_difference(model.eval()(x.to(device)))
    finally:
        for handle in handles:
            handle.remove()
    return pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "directions"])


def _layers_to_watch(model: BoxNet) -> list[tuple[str, nn.Module]]:
    """Return the end of each block of convolutions, and what the head has before the coordinates."""
    pools = [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    layers = [(f"block {number}", module) for number, module in enumerate(pools, start=1)]
    if model.head_name == "edges":
        return [*layers, ("pyramid", model.smooth)]
    linear = [module for module in model.regress if isinstance(module, nn.Linear)][:-1]
    return layers + [(f"fc {number}: {module.out_features}", module) for number, module in enumerate(linear, start=1)]


def _watch(module: nn.Module, name: str, rows: dict[str, tuple[float, float]]) -> RemovableHandle:
    """Measure the output of a layer as the next layer sees it: VGG16 has a ReLU after every layer but the last."""

    def measure(_: nn.Module, __: tuple, output: Tensor) -> None:
        rows[name] = measure_difference(output.clamp_min(0))  # a copy, because the ReLU works in place

    return module.register_forward_hook(measure)


def measure_difference(values: Tensor | NDArray) -> tuple[float, float]:
    """Measure how much images differ, and in how many directions.

    Parameters
    ----------
    values : Tensor or ndarray, shape (N, ...)
        One row per image.

    Returns
    -------
    tuple of float
        The standard deviation over the images (root mean square over the units) as a fraction of the root mean square
        of all values; and the participation ratio, the number of independent directions in which the images differ:
        (sum of the covariance's eigenvalues)^2 / sum of their squares, 1 if all images lie on one line. Both are 0 if
        nothing differs.
    """
    values = torch.as_tensor(values).flatten(1).cpu().double()  # Apple's MPS has no double precision
    centred = values - values.mean(dim=0)
    # The small matrix, images by images, has the same nonzero eigenvalues as the covariance, units by units.
    products = centred @ centred.T
    total = products.trace()
    if not total > 0:
        return 0.0, 0.0
    share = (total / values.square().sum()).sqrt()
    return float(share), float(total**2 / products.square().sum())


def first_images(dataset: CardiacDataset, count: int = 16) -> Tensor:
    """Return the first images of a dataset as one batch, (count, 1, size, size)."""
    return torch.stack([dataset[i][0] for i in range(min(count, len(dataset)))])
