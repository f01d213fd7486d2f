"""How good a segmentation of the atrium is: overlap, surface distance in mm, volume in mL, and the baseline to beat.

Knows masks and numbers; no networks. Overlap and distances are MONAI's (Project MONAI, Apache-2.0).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from companions.atrium.data import AtriumVolume

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI's progress bars ask for notebook widgets, which nothing here needs
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance


def dice(predicted: NDArray, truth: NDArray) -> float:
    """Return the Dice coefficient of two masks of the same shape, 2 |A and B| / (|A| + |B|); 1 if both are empty."""
    return float(compute_dice(_batch_of_one(predicted), _batch_of_one(truth), ignore_empty=False))


def _batch_of_one(mask: NDArray) -> Tensor:
    """Return a mask as MONAI takes it: one volume, one channel."""
    return torch.from_numpy(np.asarray(mask, dtype=np.float32))[None, None]


def surface_distances(predicted: NDArray, truth: NDArray, spacing: Sequence[float]) -> tuple[float, float]:
    """Measure the distance between the surfaces of two masks, in mm.

    Parameters
    ----------
    predicted, truth : ndarray of bool, shape (slices, rows, columns)
        The surface of a mask consists of its voxels that touch the outside.
    spacing : sequence of float
        Millimetres between voxels along each axis; the axes usually differ.

    Returns
    -------
    hausdorff95 : float
        The 95th percentile of the distances from one surface to the other, the larger of the two directions. The
        plain Hausdorff distance depends on the single worst voxel.
    mean : float
        The average distance from each surface to the other.
        Both are infinite if exactly one mask is empty, and 0 if both are.
    """
    if not np.any(predicted) or not np.any(truth):
        return (0.0, 0.0) if np.any(predicted) == np.any(truth) else (np.inf, np.inf)
    masks = _batch_of_one(predicted), _batch_of_one(truth)
    options = {"include_background": True, "spacing": tuple(spacing)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of an argument that it passes on itself
        hausdorff95 = compute_hausdorff_distance(*masks, percentile=95, **options)
        mean = compute_average_surface_distance(*masks, symmetric=True, **options)
    return float(hausdorff95), float(mean)


def slice_dice(predicted: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """Return the Dice coefficient of each slice, (slices,); NaN where both masks are empty."""
    occupied = np.logical_or(predicted, truth).any(axis=(1, 2))
    pairs = zip(predicted, truth, occupied, strict=True)
    return np.array([dice(one, other) if there else np.nan for one, other, there in pairs])


def measure(volume: AtriumVolume, predicted: NDArray) -> dict[str, float | str]:
    """Measure the prediction for one volume against its label.

    Returns
    -------
    dict
        ``subject``; ``dice``, in 3-D; ``dice_slices``, the mean over the slices where either mask has voxels;
        ``hausdorff95_mm`` and ``distance_mm``, see :func:`surface_distances`; ``volume_ml`` and ``true_ml``.
    """
    hausdorff95, distance = surface_distances(predicted, volume.mask, volume.spacing)
    return {
        "subject": volume.name,
        "dice": dice(predicted, volume.mask),
        "dice_slices": float(np.nanmean(slice_dice(predicted, volume.mask))),
        "hausdorff95_mm": hausdorff95,
        "distance_mm": distance,
        "volume_ml": np.count_nonzero(predicted) * volume.voxel_ml,
        "true_ml": volume.volume_ml,
    }


def measure_all(volumes: Sequence[AtriumVolume], predictions: Sequence[NDArray]) -> pd.DataFrame:
    """Return a row of :func:`measure` for each volume."""
    return pd.DataFrame([measure(*pair) for pair in zip(volumes, predictions, strict=True)])


def bland_altman(measured: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Agreement between two methods of measurement (Bland & Altman 1986).

    Parameters
    ----------
    measured, truth : sequence of float
        Measurements of the same subjects in the same unit.

    Returns
    -------
    dict
        ``bias``, the mean of measured - true; ``low`` and ``high``, the 95 % limits of agreement, bias ± 1.96 standard
        deviations of the differences; NaN for a single subject.
    """
    differences = np.asarray(measured, dtype=float) - np.asarray(truth, dtype=float)
    half = 1.96 * differences.std(ddof=1) if len(differences) > 1 else np.nan
    bias = float(differences.mean())
    return {"bias": bias, "low": bias - float(half), "high": bias + float(half)}


# ---------------------------------------------------------------- the baseline


def mean_mask(masks: Sequence[NDArray], depth: int) -> NDArray[np.bool_]:
    """Return where most training volumes have their atrium: the baseline that ignores the image.

    The volumes are aligned at their middle slices. A voxel is atrium if at least a certain share of the volumes has
    atrium there; the share is the one with the best mean Dice on the training volumes themselves.

    Parameters
    ----------
    masks : sequence of ndarray of bool, shape (slices, rows, columns)
        Training masks, all cropped to the same window.
    depth : int
        Number of slices of the mask to return.
    """
    stack = np.stack([_with_depth(mask, depth) for mask in masks])
    share = stack.mean(axis=0, dtype=np.float32)
    levels = np.linspace(0.1, 0.9, 9)
    return share > max(levels, key=lambda level: np.mean([dice(share > level, mask) for mask in stack]))


def _with_depth(mask: NDArray, depth: int) -> NDArray:
    """Cut or pad the slices of a mask at both ends to `depth`, so that its middle slice stays in the middle."""
    resized = np.zeros((depth, *mask.shape[1:]), dtype=mask.dtype)
    shift = depth // 2 - len(mask) // 2
    first, last = max(0, shift), min(depth, len(mask) + shift)
    resized[first:last] = mask[first - shift : last - shift]
    return resized
