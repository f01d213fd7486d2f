"""Margins of error that hold as often as they say: split-conformal prediction on top of the network's own spread.

Knows boxes and NumPy; no networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heartbox.boxes import cardiothoracic_ratio, ratio_spread

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
        (one an edge: margin = factor * spread), ``ctr_factor`` (the same for the ratio, see
        :func:`heartbox.boxes.ratio_spread`) and ``usual_spread``: 97 of 100 of these films have a smaller mean
        spread of the heart's edges, in pixels, so that a film with a larger one is out of the ordinary (None
        without spreads). None where there are too few films to say: fewer than nine for 90 %.
    """
    count = len(predicted)
    rank = math.ceil((count + 1) * level)
    if rank > count:
        return None
    scaled = np.abs(predicted - truth) / _unit(predicted, spread)
    factors = [float(np.sort(column)[rank - 1]) for column in scaled.T]  # NaN sorts last: unknown stays unknown
    result = {"level": level, "images": count, "scaled": spread is not None, "factors": factors, "ctr_factor": math.nan}
    result["usual_spread"] = None if spread is None else float(np.quantile(spread[:, :4].mean(axis=1), USUAL))
    if predicted.shape[1] == 8:
        ratio = cardiothoracic_ratio(predicted[:, :4], predicted[:, 4:])
        error = np.abs(ratio - cardiothoracic_ratio(truth[:, :4], truth[:, 4:]))
        result["ctr_factor"] = float(np.sort(error / ratio_spread(predicted, _unit(predicted, spread)))[rank - 1])
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
    return edges, calibration["ctr_factor"] * ratio_spread(predicted, unit)


def coverage(calibration: dict, predicted: NDArray, spread: NDArray | None, truth: NDArray) -> dict[str, float]:
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
        found["ctr"] = float((np.abs(error) <= ratio).mean())
    return found


def reliability(
    predicted: NDArray,
    spread: NDArray | None,
    truth: NDArray,
    levels: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    folds: int = 5,
    seed: int = 0,
) -> dict[float, NDArray]:
    """Measure, for margins of several levels, how often they hold: each film by a calibration on other films.

    Parameters
    ----------
    predicted, spread, truth : ndarray, shape (N, 4 * targets)
        As for :func:`calibrate`.
    levels : sequence of float
        What the margins promise.
    folds : int
        The films are dealt into so many heaps; the margins of each are calibrated on the others.
    seed : int
        Deals.

    Returns
    -------
    dict
        For each level that the number of films allows, the share of labels held, (4 * targets,).
    """
    heap = np.random.default_rng(seed).permutation(len(predicted)) % folds
    found = {}
    for level in levels:
        shares = []
        for k in range(folds):
            here, there = heap == k, heap != k
            parts = [
                (None, None) if array is None else (array[there], array[here]) for array in (predicted, spread, truth)
            ]
            calibration = calibrate(*(there for there, _ in parts), level)
            if calibration is None or not here.any():
                break
            shares.append(coverage(calibration, *(here for _, here in parts))["edges"] * here.sum())
        else:
            found[level] = np.sum(shares, axis=0) / len(predicted)
    return found


def _unit(predicted: NDArray, spread: NDArray | None) -> NDArray:
    return np.ones_like(predicted) if spread is None else np.maximum(spread, NARROWEST)
