"""Measuring both stages: a threshold under a floor, average precision, films and boxes right and wrong, a baseline.

Knows arrays and tensors; no networks and no files. Average precision is torchmetrics', which asks pycocotools.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.detection import MeanAveragePrecision

from heartbox.boxes import box_iou

COCO_IOUS = tuple(np.arange(0.5, 0.96, 0.05).round(2).tolist())

# ---------------------------------------------------------------- stage 1


def confusion(scores: ArrayLike, ill: ArrayLike, threshold: float) -> dict[str, float]:
    """Count right and wrong: a film is called ill where its score is at least the threshold.

    Returns
    -------
    dict
        ``threshold``; the counts ``true_ill, missed, false_alarms, true_normal``; ``accuracy, recall, specificity,
        precision, f1``, NaN where there is nothing to divide by.
    """
    called, ill = np.asarray(scores) >= threshold, np.asarray(ill).astype(bool)
    return {"threshold": float(threshold), **_rates((called & ill).sum(), (called & ~ill).sum(), (~called & ill).sum(),
                                                    (~called & ~ill).sum())}  # fmt: skip


def _rates(true_ill: int, false_alarms: int, missed: int, true_normal: int) -> dict[str, float]:
    def share(part: float, whole: float) -> float:
        return float(part / whole) if whole else math.nan

    return {
        "true_ill": int(true_ill),
        "missed": int(missed),
        "false_alarms": int(false_alarms),
        "true_normal": int(true_normal),
        "accuracy": share(true_ill + true_normal, true_ill + missed + false_alarms + true_normal),
        "recall": share(true_ill, true_ill + missed),
        "specificity": share(true_normal, true_normal + false_alarms),
        "precision": share(true_ill, true_ill + false_alarms),
        "f1": share(2 * true_ill, 2 * true_ill + false_alarms + missed),
    }


def threshold_at_floor(scores: ArrayLike, ill: ArrayLike, floor: float) -> dict[str, float]:
    """Choose the threshold with the highest recall of those whose specificity is at least `floor`.

    Thresholds lie half-way between neighbouring scores, so that none hangs on one film's exact score; among equal
    recalls the one with the highest specificity is taken. The figures are those of the films it was chosen on, and
    are no measurement: apply :func:`confusion` with this threshold to others.

    Parameters
    ----------
    scores : array_like, shape (N,)
        The higher, the more likely ill.
    ill : array_like, shape (N,)
        1 or True for ill films.
    floor : float
        The least specificity, in [0, 1].

    Returns
    -------
    dict
        As :func:`confusion`. There is always an answer: a threshold above all scores calls nobody ill.

    Raises
    ------
    ValueError
        If one of the two kinds of films is missing.
    FloatingPointError
        If a score is no number.
    """
    scores, ill = np.asarray(scores, dtype=np.float64), np.asarray(ill).astype(bool)
    if not ill.any() or ill.all():
        raise ValueError("a threshold needs ill and normal films to be chosen on")
    if not np.isfinite(scores).all():
        raise FloatingPointError("a score is not a number: the training has failed; lower the learning rate")
    steps = np.unique(scores)
    candidates = [-np.inf, *((steps[1:] + steps[:-1]) / 2), np.inf]
    measured = [confusion(scores, ill, threshold) for threshold in candidates]
    allowed = [one for one in measured if one["specificity"] >= floor]
    return max(allowed, key=lambda one: (one["recall"], one["specificity"]))


def wilson(right: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927); with few films it is wide, and says so."""
    if of == 0:
        return 0.0, 1.0
    return tuple(binomtest(right, of).proportion_ci(method="wilson"))


# ---------------------------------------------------------------- stage 2: average precision


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision of each finding at each overlap, with the curves it comes from.

    Attributes
    ----------
    findings : tuple of str
        Names, in the order of the classes.
    ious : tuple of float
        From how much overlap on a box counts as found.
    precision : ndarray, shape (ious, 101, findings)
        Precision at the recalls 0, 0.01 ... 1, made monotonous as COCO does; NaN for a finding without a true box.
    boxes : ndarray, shape (findings,)
        True boxes.
    """

    findings: tuple[str, ...]
    ious: tuple[float, ...]
    precision: NDArray
    boxes: NDArray

    def at(self, iou: float) -> NDArray:
        """Return the average precision of each finding at one overlap; NaN where there is no true box."""
        return self.precision[self.ious.index(iou)].mean(axis=0)

    def map(self, iou: float | None = None) -> float:
        """Return the mean over the findings there are, at one overlap or over 0.5, 0.55 ... 0.95; NaN for none."""
        values = self.at(iou) if iou else np.mean([self.at(one) for one in COCO_IOUS], axis=0)
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else math.nan


def average_precision(
    answers: Sequence[dict[str, Tensor]], truths: Sequence[dict[str, Tensor]], findings: Sequence[str]
) -> AveragePrecision:
    """Measure found boxes, with torchmetrics and pycocotools (Lin 2014).

    Parameters
    ----------
    answers : sequence of dict
        For each film ``boxes`` (n, 4) in pixels, ``labels`` (n,) from 1 on, ``scores`` (n,).
    truths : sequence of dict
        For each film ``boxes`` and ``labels``.
    findings : sequence of str
        Names of the classes 1, 2 ...

    Returns
    -------
    AveragePrecision
        At an IoU of 0.3 and of 0.5 to 0.95.

    Raises
    ------
    ValueError
        If there are not as many answers as films.
    """
    if len(answers) != len(truths):
        raise ValueError(f"{len(answers)} answers for {len(truths)} films")
    ious = (0.3, *COCO_IOUS)
    boxes = np.array([sum(int((truth["labels"] == k + 1).sum()) for truth in truths) for k in range(len(findings))])
    precision = np.full((len(ious), 101, len(findings)), np.nan)
    if boxes.any():
        metric = MeanAveragePrecision(iou_thresholds=list(ious), extended_summary=True)
        metric.warn_on_many_detections = False
        metric.update(list(answers), list(truths))
        measured = metric.compute()
        for k, label in enumerate(np.atleast_1d(measured["classes"].numpy())):
            if boxes[label - 1]:  # all sizes, up to a hundred boxes a film
                precision[:, :, label - 1] = measured["precision"][:, :, k, 0, -1].numpy()
    return AveragePrecision(tuple(findings), ious, precision, boxes)


# ---------------------------------------------------------------- stage 2: right and wrong at one threshold


def match_boxes(answer: dict[str, Tensor], truth: dict[str, Tensor], label: int, threshold: float, iou: float) -> tuple:
    """Count boxes of one class in one film: found, false, missed.

    From the highest score down, each answer takes the true box that it overlaps most and that no other took; it is
    right from an overlap of `iou` on.
    """
    chosen = (answer["labels"] == label) & (answer["scores"] >= threshold)
    order = answer["scores"][chosen].argsort(descending=True, stable=True)
    given = answer["boxes"][chosen][order].numpy()
    free = list(truth["boxes"][truth["labels"] == label].numpy())
    found = 0
    for box in given:
        overlaps = [float(box_iou(box, other)) for other in free]
        if overlaps and max(overlaps) >= iou:
            free.pop(int(np.argmax(overlaps)))
            found += 1
    return found, len(given) - found, len(free)


def count_findings(
    answers: Sequence[dict[str, Tensor]],
    truths: Sequence[dict[str, Tensor]],
    findings: Sequence[str],
    threshold: float,
    iou: float = 0.5,
) -> pd.DataFrame:
    """Count each finding by films and by boxes, at one threshold on the score.

    By films: is there such a finding anywhere in the film? Here normal films count, so there is an accuracy. By
    boxes: is it in the right place? There is no such thing as a box rightly not drawn, hence no accuracy.

    Returns
    -------
    DataFrame
        A row a finding: ``films`` that have it, ``accuracy, precision, recall, f1`` of films; ``boxes``,
        ``box_precision, box_recall, box_f1``; NaN where nothing can be said.
    """
    rows = {}
    for label, finding in enumerate(findings, start=1):
        here = np.array([bool((truth["labels"] == label).any()) for truth in truths])
        best = [max(answer["scores"][answer["labels"] == label].tolist(), default=-1.0) for answer in answers]
        films = confusion(np.array(best), here, threshold)
        matched = np.sum([match_boxes(*pair, label, threshold, iou) for pair in zip(answers, truths, strict=True)], 0)
        boxes = _rates(*matched, 0)
        row = {"films": int(here.sum())} | {key: films[key] for key in ("accuracy", "precision", "recall", "f1")}
        row |= {"boxes": boxes["true_ill"] + boxes["missed"]}
        rows[finding] = row | {f"box_{key}": boxes[key] for key in ("precision", "recall", "f1")}
    return pd.DataFrame(rows).T.astype({"films": int, "boxes": int})


def choose_threshold(
    answers: Sequence[dict[str, Tensor]], truths: Sequence[dict[str, Tensor]], findings: Sequence[str], iou: float = 0.5
) -> float:
    """Choose the score from which on a box is shown: the best F1 of boxes over all findings, of 0.05, 0.1 ... 0.95.

    One threshold for all: a few boxes of each finding on the validation side are too few for one each.
    """
    best = (0.0, 0.5)  # where nothing is right at any threshold
    for threshold in np.arange(1, 20) / 20:
        pairs = list(zip(answers, truths, strict=True))
        matched = [match_boxes(*pair, label, threshold, iou) for pair in pairs for label in range(1, len(findings) + 1)]
        f1 = float(np.nan_to_num(_rates(*np.sum(matched, axis=0), 0)["f1"]))
        if f1 > best[0]:
            best = f1, float(threshold)
    return best[1]


def usual_boxes(train: Dataset, films: int) -> list[dict[str, Tensor]]:
    """Answer every film with the usual boxes of the training films: the baseline of one who never looks.

    For each finding one mean box on either half of the film, scored by the share of training films that have one
    there.

    Parameters
    ----------
    train : Dataset
        As :class:`companions.chestxdet.data.FindingsDataset`.
    films : int
        How many films to answer.
    """
    middle = train.raw(0).shape[1] / 2
    boxes = np.concatenate([boxes for boxes, _ in train.targets])
    labels = np.concatenate([labels for _, labels in train.targets])
    right = (boxes[:, 0] + boxes[:, 2]) / 2 > middle
    usual = []
    for label in np.unique(labels):
        for side in (False, True):
            these = boxes[(labels == label) & (right == side)]
            if len(these):
                usual.append((len(these) / len(train), label, these.mean(axis=0)))
    usual.sort(key=lambda one: -one[0])
    answer = {
        "boxes": torch.tensor(np.array([box for *_, box in usual]), dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([label for _, label, _ in usual], dtype=torch.int64),
        "scores": torch.tensor([score for score, *_ in usual], dtype=torch.float32),
    }
    return [answer] * films
