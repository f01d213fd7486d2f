"""The ChestX-Det companion's measures, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from chestxdet_films import FAR, HALF, A, B, detections

from companions.chestxdet.metrics import (
    average_precision,
    choose_threshold,
    count_findings,
    figures_at,
    match_boxes,
    mean_boxes,
    threshold_at_floor,
)


def test_threshold_under_a_floor():
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    abnormal = [0, 0, 1, 0, 0, 1, 0, 1, 1]
    # Five normal films: a floor of 0.8 lets one of them pass as abnormal, the one at 0.7.
    best = threshold_at_floor(scores, abnormal, 0.8)
    assert best["threshold"] == pytest.approx(0.55)
    assert (best["recall"], best["specificity"]) == (0.75, 0.8)
    # No false alarm at all: only the two above 0.7 are left.
    assert threshold_at_floor(scores, abnormal, 1.0)["recall"] == 0.5
    # Among equal recalls the higher specificity: the normal film at 0.5 buys nothing.
    assert threshold_at_floor(scores, abnormal, 0.6)["specificity"] == 0.8
    assert threshold_at_floor(scores, abnormal, 0.0)["recall"] == 1.0


def test_calling_everything_abnormal_gains_nothing():
    abnormal = [1, 1, 1, 0]
    assert figures_at(np.ones(4), abnormal, 0.5)["recall"] == 1
    assert threshold_at_floor(np.ones(4), abnormal, 0.8)["recall"] == 0
    with pytest.raises(ValueError, match="normal and abnormal"):
        threshold_at_floor([0.1, 0.2], [1, 1], 0.8)
    with pytest.raises(FloatingPointError, match="not a number"):
        threshold_at_floor([0.1, math.nan], [1, 0], 0.8)


def test_figures_at_a_threshold_by_hand():
    measured = figures_at([0.9, 0.8, 0.4, 0.6, 0.1], [1, 1, 1, 0, 0], 0.5)
    assert [measured[key] for key in ("TP", "FN", "FP", "TN")] == [2, 1, 1, 1]
    assert measured["accuracy"] == pytest.approx(3 / 5)
    assert measured["recall"] == measured["precision"] == measured["f1"] == pytest.approx(2 / 3)
    assert measured["specificity"] == 0.5
    assert math.isnan(figures_at([0.1], [1], 0.5)["precision"])


def test_average_precision_by_hand():
    """Right, false, right: precision 1 up to a recall of one half, then 2/3, at 51 and 50 of the 101 recalls."""
    found = average_precision(
        [detections((A, 1, 0.9), (FAR, 1, 0.8), (B, 1, 0.7))], [detections((A, 1), (B, 1))], ["Mass"]
    )
    assert found.map(0.5) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert found.map() == pytest.approx(found.map(0.5))  # exact boxes are found at every overlap
    assert found.boxes.tolist() == [2]


def test_average_precision_counts_overlap_and_absent_findings():
    truths = [detections((A, 1)), detections((B, 3))]
    found = average_precision(
        [detections((HALF, 1, 0.9)), detections((B, 2, 0.9))], truths, ["Mass", "Nodule", "Effusion"]
    )
    assert found.at(0.3)[0] == pytest.approx(1)
    assert found.at(0.5)[0] == 0
    assert math.isnan(found.at(0.5)[1])  # no true box: nothing can be said, though one was answered
    assert found.at(0.5)[2] == 0
    assert found.map(0.3) == pytest.approx(0.5)
    nothing = average_precision([detections()], [detections()], ["Mass"])
    assert math.isnan(nothing.map(0.5))
    with pytest.raises(ValueError, match="1 answers for 2 films"):
        average_precision([detections()], truths, ["Mass"])


def test_false_boxes_in_normal_films_cost_precision():
    truths = [detections((A, 1)), {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    found = average_precision([detections((A, 1, 0.5)), detections((A, 1, 0.9))], truths, ["Mass"])
    assert found.map(0.5) == pytest.approx(0.5)


def test_boxes_are_matched_once_and_best_first():
    truth = detections((A, 1), (B, 1), (A, 2))
    given = detections((A, 1, 0.6), (A, 1, 0.9), (FAR, 1, 0.8), (B, 2, 0.9), (B, 1, 0.1))
    assert match_boxes(given, truth, 1, 0.5, 0.5) == (1, 2, 1)
    assert match_boxes(given, truth, 1, 0.05, 0.5) == (2, 2, 0)
    assert match_boxes(given, truth, 2, 0.5, 0.5) == (0, 1, 1)


def test_findings_by_films_and_by_boxes():
    truths = [detections((A, 1)), detections((B, 1)), detections((B, 2)), detections((A, 2))]
    answers = [detections((A, 1, 0.9)), detections((FAR, 1, 0.9)), detections((B, 1, 0.9)), detections((A, 2, 0.3))]
    table = count_findings(answers, truths, ["Mass", "Nodule"], 0.5)
    mass = table.loc["Mass"]
    assert (mass["films"], mass["boxes"]) == (2, 2)
    assert (mass["accuracy"], mass["recall"]) == (0.75, 1)  # by films the box far away is right
    assert mass["precision"] == pytest.approx(2 / 3)
    assert (mass["box_recall"], mass["box_precision"]) == (0.5, pytest.approx(1 / 3))
    assert table.loc["Nodule", "recall"] == 0
    assert math.isnan(table.loc["Nodule", "precision"])
    assert choose_threshold(answers, truths, ["Mass", "Nodule"]) <= 0.3


def test_mean_boxes():
    class Train:
        boxes = ([[0, 0, 10, 10], [40, 0, 60, 20]], [[10, 10, 20, 20]], [], [])
        targets = [(np.array(one, np.float32).reshape(-1, 4), np.ones(len(one), int)) for one in boxes]

        def raw(self, index):
            return np.zeros((64, 64))

        def __len__(self):
            return 4

    answers = mean_boxes(Train(), 3)
    assert len(answers) == 3
    assert answers[0]["boxes"].tolist() == [[5, 5, 15, 15], [40, 0, 60, 20]]
    assert answers[0]["scores"].tolist() == [0.5, 0.25]
