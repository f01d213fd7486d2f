"""How good a segmented atrium is: overlap, distances of the surfaces in mm, volumes in mL and their agreement.

Knows masks and numbers; no networks. Distances are MONAI's (Project MONAI, Apache-2.0).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from companions.atrium.data import AtriumVolume

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI's progress bars ask for notebook widgets, which nothing here needs
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance


def dice(found: NDArray, truth: NDArray) -> float:
    """Dice coefficient of two masks of one shape: twice what they share over what they hold; 1 for two empty ones."""
    both = np.count_nonzero(found) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(np.logical_and(found, truth)) / both if both else 1.0


def surface_distances(found: NDArray, truth: NDArray, spacing: Sequence[float]) -> tuple[float, float]:
    """Measure how far the surfaces of two masks are apart, in mm.

    Parameters
    ----------
    found, truth : ndarray of bool, shape (slices, rows, columns)
        The surface of a mask is its voxels that touch the outside.
    spacing : sequence of float
        Millimetres from voxel to voxel along each axis. It is not the same along all of them, and counts.

    Returns
    -------
    hausdorff95 : float
        The distance that 95 % of the surface stay within, from found to truth or from truth to found, whichever is
        larger. The plain Hausdorff distance, of the single worst voxel, says more about that voxel than of the rest.
    mean : float
        The average over both surfaces of the distance to the other.
        Both are infinite where one mask is empty and the other is not.
    """
    if not np.any(found) or not np.any(truth):
        return (0.0, 0.0) if np.any(found) == np.any(truth) else (np.inf, np.inf)
    one, other = (torch.from_numpy(np.asarray(mask, dtype=np.float32))[None, None] for mask in (found, truth))
    about = {"include_background": True, "spacing": tuple(spacing)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of an argument that it passes on itself
        hausdorff95 = compute_hausdorff_distance(one, other, percentile=95, **about)
        mean = compute_average_surface_distance(one, other, symmetric=True, **about)
    return float(hausdorff95), float(mean)


def slice_dice(found: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """Dice of each slice, (slices,); NaN where neither mask has anything in it."""
    seen = np.logical_or(found, truth).any(axis=(1, 2))
    return np.array([dice(f, t) if s else np.nan for f, t, s in zip(found, truth, seen, strict=True)])


def measure(subject: AtriumVolume, found: NDArray) -> dict[str, float | str]:
    """Measure one subject's answer against its label.

    Returns
    -------
    dict
        ``subject``; ``dice``, in 3-D; ``dice_slices``, the mean over slices with anything in them; ``hausdorff95_mm``
        and ``distance_mm``, see :func:`surface_distances`; ``volume_ml`` and ``true_ml``.
    """
    hausdorff95, distance = surface_distances(found, subject.mask, subject.spacing)
    return {
        "subject": subject.name,
        "dice": dice(found, subject.mask),
        "dice_slices": float(np.nanmean(slice_dice(found, subject.mask))),
        "hausdorff95_mm": hausdorff95,
        "distance_mm": distance,
        "volume_ml": np.count_nonzero(found) * subject.voxel_ml,
        "true_ml": subject.volume_ml,
    }


def measure_all(subjects: Sequence[AtriumVolume], answers: Sequence[NDArray]) -> pd.DataFrame:
    """Return a row of :func:`measure` for each subject."""
    return pd.DataFrame([measure(subject, found) for subject, found in zip(subjects, answers, strict=True)])


def bland_altman(found: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Agreement of two ways of measuring one thing (Bland & Altman 1986).

    Parameters
    ----------
    found, truth : sequence of float
        In the same unit, of the same subjects.

    Returns
    -------
    dict
        ``bias``, the mean difference found - truth; ``low`` and ``high``, the limits that about 95 % of the
        differences lie within, bias ± 1.96 standard deviations; NaN for a single subject.
    """
    differences = np.asarray(found, dtype=float) - np.asarray(truth, dtype=float)
    spread = 1.96 * differences.std(ddof=1) if len(differences) > 1 else np.nan
    bias = float(differences.mean())
    return {"bias": bias, "low": bias - float(spread), "high": bias + float(spread)}
