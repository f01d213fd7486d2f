"""Measures of both stages: a threshold that keeps a least specificity, average precision, counts of boxes, a baseline.

Knows arrays and tensors; it does not know networks or files. The measures of a yes-or-no answer are those of
:mod:`companions.pneumonia.metrics`; average precision is computed by torchmetrics with pycocotools.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.detection import MeanAveragePrecision

from companions.pneumonia.metrics import confusion_figures, figures_from_counts
from heartbox.boxes import box_iou

COCO_IOUS = tuple(np.arange(0.5, 0.96, 0.05).round(2).tolist())

# ---------------------------------------------------------------- stage 1


def figures_at(scores: ArrayLike, abnormal: ArrayLike, threshold: float) -> dict[str, float]:
    """Measure the calls at one threshold: a film is called abnormal if its score is at least the threshold.

    Returns
    -------
    dict
        ``threshold``, and what :func:`companions.pneumonia.metrics.confusion_figures` returns.
    """
    return {"threshold": float(threshold)} | confusion_figures(abnormal, np.asarray(scores) >= threshold)


def threshold_at_floor(scores: ArrayLike, abnormal: ArrayLike, floor: float) -> dict[str, float]:
    """Choose the threshold with the highest recall among those whose specificity is at least `floor`.

    Thresholds lie half-way between neighbouring scores, so that none depends on the exact score of one film; among
    equal recalls the highest specificity wins. The figures are those of the films on which the threshold was chosen,
    hence not a measurement: apply :func:`figures_at` with this threshold to other films.

    Parameters
    ----------
    scores : array_like, shape (N,)
        The higher, the more likely abnormal.
    abnormal : array_like, shape (N,)
        1 or True for abnormal films.
    floor : float
        The lowest specificity allowed, in [0, 1].

    Returns
    -------
    dict
        As :func:`figures_at`. There is always an answer: a threshold above all scores calls no film abnormal.

    Raises
    ------
    ValueError
        If all films are normal, or all abnormal.
    FloatingPointError
        If a score is not finite.
    """
    scores, abnormal = np.asarray(scores, dtype=np.float64), np.asarray(abnormal).astype(bool)
    if not abnormal.any() or abnormal.all():
        raise ValueError("choosing a threshold needs both normal and abnormal films")
    if not np.isfinite(scores).all():
        raise FloatingPointError("a score is not a number: the training has failed; lower the learning rate")
    steps = np.unique(scores)
    candidates = [-np.inf, *((steps[1:] + steps[:-1]) / 2), np.inf]
    # Of sorted scores the number at or above a threshold is known at once: no pass over all films for each candidate.
    positive, negative = np.sort(scores[abnormal]), np.sort(scores[~abnormal])
    recall = 1 - np.searchsorted(positive, candidates) / len(positive)
    specificity = np.searchsorted(negative, candidates) / len(negative)
    allowed = np.flatnonzero(specificity >= floor)
    best = max(allowed, key=lambda i: (recall[i], specificity[i]))
    return figures_at(scores, abnormal, candidates[best])


# ---------------------------------------------------------------- stage 2: average precision


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision of each finding at each overlap, with the curves from which it comes.

    Attributes
    ----------
    findings : tuple of str
        Names, in the order of the classes.
    ious : tuple of float
        Overlaps at which a box counts as found.
    precision : ndarray, shape (ious, 101, findings)
        Precision at the recalls 0, 0.01 ... 1, made monotonic as COCO does; NaN for a finding without a true box.
    boxes : ndarray, shape (findings,)
        Number of true boxes.
    """

    findings: tuple[str, ...]
    ious: tuple[float, ...]
    precision: NDArray
    boxes: NDArray

    def at(self, iou: float) -> NDArray:
        """Return the average precision of each finding at one overlap; NaN without a true box."""
        return self.precision[self.ious.index(iou)].mean(axis=0)

    def map(self, iou: float | None = None) -> float:
        """Return the mean over the findings that occur, at one overlap or over 0.5, 0.55 ... 0.95; NaN without any."""
        values = self.at(iou) if iou else np.mean([self.at(overlap) for overlap in COCO_IOUS], axis=0)
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else math.nan


def average_precision(
    answers: Sequence[dict[str, Tensor]], truths: Sequence[dict[str, Tensor]], findings: Sequence[str]
) -> AveragePrecision:
    """Measure detected boxes, with torchmetrics and pycocotools (Lin 2014).

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


# ---------------------------------------------------------------- stage 2: counts at one threshold


def match_boxes(
    answer: dict[str, Tensor], truth: dict[str, Tensor], label: int, threshold: float, iou: float
) -> tuple[int, int, int]:
    """Count the boxes of one class in one film: true positives, false positives, false negatives.

    From the highest score down, each detected box takes the true box that it overlaps most among those still free; it
    is right if the overlap is at least `iou`.
    """
    chosen = (answer["labels"] == label) & (answer["scores"] >= threshold)
    order = answer["scores"][chosen].argsort(descending=True, stable=True)
    detected = answer["boxes"][chosen][order].numpy()
    free = list(truth["boxes"][truth["labels"] == label].numpy())
    tp = 0
    for box in detected:
        overlaps = [float(box_iou(box, other)) for other in free]
        if overlaps and max(overlaps) >= iou:
            free.pop(int(np.argmax(overlaps)))
            tp += 1
    return tp, len(detected) - tp, len(free)


def count_findings(
    answers: Sequence[dict[str, Tensor]],
    truths: Sequence[dict[str, Tensor]],
    findings: Sequence[str],
    threshold: float,
    iou: float = 0.5,
) -> pd.DataFrame:
    """Count each finding by films and by boxes, at one threshold on the score.

    By films: is there such a finding anywhere in the film? Normal films count too, so there is an accuracy. By boxes:
    is it in the right place? A box that is rightly absent cannot be counted, so there is no accuracy.

    Returns
    -------
    DataFrame
        One row a finding: ``films`` that have it, ``accuracy, precision, recall, f1`` of films; ``boxes``,
        ``box_precision, box_recall, box_f1``; NaN where a denominator is 0.
    """
    rows = {}
    for label, finding in enumerate(findings, start=1):
        present = np.array([bool((truth["labels"] == label).any()) for truth in truths])
        best = [max(answer["scores"][answer["labels"] == label].tolist(), default=-1.0) for answer in answers]
        films = figures_at(best, present, threshold)
        matched = [match_boxes(*pair, label, threshold, iou) for pair in zip(answers, truths, strict=True)]
        boxes = figures_from_counts(*np.sum(matched, axis=0), tn=0)
        row = {"films": int(present.sum())} | {key: films[key] for key in ("accuracy", "precision", "recall", "f1")}
        row |= {"boxes": boxes["TP"] + boxes["FN"]}
        rows[finding] = row | {f"box_{key}": boxes[key] for key in ("precision", "recall", "f1")}
    return pd.DataFrame(rows).T.astype({"films": int, "boxes": int})


def choose_threshold(
    answers: Sequence[dict[str, Tensor]], truths: Sequence[dict[str, Tensor]], findings: Sequence[str], iou: float = 0.5
) -> float:
    """Choose the score from which on a box is shown: the best F1 of boxes over all findings, of 0.05, 0.1 ... 0.95.

    One threshold for all: the few validation boxes of each finding do not suffice for one each.
    """
    best = (0.0, 0.5)  # if nothing is right at any threshold
    pairs = list(zip(answers, truths, strict=True))
    for threshold in np.arange(1, 20) / 20:
        matched = [match_boxes(*pair, label, threshold, iou) for pair in pairs for label in range(1, len(findings) + 1)]
        f1 = float(np.nan_to_num(figures_from_counts(*np.sum(matched, axis=0), tn=0)["f1"]))
        if f1 > best[0]:
            best = f1, float(threshold)
    return best[1]


def mean_boxes(train: Dataset, films: int) -> list[dict[str, Tensor]]:
    """Answer every film with the mean boxes of the training films: a constant baseline that sees no image.

    For each finding one mean box on either half of the film, with the share of training films that have one there as
    its score.

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
    is_right = (boxes[:, 0] + boxes[:, 2]) / 2 > middle
    means = []
    for label in np.unique(labels):
        for half in (False, True):
            chosen = boxes[(labels == label) & (is_right == half)]
            if len(chosen):
                means.append((len(chosen) / len(train), label, chosen.mean(axis=0)))
    means.sort(key=lambda mean: -mean[0])
    answer = {
        "boxes": torch.tensor(np.array([box for *_, box in means]), dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([label for _, label, _ in means], dtype=torch.int64),
        "scores": torch.tensor([score for score, *_ in means], dtype=torch.float32),
    }
    return [answer] * films
