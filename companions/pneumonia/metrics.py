"""Measures of a yes-or-no answer, and of the evidence behind it: intervals, thresholds, shortcuts, calibration.

The figures are scikit-learn's. What is added here keeps them honest: the bootstrap draws whole patients, thresholds
are chosen on films other than those they are reported on, and every answer stands beside the answers of methods that
cannot see the lungs. Knows arrays only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import binomtest, rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

# ---------------------------------------------------------------- measures without a threshold


def bootstrap_interval(
    figure: Callable[..., float],
    patients: Sequence,
    *arrays: NDArray,
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a figure, from patients drawn with replacement, each with all of their films.

    Films of one patient are alike, so that drawing single films would give too narrow an interval (Efron & Tibshirani
    1993 on the bootstrap; Field & Welsh 2007 on drawing clusters).

    Parameters
    ----------
    figure : callable
        Called with resampled `arrays`; a round in which it is undefined (one class only) is not counted.
    patients : sequence, length N
        The patient of each film.
    *arrays : ndarray, shape (N, ...)
        Arguments of `figure`.
    level : float
        Share of the distribution inside the interval.
    rounds, seed : int
        Number of rounds; seed of the draws.

    Returns
    -------
    tuple of float
        Lower and upper bound; NaN if no round can be counted.
    """
    _, numbers = np.unique(np.asarray(patients), return_inverse=True)
    films = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(rounds):
        drawn = np.concatenate([films[i] for i in rng.integers(len(films), size=len(films))])
        try:
            value = figure(*(array[drawn] for array in arrays))
        except ValueError:
            continue
        if math.isfinite(value):
            values.append(value)
    if not values:
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927): the fewer the trials, the wider; (0, 1) without any."""
    if trials == 0:
        return 0.0, 1.0
    low, high = binomtest(int(successes), int(trials)).proportion_ci(method="wilson")
    return float(low), float(high)


def auroc(targets: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: how often a positive film scores above a negative one; NaN with one class only.

    Computed from ranks (Mann & Whitney 1947): equal to scikit-learn's ``roc_auc_score`` up to rounding and twenty
    times faster, which a bootstrap needs.
    """
    positive = np.asarray(targets) == 1
    pairs = int(positive.sum()) * int((~positive).sum())
    if not pairs:
        return math.nan
    below = rankdata(scores)[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(below / pairs)


def average_precision(targets: NDArray, scores: NDArray) -> float:
    """Mean precision over the recall; NaN without a positive film."""
    return float(average_precision_score(targets, scores)) if np.any(targets) else math.nan


def rank_figures(targets: NDArray, scores: NDArray, patients: Sequence) -> dict[str, float]:
    """Return ``auroc`` and ``average_precision``, each with the bounds ``_low`` and ``_high`` of its 95 % interval."""
    figures = {}
    for name, figure in (("auroc", auroc), ("average_precision", average_precision)):
        low, high = bootstrap_interval(figure, patients, targets, scores)
        figures |= {name: float(figure(targets, scores)), f"{name}_low": low, f"{name}_high": high}
    return figures


# ---------------------------------------------------------------- measures at a threshold


def threshold_for_recall(targets: NDArray, scores: NDArray, recall: float = 0.9) -> float:
    """Return the highest threshold at which at least the share `recall` of the positive films is called positive."""
    positive = np.sort(scores[targets == 1])[::-1]
    if not len(positive):
        raise ValueError("a threshold for a recall needs films with pneumonia; there are none")
    return float(positive[math.ceil(recall * len(positive)) - 1])


def cross_fitted_calls(
    targets: NDArray, scores: NDArray, parts: NDArray, recall: float = 0.9
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Call each film by a threshold chosen on the other parts.

    Parameters
    ----------
    targets, scores : ndarray, shape (N,)
        Labels and scores.
    parts : ndarray of int, shape (N,)
        Part of each film: at least two parts, with all films of a patient in the same one
        (:func:`heartbox.data.splits.assign_folds`).
    recall : float
        See :func:`threshold_for_recall`.

    Returns
    -------
    tuple of ndarray
        Whether each film is called positive, and the threshold of each part.
    """
    called, thresholds = np.zeros(len(scores), dtype=bool), []
    for part in np.unique(parts):
        inside = parts == part
        thresholds.append(threshold_for_recall(targets[~inside], scores[~inside], recall))
        called[inside] = scores[inside] >= thresholds[-1]
    return called, np.array(thresholds)


def confusion_figures(targets: ArrayLike, called: ArrayLike) -> dict[str, float]:
    """Count right and wrong answers, and divide: a figure whose denominator is 0 is NaN.

    Parameters
    ----------
    targets, called : array_like, shape (N,)
        1 or True for positive: as labelled, and as answered.

    Returns
    -------
    dict
        The counts ``TP, FP, FN, TN``; ``accuracy, precision, recall, specificity, f1``.
    """
    targets, called = np.asarray(targets).astype(bool), np.asarray(called).astype(bool)
    tn, fp, fn, tp = (int(count) for count in confusion_matrix(targets, called, labels=[False, True]).ravel())
    return figures_from_counts(tp, fp, fn, tn)


def figures_from_counts(tp: int, fp: int, fn: int, tn: int) -> dict[str, float]:
    """Return what :func:`confusion_figures` does, from the four counts."""

    def share(part: int, whole: int) -> float:
        return float(part / whole) if whole else math.nan

    return {
        "TP": int(tp),
        "FP": int(fp),
        "FN": int(fn),
        "TN": int(tn),
        "accuracy": share(tp + tn, tp + fp + fn + tn),
        "precision": share(tp, tp + fp),
        "recall": share(tp, tp + fn),
        "specificity": share(tn, tn + fp),
        "f1": share(2 * tp, 2 * tp + fp + fn),
    }


# ---------------------------------------------------------------- probabilities


def probabilities(logits: NDArray, positive_weight: float) -> NDArray[np.float64]:
    """Turn logits into probabilities and undo the class weight.

    A weight of w on the positive class shifts the optimal logit by log w (Saerens et al. 2002 on changed priors).
    """
    return expit(np.asarray(logits, dtype=np.float64) - math.log(positive_weight))


def cross_fitted_probabilities(targets: NDArray, scores: NDArray, parts: NDArray) -> NDArray[np.float64]:
    """Turn scores into probabilities by a slope and an offset fitted on the other parts.

    An overconfident network has a slope below 1 (Platt 1999, "Probabilistic outputs for support vector machines"; its
    targets are kept away from 0 and 1, so that a few films cannot ask for an infinite slope).

    Parameters
    ----------
    targets, scores : ndarray, shape (N,)
        Labels and scores.
    parts : ndarray of int, shape (N,)
        As for :func:`cross_fitted_calls`.

    Returns
    -------
    ndarray, shape (N,)
        Probability of pneumonia for each film.
    """
    fitted = np.empty(len(scores))
    for part in np.unique(parts):
        inside = parts == part
        positives, negatives = (targets[~inside] == 1).sum(), (targets[~inside] == 0).sum()
        # A soft target counts a little for the other class too: each film stands in the fit twice.
        soft = np.where(targets[~inside] == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        column = scores[~inside][:, None]
        platt = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf)).fit(
            np.concatenate([column, column]),
            np.repeat([1, 0], len(column)),
            logisticregression__sample_weight=np.concatenate([soft, 1 - soft]),
        )
        fitted[inside] = platt.predict_proba(scores[inside][:, None])[:, 1]
    return fitted


def brier_skill(targets: NDArray, probability: NDArray, prevalence: float) -> float:
    """Return the reduction of the squared error against always answering `prevalence`: 1 all of it, below 0 worse."""
    constant = brier_score_loss(targets, np.full(len(targets), prevalence))
    return 1 - brier_score_loss(targets, probability) / constant


# ---------------------------------------------------------------- answers that do not see the lungs


def group_rates(groups: Sequence[str], targets: NDArray, asked: Sequence[str]) -> NDArray[np.float64]:
    """Answer each film with the share of pneumonia among the training films of its group, such as its view.

    A group without a training film gets the share among all of them.
    """
    groups = np.asarray(groups)
    rates = {group: targets[groups == group].mean() for group in np.unique(groups)}
    return np.array([rates.get(group, targets.mean()) for group in asked], dtype=np.float64)


def thumbnails(images: Sequence[NDArray], side: int = 8) -> NDArray[np.float32]:
    """Shrink films until an opacity can hardly be seen; shape (N, side * side)."""
    small = [cv2.resize(np.asarray(image, np.float32), (side, side), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack([image.ravel() for image in small])


def predict_from_thumbnails(small: NDArray, targets: NDArray, asked: NDArray) -> NDArray[np.float64]:
    """Fit a logistic regression on thumbnails, and apply it to others; log odds, shape (N,).

    What 64 greys can tell is how a film was taken: distance, view, exposure, the patient's position in it.
    """
    return fit_logistic(small, targets).decision_function(asked)


def fit_logistic(features: NDArray, targets: NDArray) -> Pipeline:
    """Fit a logistic regression on standardised features, with both classes weighted equally.

    The penalty is chosen by cross-validation among the films given (five parts, or as many as there are films of the
    rarer class).

    Parameters
    ----------
    features : ndarray, shape (N, F)
        Features of the training films.
    targets : ndarray, shape (N,)
        Their labels.

    Returns
    -------
    Pipeline
        scikit-learn's, of a ``StandardScaler`` and a ``LogisticRegression``.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=5000))
    parts = min(5, int((targets == 1).sum()), int((targets == 0).sum()))
    if parts > 1:
        penalties = {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]}
        model = GridSearchCV(model, penalties, scoring="roc_auc", cv=parts).fit(features, targets).best_estimator_
    return model.fit(features, targets)


# ---------------------------------------------------------------- where the evidence lies


def box_coverage(boxes: NDArray, size: int, cells: int) -> NDArray[np.float64]:
    """Return the share, in [0, 1], of each of cells x cells places of a map that lies inside boxes.

    Parameters
    ----------
    boxes : ndarray, shape (n, 4)
        In pixels of the film; places where they overlap count once.
    size : int
        Side of the film, in pixels.
    cells : int
        Side of the map.
    """
    fine = 16 * cells  # finer than the cells, so that a cell on a border counts in part
    inside = np.zeros((fine, fine), dtype=np.float64)
    for x_min, y_min, x_max, y_max in np.rint(np.asarray(boxes, float) * fine / size).astype(int):
        inside[y_min:y_max, x_min:x_max] = 1
    return inside.reshape(cells, 16, cells, 16).mean(axis=(1, 3))


def spread_bias(maps: NDArray, logits: NDArray) -> NDArray[np.float64]:
    """Add to each map what it lacks to its logit (the bias of the last layer), spread evenly over its places.

    A map then sums to the logit, and its sign says what a place does to the answer. Without the bias, a network with
    a bias of +60 would seem to find evidence against pneumonia everywhere.

    Parameters
    ----------
    maps : ndarray, shape (N, h, w)
        Class-activation maps, see :func:`heartbox.explain.attribution.class_activation_map`.
    logits : ndarray, shape (N,)
        The answers.
    """
    maps = np.asarray(maps, dtype=np.float64)
    return maps + ((logits - maps.sum(axis=(1, 2))) / maps[0].size)[:, None, None]


def evidence_share(evidence: NDArray, coverage: NDArray) -> float:
    """Return the share of the evidence for pneumonia (the positive part of a map) that lies inside the boxes.

    Each cell counts by how much of it is inside. NaN if nothing speaks for pneumonia.
    """
    positive = np.maximum(np.asarray(evidence, dtype=np.float64), 0)
    total = positive.sum()
    return float((positive * coverage).sum() / total) if total > 0 else math.nan


def chance_shares(
    maps: NDArray, coverages: NDArray, seed: int = 0, rounds: int = 100
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share that each film would have by chance: with its own map shuffled, and with other films' maps.

    Parameters
    ----------
    maps, coverages : ndarray, shape (N, h, w)
        Evidence and :func:`box_coverage` of each film.
    seed, rounds : int
        Of the shuffling.

    Returns
    -------
    tuple of ndarray, shape (N,)
        Mean over shuffled maps, whose expectation is the share of the area; mean over the maps of all other films,
        which is evidence in its usual place, whatever the film.
    """
    rng = np.random.default_rng(seed)
    shuffled, others = [], []
    for i, coverage in enumerate(coverages):
        flat = maps[i].ravel()
        draws = [evidence_share(rng.permutation(flat).reshape(coverage.shape), coverage) for _ in range(rounds)]
        shuffled.append(np.mean(draws))
        rest = [evidence_share(other, coverage) for j, other in enumerate(maps) if j != i]
        others.append(np.nanmean(rest) if np.isfinite(rest).any() else math.nan)
    return np.array(shuffled), np.array(others)
