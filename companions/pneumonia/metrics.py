"""How good is a yes or no, and what does it rest on? Figures with intervals, thresholds, shortcuts, evidence.

Figures are scikit-learn's; what is here is what keeps them honest: patients resampled whole, thresholds chosen on
other films than they are reported on, answers of those who never saw a lung beside the network's. Knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

# ---------------------------------------------------------------- figures without a threshold


def bootstrap_interval(
    figure: Callable[..., float],
    patients: Sequence,
    *arrays: NDArray,
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a figure, patients drawn with replacement and each with all their films.

    Films of one patient are alike: drawn one by one they would promise too narrow an interval (Efron & Tibshirani
    1993 on the bootstrap; Field & Welsh 2007 on drawing clusters).

    Parameters
    ----------
    figure : callable
        Called with resampled `arrays`; a round in which it is not defined (one class only) is left out.
    patients : sequence, length N
        Whose each film is.
    *arrays : ndarray, shape (N, ...)
        What the figure is of.
    level : float
        How much of the distribution lies inside.
    rounds, seed : int
        How often is drawn, and how.

    Returns
    -------
    tuple of float
        Lower and upper bound; NaN where no round could be counted.
    """
    _, whose = np.unique(np.asarray(patients), return_inverse=True)
    films = np.split(np.argsort(whose, kind="stable"), np.cumsum(np.bincount(whose))[:-1])
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


def auroc(targets: NDArray, scores: NDArray) -> float:
    """Area under the ROC curve: how often a film with pneumonia scores above one without; NaN with one class only.

    From the ranks (Mann & Whitney 1947): scikit-learn's ``roc_auc_score`` to the last digit but one, and twenty times
    faster, which a bootstrap needs.
    """
    ill = np.asarray(targets) == 1
    pairs = int(ill.sum()) * int((~ill).sum())
    if not pairs:
        return math.nan
    below = rankdata(scores)[ill].sum() - ill.sum() * (ill.sum() + 1) / 2
    return float(below / pairs)


def average_precision(targets: NDArray, scores: NDArray) -> float:
    """Mean precision over the recall; NaN with no film with pneumonia."""
    return float(average_precision_score(targets, scores)) if np.any(targets) else math.nan


def rank_figures(targets: NDArray, scores: NDArray, patients: Sequence) -> dict[str, float]:
    """Return ``auroc`` and ``average_precision``, each with the bounds ``_low`` and ``_high`` of its 95 % interval."""
    figures = {}
    for name, figure in (("auroc", auroc), ("average_precision", average_precision)):
        low, high = bootstrap_interval(figure, patients, targets, scores)
        figures |= {name: float(figure(targets, scores)), f"{name}_low": low, f"{name}_high": high}
    return figures


# ---------------------------------------------------------------- figures at a threshold


def threshold_for_recall(targets: NDArray, scores: NDArray, recall: float = 0.9) -> float:
    """Return the highest threshold at which at least `recall` of the films with pneumonia are called."""
    ill = np.sort(scores[targets == 1])[::-1]
    if not len(ill):
        raise ValueError("no film with pneumonia to choose a threshold on")
    return float(ill[math.ceil(recall * len(ill)) - 1])


def cross_fitted_calls(
    targets: NDArray, scores: NDArray, parts: NDArray, recall: float = 0.9
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Call each film by a threshold that was chosen on the other parts.

    Parameters
    ----------
    targets, scores : ndarray, shape (N,)
        Labels and scores.
    parts : ndarray of int, shape (N,)
        Which part each film is in, at least two, a patient's films all in one
        (:func:`heartbox.data.splits.assign_folds`).
    recall : float
        See :func:`threshold_for_recall`.

    Returns
    -------
    tuple of ndarray
        Whether each film is called pneumonia, and the threshold of each part.
    """
    called, thresholds = np.zeros(len(scores), dtype=bool), []
    for part in np.unique(parts):
        mine = parts == part
        thresholds.append(threshold_for_recall(targets[~mine], scores[~mine], recall))
        called[mine] = scores[mine] >= thresholds[-1]
    return called, np.array(thresholds)


def call_figures(targets: NDArray, called: NDArray) -> dict[str, float]:
    """Return confusion (``hits, misses, false_alarms, quiet``), accuracy, precision, recall and specificity.

    A figure that would be divided by nothing is NaN.
    """
    ill, called = np.asarray(targets) == 1, np.asarray(called, dtype=bool)
    hits, misses = int((ill & called).sum()), int((ill & ~called).sum())
    alarms, quiet = int((~ill & called).sum()), int((~ill & ~called).sum())

    def share(part: int, whole: int) -> float:
        return part / whole if whole else math.nan

    return {
        "hits": hits,
        "misses": misses,
        "false_alarms": alarms,
        "quiet": quiet,
        "accuracy": share(hits + quiet, len(ill)),
        "precision": share(hits, hits + alarms),
        "recall": share(hits, hits + misses),
        "specificity": share(quiet, quiet + alarms),
    }


def probabilities(logits: NDArray, positive_weight: float) -> NDArray[np.float64]:
    """Turn logits into probabilities, the class weight taken back.

    A weight of w on one class moves the logit that is best by log w (Saerens et al. 2002 on changed priors).
    """
    return expit(np.asarray(logits, dtype=np.float64) - math.log(positive_weight))


def cross_fitted_probabilities(targets: NDArray, scores: NDArray, parts: NDArray) -> NDArray[np.float64]:
    """Turn scores into probabilities by a slope and an offset that were fitted on the other parts.

    A network that is too sure of itself has a slope below 1 (Platt 1999, "Probabilistic outputs for support vector
    machines"; its targets are kept off 0 and 1, so that few films cannot ask for an endless slope).

    Parameters
    ----------
    targets, scores : ndarray, shape (N,)
        Labels and scores.
    parts : ndarray of int, shape (N,)
        As for :func:`cross_fitted_calls`.

    Returns
    -------
    ndarray, shape (N,)
        Of pneumonia, for each film.
    """
    found = np.empty(len(scores))
    for part in np.unique(parts):
        mine = parts == part
        ill, well = (targets[~mine] == 1).sum(), (targets[~mine] == 0).sum()
        # A soft target is a film that counts a little for the other answer: each film stands in the fit twice.
        soft = np.where(targets[~mine] == 1, (ill + 1) / (ill + 2), 1 / (well + 2))
        column = scores[~mine][:, None]
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf)).fit(
            np.concatenate([column, column]),
            np.repeat([1, 0], len(column)),
            logisticregression__sample_weight=np.concatenate([soft, 1 - soft]),
        )
        found[mine] = fitted.predict_proba(scores[mine][:, None])[:, 1]
    return found


def brier_skill(targets: NDArray, probability: NDArray, prevalence: float) -> float:
    """Return how much of the squared error of always answering `prevalence` is gone: 0 none of it, below 0 worse."""
    always = brier_score_loss(targets, np.full(len(targets), prevalence))
    return 1 - brier_score_loss(targets, probability) / always


# ---------------------------------------------------------------- answers without looking at a lung


def group_rates(groups: Sequence[str], targets: NDArray, asked: Sequence[str]) -> NDArray[np.float64]:
    """Answer each film with the share of pneumonia among the training films of its group, such as its view.

    A group that no training film is in gets the share among all.
    """
    groups = np.asarray(groups)
    rates = {group: targets[groups == group].mean() for group in np.unique(groups)}
    return np.array([rates.get(group, targets.mean()) for group in asked], dtype=np.float64)


def thumbnails(images: Sequence[NDArray], side: int = 8) -> NDArray[np.float32]:
    """Shrink films until hardly an opacity can be told from an arm, shape (N, side * side)."""
    return np.stack(
        [cv2.resize(np.asarray(one, np.float32), (side, side), interpolation=cv2.INTER_AREA).ravel() for one in images]
    )


def fit_thumbnails(small: NDArray, targets: NDArray, asked: NDArray) -> NDArray[np.float64]:
    """Answer films from their thumbnails alone, by logistic regression; shape (N,), log odds.

    What can be told from 64 greys is how a film was taken: distance, view, exposure, how the patient sits in it.
    """
    return fit_logistic(small, targets).decision_function(asked)


def fit_logistic(features: NDArray, targets: NDArray) -> Pipeline:
    """Fit a logistic regression on standardised features, both answers weighing the same.

    Its penalty is chosen by cross-validation among the films it is given (five parts, or as many as there are films
    of the rarer answer).

    Parameters
    ----------
    features : ndarray, shape (N, F)
        Of the training films.
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
    """Return how much of each of cells x cells places of a map lies inside boxes, in [0, 1].

    Parameters
    ----------
    boxes : ndarray, shape (n, 4)
        In pixels of the film; where they overlap they count once.
    size : int
        Side of the film.
    cells : int
        Side of the map.
    """
    fine = 16 * cells  # finer than the pixels, so that a border counts by its part
    inside = np.zeros((fine, fine), dtype=np.float64)
    for x_min, y_min, x_max, y_max in np.rint(np.asarray(boxes, float) * fine / size).astype(int):
        inside[y_min:y_max, x_min:x_max] = 1
    return inside.reshape(cells, 16, cells, 16).mean(axis=(1, 3))


def complete_maps(maps: NDArray, logits: NDArray) -> NDArray[np.float64]:
    """Share what maps lack to their logit, the bias of the last layer, evenly among their places.

    Then a map sums to the logit with nothing left over, and its sign says what a place does to the answer: without
    the bias, a network that needs +60 to come to a decision seems to find something against it everywhere.

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
    """Return which share of the evidence for pneumonia, the positive part of a map, lies inside the boxes.

    The cells of a map are taken as they are: each counts by how much of it is inside. NaN where nothing speaks for it.
    """
    positive = np.maximum(np.asarray(evidence, dtype=np.float64), 0)
    total = positive.sum()
    return float((positive * coverage).sum() / total) if total > 0 else math.nan


def chance_shares(
    maps: NDArray, coverages: NDArray, seed: int = 0, rounds: int = 100
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what each film's share would be by chance: its own map shuffled, and the other films' maps.

    Parameters
    ----------
    maps, coverages : ndarray, shape (N, h, w)
        Evidence and :func:`box_coverage` of each film.
    seed, rounds : int
        Of the shuffling.

    Returns
    -------
    tuple of ndarray, shape (N,)
        Mean over shuffled maps, whose expectation is the share of the area, and mean over the maps of all other
        films: evidence that lies where it usually lies, whatever film is asked about.
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
