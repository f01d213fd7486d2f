"""Prediction intervals that hold as often as they claim: split-conformal prediction on top of the network's own std.

Knows boxes and NumPy; no networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heartbox.boxes import HEART, THORAX, cardiothoracic_ratio, has_thorax, ratio_std
from heartbox.models.config import Calibration

MIN_STD = 1e-3  # px; avoids zero-width intervals
POWERS = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # of the standard deviation, to choose from where there are films enough
WELL_ANSWERED, CLEAR_SHARE = 4.0, 0.85  # px at 224; of such films this share is called clear
LEFT_AND_RIGHT = [0, 2]  # the heart's borders that its width rests on
USUAL_SHARE = 0.97  # of ordinary films lie below the std that is called usual


def calibrate(
    predicted: NDArray,
    std: NDArray | None,
    truth: NDArray,
    level: float = 0.9,
    powers: Sequence[float] = (1.0,),
) -> Calibration | None:
    """Find how wide a margin must be to contain the label in a share `level` of cases.

    Each error is divided by the standard deviation that the head gave to that edge, so that an uncertain film gets a
    wider margin. The factor is the quantile of these ratios, with the finite-sample correction of Vovk et al. 2005.

    Errors may grow faster than the standard deviation: on films whose border is hidden a network is too sure of
    itself. Of several `powers` of the standard deviation, each edge takes the one whose margins fit the quantile of
    its errors best, by the pinball loss (Koenker & Bassett 1978), so that margins also hold among the uncertain films.

    Parameters
    ----------
    predicted, truth : ndarray, shape (N, 4 * targets)
        Boxes in pixels, of films that the network was not trained on. Unknown labels are NaN.
    std : ndarray, same shape, or None
        Standard deviations of the distributions, in pixels; None gives every film the same margins.
    level : float
        Share of labels that the margins are meant to contain.
    powers : sequence of float
        Powers of the standard deviation to choose from; several need some hundred films.

    Returns
    -------
    Calibration or None
        None where there are too few films: fewer than nine for 90 %.
    """
    unit = _unit(predicted, std)
    fits = [_fit(error, of, level, powers) for error, of in zip(np.abs(predicted - truth).T, unit.T, strict=True)]
    factors, chosen = (np.array(column) for column in zip(*fits, strict=True))
    if np.isnan(factors[HEART]).any():
        return None
    ctr_factor, ctr_power = math.nan, 1.0
    if has_thorax(predicted):
        error = np.abs(_ratio(predicted) - _ratio(truth))
        ctr_factor, ctr_power = _fit(error, ratio_std(predicted, unit), level, powers)
        if np.isnan(factors[THORAX]).any():  # a box with margins on some sides only is of no use
            factors[THORAX], ctr_factor = math.nan, math.nan
    return Calibration(
        level=level,
        images=len(predicted),
        scaled=std is not None,
        factors=tuple(float(factor) for factor in factors),
        ctr_factor=ctr_factor,
        usual_std=None if std is None else float(np.quantile(std[:, HEART].mean(axis=1), USUAL_SHARE)),
        powers=() if tuple(powers) == (1.0,) else tuple(float(power) for power in chosen),
        ctr_power=ctr_power,
    )


def find_clear_std(
    predicted: NDArray, std: NDArray, truth: NDArray, within: float = WELL_ANSWERED, share: float = CLEAR_SHARE
) -> float:
    """Find the mean standard deviation of the heart's left and right border that well answered films stay below.

    Parameters
    ----------
    predicted, std, truth : ndarray, shape (N, 4 * targets)
        As for :func:`calibrate`, of films as they come from hospitals; NaN where a border is hidden.
    within : float
        Largest error, in pixels, of the left and the right border of a film that counts as well answered.
    share : float
        Share of the well answered films that are to stay below.

    Returns
    -------
    float
        In pixels; see :attr:`heartbox.models.config.Calibration.clear_std`.
    """
    error = np.abs(predicted - truth)[:, LEFT_AND_RIGHT]
    well = (error <= within).all(axis=1)  # a hidden border, NaN, is not well answered
    return float(np.quantile(std[well][:, LEFT_AND_RIGHT].mean(axis=1), share))


def margins(calibration: Calibration, predicted: NDArray, std: NDArray | None) -> tuple[NDArray, NDArray | None]:
    """Return the half-width of the prediction interval of each edge and of the cardiothoracic ratio.

    The label lies within the margin in ``calibration.level`` of cases.

    Parameters
    ----------
    calibration : Calibration
        From :func:`calibrate`.
    predicted, std : ndarray, shape (..., 4 * targets)
        As for :func:`calibrate`.

    Returns
    -------
    tuple
        The edges' margins in pixels, in the shape of `predicted`, and the ratio's, (...); the second is None without
        a thorax or without a calibration of the ratio.
    """
    unit = _unit(predicted, std if calibration.scaled else None)
    edges = np.asarray(calibration.factors) * unit ** (calibration.powers or 1.0)
    if not has_thorax(predicted) or not calibration.has_ctr:
        return edges, None
    return edges, calibration.ctr_factor * ratio_std(predicted, unit) ** calibration.ctr_power


def coverage(
    calibration: Calibration, predicted: NDArray, std: NDArray | None, truth: NDArray
) -> dict[str, NDArray | float]:
    """Measure how often the margins hold on films that they were not calibrated on.

    Parameters
    ----------
    calibration : Calibration
        From :func:`calibrate`, on other films.
    predicted, std, truth : ndarray, shape (N, 4 * targets)
        As for :func:`calibrate`.

    Returns
    -------
    dict
        ``edges``, the share of labels within their margins, (4 * targets,), and ``ctr``, that of the ratios (NaN
        without a thorax).
    """
    edge_margins, ctr_margins = margins(calibration, predicted, std)
    within = np.abs(predicted - truth) <= edge_margins  # not of an unknown label
    with np.errstate(invalid="ignore"):  # an edge without labels has no share
        shares = {"edges": within.sum(axis=0) / (~np.isnan(truth)).sum(axis=0), "ctr": math.nan}
    if ctr_margins is not None:
        error = np.abs(_ratio(predicted) - _ratio(truth))
        known = ~np.isnan(error)
        shares["ctr"] = float((error <= ctr_margins)[known].mean()) if known.any() else math.nan
    return shares


def reliability(
    predicted: NDArray,
    std: NDArray | None,
    truth: NDArray,
    levels: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    seed: int = 0,
) -> dict[float, NDArray]:
    """Measure how often margins of several levels hold: calibrated on one half of the films, tested on the other.

    Calibrating each film by all the others would show nothing: over a whole pool, the coverage is then close to the
    level whatever the margins are worth.

    Parameters
    ----------
    predicted, std, truth : ndarray, shape (N, 4 * targets)
        As for :func:`calibrate`.
    levels : sequence of float
        Coverage that the margins promise.
    seed : int
        Decides the halves.

    Returns
    -------
    dict
        For each level that the number of films allows, the share of labels within their margins, (4 * targets,).
    """
    in_first = np.random.default_rng(seed).permutation(len(predicted)) % 2 == 0
    arrays = (predicted, std, truth)
    first, second = ([None if array is None else array[half] for array in arrays] for half in (in_first, ~in_first))
    calibrations = {level: calibrate(*first, level) for level in levels}
    return {level: coverage(one, *second)["edges"] for level, one in calibrations.items() if one is not None}


def _fit(error: NDArray, unit: NDArray, level: float, powers: Sequence[float]) -> tuple[float, float]:
    """Return the factor and the power of `unit` whose margins fit the errors' quantile best, by the pinball loss."""
    found = []
    for power in powers:
        factor = _quantile(error / unit**power, level)
        if math.isnan(factor):  # too few labels, whatever the power
            return factor, 1.0
        beyond = error - factor * unit**power
        found.append((np.nanmean(np.maximum(level * beyond, (level - 1) * beyond)), factor, float(power)))
    return min(found)[1:]


def _quantile(scores: NDArray, level: float) -> float:
    """Return the score that a new one exceeds with probability 1 - `level`; NaN where too few scores are known."""
    known = np.sort(scores[~np.isnan(scores)])
    rank = math.ceil((len(known) + 1) * level)
    return float(known[rank - 1]) if 0 < rank <= len(known) else math.nan


def _unit(predicted: NDArray, std: NDArray | None) -> NDArray:
    """Return what a factor is a multiple of, in pixels: the std of each edge, or one pixel."""
    return np.ones_like(predicted) if std is None else np.maximum(std, MIN_STD)


def _ratio(edges: NDArray) -> NDArray:
    return cardiothoracic_ratio(edges[..., HEART], edges[..., THORAX])
