"""Metrics by hand."""

import json
import math

import numpy as np
import pytest
import torch

from cardiac_dataset import CardiacDataset
from heartbox.evaluation.metrics import all_boxes, evaluate, mean_box, predict, skill_over, write_metrics
from heartbox.models.build import build_model


def test_evaluation_by_hand():
    truth = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    predicted = np.array([[0.0, 0, 10, 10], [2, 0, 10, 5]])
    measured = evaluate(predicted, truth)
    assert measured["images"] == 2
    assert [measured[f"mae_{edge}"] for edge in ("x_min", "y_min", "x_max", "y_max")] == [1, 0, 0, 2.5]
    assert measured["mae"] == pytest.approx(7 / 8)
    assert measured["mse"] == pytest.approx((4 + 25) / 8)
    assert measured["iou_mean"] == pytest.approx((1 + 0.4) / 2)
    assert measured["iou_worst"] == pytest.approx(0.4)
    assert (measured["iou_above_0.50"], measured["iou_above_0.75"]) == (0.5, 0.5)


def test_ratio_error_by_hand():
    truth = np.array([[25.0, 0, 75, 50, 0, 0, 100, 100]])
    predicted = np.array([[25.0, 0, 85, 50, 0, 0, 100, 100]])
    assert evaluate(predicted, truth)["ctr_mae"] == pytest.approx(0.1)


def test_skill():
    assert skill_over({"mae": 2.0}, {"mae": 8.0}) == 0.75
    assert math.isnan(skill_over({"mae": 2.0}, {"mae": 0.0}))  # every label is the same box


def test_the_mean_box_ignores_unknown_edges():
    assert mean_box(np.array([[0.0, 2], [4, np.nan]])).tolist() == [2, 2]


def test_labels_of_any_dataset(processed):
    """Of one that has them at hand, and of one that must be asked for each sample."""
    val = CardiacDataset(processed, "val", targets=("heart", "thorax"))
    pairs = [val[i] for i in range(len(val))]
    np.testing.assert_allclose(all_boxes(pairs), all_boxes(val))


def test_metrics_are_valid_json(tmp_path):
    write_metrics(tmp_path / "metrics.json", {"model": {"ctr_mae": math.nan, "mae": 1.5}})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"model": {"ctr_mae": None, "mae": 1.5}}


def test_predictions_do_not_depend_on_the_batch_size(processed):
    torch.manual_seed(0)
    model = build_model(head="edges", targets=("heart", "thorax"), size=64)
    val = CardiacDataset(processed, "val", targets=("heart", "thorax"))
    single, std = predict(model, val, batch_size=1)
    batched, _ = predict(model, val, batch_size=12)
    assert np.abs(single - batched).max() < 1e-3
    assert std.shape == single.shape


def test_a_head_without_distributions_has_no_std(processed):
    val = CardiacDataset(processed, "val")
    assert predict(build_model(size=64), val)[1] is None
