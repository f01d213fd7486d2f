"""Predictions over a dataset, and their errors beside those of the constant baseline, which ignores the image.

Takes any dataset of (image, boxes) pairs. Knows networks and boxes; not how the data was made or the network trained.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from heartbox.boxes import EDGES, HEART, THORAX, as_boxes, box_iou, cardiothoracic_ratio, has_thorax
from heartbox.models.heads import BoxNet
from heartbox.utils.atomic import complete_or_absent


@runtime_checkable
class HasBoxes(Protocol):
    """A dataset that has all its labels at hand, (N, 4 * targets), as :class:`cardiac_dataset.CardiacDataset` does."""

    boxes: NDArray


def all_boxes(dataset: Dataset) -> NDArray[np.float64]:
    """Return the labels of a whole dataset, (N, 4 * targets), in its order and without augmentation."""
    if isinstance(dataset, HasBoxes):
        boxes = dataset.boxes
    else:
        boxes = np.stack([np.asarray(dataset[i][1]) for i in range(len(dataset))])
    return np.asarray(boxes, dtype=np.float64).reshape(len(dataset), -1)


def mean_box(boxes: NDArray) -> NDArray[np.float64]:
    """Average boxes, (N, 4 * targets) -> (4 * targets,): the constant baseline, the same answer for every image."""
    return np.nanmean(boxes, axis=0)


@torch.no_grad()
def predict(model: BoxNet, dataset: Dataset, batch_size: int = 16) -> tuple[NDArray, NDArray | None]:
    """Run a network over a dataset.

    Returns
    -------
    tuple
        Coordinates, (N, 4 * targets), in pixels, and the standard deviation of each edge's distribution in the same
        shape; the second is None for a head without distributions.
    """
    model.eval()
    device = next(model.parameters()).device
    coordinates, deviations = [], []
    for x, *_ in DataLoader(dataset, batch_size):
        predicted, std = model.coordinates_and_std(model.features(x.to(device)))
        coordinates.append(predicted.cpu().numpy())
        if std is not None:
            deviations.append(std.cpu().numpy())
    return np.concatenate(coordinates), np.concatenate(deviations) if deviations else None


def evaluate(predicted: NDArray, truth: NDArray) -> dict:
    """Measure predicted boxes against labels.

    Parameters
    ----------
    predicted, truth : ndarray, shape (N, 4) or (N, 8)
        Heart boxes in pixels, followed by the thorax boxes where there are any.

    Returns
    -------
    dict
        ``images``; ``mae_x_min`` ... ``mae_y_max`` and their mean ``mae`` in pixels; ``mse`` in square pixels;
        ``iou_mean``, ``iou_median``, ``iou_worst``; the shares ``iou_above_0.50`` and ``iou_above_0.75``; and,
        with a thorax, ``thorax_mae`` in pixels and ``ctr_mae``, the error of the cardiothoracic ratio.
    """
    heart, true_heart = as_boxes(predicted[:, HEART]), as_boxes(truth[:, HEART])
    error = heart - true_heart
    iou = box_iou(heart, true_heart)
    measured = {"images": len(heart)}
    measured |= {f"mae_{edge}": float(e) for edge, e in zip(EDGES, np.abs(error).mean(axis=0), strict=True)}
    measured |= {
        "mae": float(np.abs(error).mean()),
        "mse": float(np.square(error).mean()),
        "iou_mean": float(iou.mean()),
        "iou_median": float(np.median(iou)),
        "iou_worst": float(iou.min()),
        "iou_above_0.50": float((iou > 0.5).mean()),
        "iou_above_0.75": float((iou > 0.75).mean()),
    }
    if has_thorax(predicted) and has_thorax(truth) and not np.isnan(truth[:, THORAX]).all():
        # A thorax without a width has no ratio. It counts as an error of the whole ratio and is not left out.
        ratio = np.nan_to_num(cardiothoracic_ratio(heart, predicted[:, THORAX]))
        true_ratio = cardiothoracic_ratio(true_heart, truth[:, THORAX])
        measured["thorax_mae"] = float(np.nanmean(np.abs(predicted[:, THORAX] - truth[:, THORAX])))
        measured["ctr_mae"] = float(np.nanmean(np.abs(ratio - true_ratio)))
    return measured


def skill_over(measured: dict, baseline: dict) -> float:
    """Return the share of the baseline's error that is gone: 0 for none of it, 1 for all; NaN if it has no error."""
    return 1 - measured["mae"] / baseline["mae"] if baseline["mae"] > 0 else math.nan


def write_metrics(path: str | Path, metrics: dict) -> None:
    """Write measured figures as JSON; NaN and infinite values become null."""
    clean = json.loads(json.dumps(metrics), parse_constant=lambda _: None)
    with complete_or_absent(path) as part:
        part.write_text(json.dumps(clean, indent=2, allow_nan=False) + "\n", encoding="utf-8")
