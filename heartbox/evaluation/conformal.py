"""Margins of error that hold as often as they say: split-conformal prediction on top of the network's own spread.

Knows boxes and NumPy; no networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heartbox.boxes import cardiothoracic_ratio, ratio_std

NARROWEST = 1e-3  # px: a spread of nothing would make a margin of nothing
USUAL = 0.97  # share of ordinary films whose spread is called usual


def calibrate(predicted: NDArray, spread: NDArray | None, truth: NDArray, level: float = 0.9) -> dict | None:
    """Find how wide a margin must be to hold the label in `level` of cases: split-conformal prediction.

    Each error is divided by the spread that the head gave that edge, so that a doubtful film gets a wider
    margin; the factor is the quantile of those with the finite-sample correction of Vovk et al. 2005.

    Parameters
    ----------
    predicted, truth : ndarray, shape (N, 4 * targets)
        Boxes in pixels, of films that no weight was fitted to. Unknown labels are NaN.
    spread : ndarray, same shape, or None
        Spreads of the distributions in pixels; None gives margins of one width.
    level : float
        Share of labels that the margins are to hold.

    Returns
    -------
    dict or None
        ``level``, ``images``, ``scaled`` (whether the head gave spreads; else each counts as 1 px), ``factors``
        (one an edge: margin = factor * spread; NaN for one with too few labels), ``ctr_factor`` (the same for the
        ratio, see :func:`heartbox.boxes.ratio_std`) and ``usual_spread``: 97 of 100 of these films have a smaller
        mean spread of the heart's edges, in pixels, so that a film with a larger one is out of the ordinary (None
        without spreads). None where there are too few films to say: fewer than nine for 90 %.
    """
    scaled = np.abs(predicted - truth) / _unit(predicted, spread)
    factors = [_quantile(column, level) for column in scaled.T]
    if math.isnan(factors[0]):
        return None
    result = {"level": level, "images": len(predicted), "scaled": spread is not None, "factors": factors}
    result["ctr_factor"] = math.nan
    result["usual_spread"] = None if spread is None else float(np.quantile(spread[:, :4].mean(axis=1), USUAL))
    if predicted.shape[1] == 8:
        ratio = cardiothoracic_ratio(predicted[:, :4], predicted[:, 4:])
        error = np.abs(ratio - cardiothoracic_ratio(truth[:, :4], truth[:, 4:]))
        result["ctr_factor"] = _quantile(error / ratio_std(predicted, _unit(predicted, spread)), level)
    return result


def margins(calibration: dict, predicted: NDArray, spread: NDArray | None) -> tuple[NDArray, NDArray | None]:
    """Give each edge, and the ratio, its margin: the label lies within it in ``calibration["level"]`` of cases.

    Parameters
    ----------
    calibration : dict
        From :func:`calibrate`.
    predicted, spread : ndarray, shape (..., 4 * targets)
        As there.

    Returns
    -------
    tuple
        Half-widths for the edges in pixels, in the shape of `predicted`, and for the ratio, (...); None where there
        is no thorax, or no calibration of the ratio.
    """
    unit = _unit(predicted, spread if calibration["scaled"] else None)
    edges = np.asarray(calibration["factors"]) * unit
    if predicted.shape[-1] != 8 or not math.isfinite(calibration["ctr_factor"]):
        return edges, None
    return edges, calibration["ctr_factor"] * ratio_std(predicted, unit)


def coverage(
    calibration: dict, predicted: NDArray, spread: NDArray | None, truth: NDArray
) -> dict[str, NDArray | float]:
    """Measure how often the margins hold on films that they were not calibrated on.

    Parameters
    ----------
    calibration : dict
        From :func:`calibrate`, on other films.
    predicted, spread, truth : ndarray, shape (N, 4 * targets)
        As there.

    Returns
    -------
    dict
        ``edges``, the share of labels held, (4 * targets,), and ``ctr``, that of ratios (NaN without a thorax).
    """
    edges, ratio = margins(calibration, predicted, spread)
    held = np.where(np.isnan(truth), np.nan, np.abs(predicted - truth) <= edges)
    found = {"edges": np.nanmean(held, axis=0), "ctr": math.nan}
    if ratio is not None:
        error = cardiothoracic_ratio(predicted[:, :4], predicted[:, 4:]) - cardiothoracic_ratio(
            truth[:, :4], truth[:, 4:]
        )
        known = ~np.isnan(error)
        found["ctr"] = float((np.abs(error) <= ratio)[known].mean()) if known.any() else math.nan
    return found


def reliability(
    predicted: NDArray,
    spread: NDArray | None,
    truth: NDArray,
    levels: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    seed: int = 0,
) -> dict[float, NDArray]:
    """Measure, for margins of several levels, how often they hold: calibrated on one half, tried on the other.

    Two halves, and not each film by all others: over a whole pool calibrated that way, the share held is close to
    the promise whatever the margins are worth.

    Parameters
    ----------
    predicted, spread, truth : ndarray, shape (N, 4 * targets)
        As for :func:`calibrate`.
    levels : sequence of float
        What the margins promise.
    seed : int
        Deals the halves.

    Returns
    -------
    dict
        For each level that the number of films allows, the share of labels held, (4 * targets,).
    """
    here = np.random.default_rng(seed).permutation(len(predicted)) % 2 == 0
    arrays = (predicted, spread, truth)
    first, second = ([None if array is None else array[side] for array in arrays] for side in (here, ~here))
    calibrations = {level: calibrate(*first, level) for level in levels}
    return {level: coverage(one, *second)["edges"] for level, one in calibrations.items() if one is not None}


def _quantile(scores: NDArray, level: float) -> float:
    """Return the score that `level` of new ones will not exceed; NaN where the known ones are too few to say."""
    known = np.sort(scores[~np.isnan(scores)])
    rank = math.ceil((len(known) + 1) * level)
    return float(known[rank - 1]) if 0 < rank <= len(known) else math.nan


def _unit(predicted: NDArray, spread: NDArray | None) -> NDArray:
    return np.ones_like(predicted) if spread is None else np.maximum(spread, NARROWEST)
