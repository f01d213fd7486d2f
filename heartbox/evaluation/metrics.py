"""Measuring: predictions over a dataset, errors beside the mean box, doubtful labels.

Knows networks and boxes; takes any dataset of (image, boxes) pairs and knows nothing of how it was made or of how
the network was trained.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from heartbox.boxes import EDGES, as_boxes, box_iou, cardiothoracic_ratio
from heartbox.models.heads import BoxNet
from heartbox.utils.atomic import complete_or_absent


def all_boxes(dataset: Dataset) -> NDArray[np.float64]:
    """Return the labels of a whole dataset, (N, 4 * targets), without augmentation and in its order."""
    boxes = getattr(dataset, "boxes", None)
    if boxes is None:
        boxes = np.stack([np.asarray(dataset[i][1]) for i in range(len(dataset))])
    return np.asarray(boxes, dtype=np.float64).reshape(len(dataset), -1)


def mean_box(boxes: NDArray) -> NDArray[np.float64]:
    """Average boxes (N, 4 * targets) -> (4 * targets,): the answer of one who never looks at the image."""
    return np.nanmean(boxes, axis=0)


@torch.no_grad()
def predict(model: BoxNet, dataset: Dataset, batch_size: int = 16) -> tuple[NDArray, NDArray | None]:
    """Run a model over a dataset.

    Returns
    -------
    tuple
        Coordinates (N, 4 * targets) in pixels, and the standard deviation of each edge's distribution in the same
        shape; None for a head without distributions.
    """
    model.eval()
    device = next(model.parameters()).device
    coordinates, deviations = [], []
    for x, *_ in DataLoader(dataset, batch_size):
        features = model.features(x.to(device))
        found, std = model.coordinates_and_std(features)
        coordinates.append(found.cpu().numpy())
        if std is not None:
            deviations.append(std.cpu().numpy())
    return np.concatenate(coordinates), np.concatenate(deviations) if deviations else None


def evaluate(predicted: NDArray, truth: NDArray) -> dict:
    """Measure predicted boxes against labels.

    Parameters
    ----------
    predicted, truth : ndarray, shape (N, 4) or (N, 8)
        Heart boxes in pixels, with the thorax boxes behind them where there are any.

    Returns
    -------
    dict
        ``images``; ``mae_x_min`` ... ``mae_y_max`` and their mean ``mae`` in pixels; ``mse`` in square pixels;
        ``iou_mean``, ``iou_median``, ``iou_worst``; the shares ``iou_above_0.50`` and ``iou_above_0.75``; and,
        with a thorax, ``thorax_mae`` in pixels and ``ctr_mae``, the error of the cardiothoracic ratio.
    """
    heart, true_heart = as_boxes(predicted[:, :4]), as_boxes(truth[:, :4])
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
    if predicted.shape[1] == 8 and truth.shape[1] == 8 and not np.isnan(truth[:, 4:]).all():
        # A chest without a width gives no ratio. That is an error as large as the ratio, not a film to leave out.
        ratio = np.nan_to_num(cardiothoracic_ratio(heart, predicted[:, 4:]))
        true_ratio = cardiothoracic_ratio(true_heart, truth[:, 4:])
        measured["thorax_mae"] = float(np.nanmean(np.abs(predicted[:, 4:] - truth[:, 4:])))
        measured["ctr_mae"] = float(np.nanmean(np.abs(ratio - true_ratio)))
    return measured


def skill_over(measured: dict, baseline: dict) -> float:
    """Return how much of the baseline's error is gone: 0 for none of it, 1 for all; NaN if the baseline has none."""
    return 1 - measured["mae"] / baseline["mae"] if baseline["mae"] > 0 else math.nan


def write_metrics(path: str | Path, metrics: dict) -> None:
    """Write measured figures as json; a figure that is not a number becomes null."""
    clean = json.loads(json.dumps(metrics), parse_constant=lambda _: None)
    with complete_or_absent(path) as part:
        part.write_text(json.dumps(clean, indent=2, allow_nan=False) + "\n", encoding="utf-8")
