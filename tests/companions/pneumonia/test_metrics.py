"""The pneumonia companion's measures, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from companions.pneumonia import metrics
from companions.pneumonia.model import class_weight


def test_figures_against_numbers_worked_by_hand():
    """Of 2 x 3 pairs of ill and healthy films 5 are in order; precisions at the two hits are 1 and 2/3."""
    targets, scores = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    figures = metrics.rank_figures(targets, scores, range(5))
    assert figures["auroc"] == pytest.approx(5 / 6)
    assert figures["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(metrics.auroc(np.ones(3), scores[:3]))


def test_the_area_is_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(5):
        targets, scores = rng.integers(0, 2, 50), rng.integers(0, 12, 50)  # with ties
        assert metrics.auroc(targets, scores) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


def test_calls_against_numbers_worked_by_hand():
    figures = metrics.confusion_figures(np.array([1, 1, 1, 0, 0, 0, 0, 0]), [True, True, False, True] + [False] * 4)
    assert [figures[key] for key in ("TP", "FN", "FP", "TN")] == [2, 1, 1, 4]
    assert figures["accuracy"] == pytest.approx(6 / 8)
    assert figures["precision"] == pytest.approx(2 / 3)
    assert figures["recall"] == pytest.approx(2 / 3)
    assert figures["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert figures["specificity"] == pytest.approx(4 / 5)
    nobody = metrics.confusion_figures(np.array([1, 0]), np.array([False, False]))
    assert math.isnan(nobody["precision"])
    assert nobody["recall"] == 0


def test_threshold_for_a_recall():
    targets = np.array([1] * 10 + [0] * 3)
    scores = np.array([*range(10, 20), 30, 0, 0], dtype=float)
    assert metrics.threshold_for_recall(targets, scores, 0.9) == 11  # nine of ten are at or above 11
    assert metrics.threshold_for_recall(targets, scores, 1.0) == 10
    with pytest.raises(ValueError, match="needs films with pneumonia"):
        metrics.threshold_for_recall(np.zeros(3), np.zeros(3))


def test_a_threshold_is_never_chosen_on_the_films_it_is_used_on():
    targets = np.array([1, 0, 1, 0])
    scores = np.array([5.0, 1.0, 3.0, 4.0])
    called, thresholds = metrics.cross_fitted_calls(targets, scores, np.array([0, 0, 1, 1]), recall=1.0)
    assert thresholds.tolist() == [3, 5]  # that of part 0 is the score of the ill film in part 1, and the other way
    assert called.tolist() == [True, False, False, False]


def test_the_class_weight_is_taken_back():
    """A network that has learnt the prevalence of 1 in 4 perfectly, with the weight of 3: its logit is 0."""
    assert class_weight(np.array([1, 0, 0, 0])) == 3
    assert metrics.probabilities(np.array([0.0]), 3.0) == pytest.approx([0.25])
    targets = np.array([1, 0, 0, 0])
    assert metrics.brier_skill(targets, np.full(4, 0.25), 0.25) == pytest.approx(0)
    assert metrics.brier_skill(targets, targets.astype(float), 0.25) == pytest.approx(1)
    assert metrics.brier_skill(targets, np.full(4, 0.5), 0.25) == pytest.approx(1 - 0.25 / 0.1875)


def test_an_overconfident_network_is_calibrated():
    """Logits ten times too large: the slope found on the other half undoes it, and what is said is the true share."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, 4000)
    targets = (rng.random(4000) < 1 / (1 + np.exp(-honest))).astype(int)
    parts = np.arange(4000) % 2
    said = metrics.cross_fitted_probabilities(targets, 10 * honest + 3, parts)
    assert np.abs(said - 1 / (1 + np.exp(-honest))).max() < 0.05
    assert np.array_equal(np.argsort(said[parts == 0]), np.argsort(honest[parts == 0]))
    # Of a part, only the other parts' labels count.
    changed = np.where(parts == 0, 1 - targets, targets)
    again = metrics.cross_fitted_probabilities(changed, 10 * honest + 3, parts)
    assert again[parts == 0] == pytest.approx(said[parts == 0])
    assert not np.allclose(again[parts == 1], said[parts == 1])


def test_few_films_that_are_told_apart_perfectly_do_not_get_certainty():
    targets, scores = np.array([0, 0, 1, 1] * 2), np.array([-9.0, -8.0, 8.0, 9.0] * 2)
    said = metrics.cross_fitted_probabilities(targets, scores, np.repeat([0, 1], 4))
    assert ((said > 0.1) & (said < 0.9)).all()
    assert ((said > 0.5) == (targets == 1)).all()


def test_the_interval_draws_patients_and_not_films():
    """Ten films of one patient are one draw: the interval is as wide as with one film of each patient."""
    rng = np.random.default_rng(0)
    patients = np.arange(40)
    values = rng.normal(0, 1, 40)
    narrow = metrics.bootstrap_interval(np.mean, patients, values)
    many = metrics.bootstrap_interval(np.mean, np.repeat(patients, 10), np.repeat(values, 10))
    fooled = metrics.bootstrap_interval(np.mean, np.arange(400), np.repeat(values, 10))
    assert many == pytest.approx(narrow)
    assert fooled[1] - fooled[0] < 0.5 * (many[1] - many[0])
    error = 1.96 * values.std() / math.sqrt(40)  # what theory says of a mean
    assert narrow == pytest.approx((values.mean() - error, values.mean() + error), abs=0.06)


def test_an_interval_of_what_is_never_defined():
    low, high = metrics.bootstrap_interval(metrics.auroc, [0, 1], np.ones(2), np.ones(2))
    assert math.isnan(low) and math.isnan(high)


def test_view_alone():
    views, targets = np.array(["AP", "AP", "PA", "PA", "PA", "PA"]), np.array([1, 1, 1, 0, 0, 0])
    answers = metrics.group_rates(views, targets, ["PA", "AP", ""])
    assert answers == pytest.approx([1 / 4, 1, 1 / 2])


def test_thumbnails_see_the_exposure():
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 2
    films = [np.full((32, 32), 0.4 + 0.1 * ill) + rng.normal(0, 0.02, (32, 32)) for ill in targets]
    small = metrics.thumbnails(films)
    assert small.shape == (60, 64)
    answers = metrics.predict_from_thumbnails(small[:40], targets[:40], small[40:])
    assert metrics.auroc(targets[40:], answers) == 1


def test_wilson_by_hand():
    # 8 of 10: (0.8 + 0.19207) / 1.38415 +- 1.95996 * sqrt(0.016 + 0.0096036) / 1.38415
    assert metrics.wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert metrics.wilson_interval(0, 10)[0] == 0
    assert metrics.wilson_interval(0, 0) == (0, 1)


def test_share_of_evidence_worked_by_hand():
    """A box over the left half and a quarter of the rest; overlapping boxes count once."""
    coverage = metrics.box_coverage(np.array([[0, 0, 32, 64], [0, 0, 48, 32]]), 64, 2)
    assert coverage == pytest.approx(np.array([[1, 0.5], [1, 0]]))
    evidence = np.array([[1.0, 2.0], [-5.0, 1.0]])
    assert metrics.evidence_share(evidence, coverage) == pytest.approx((1 + 1) / 4)
    assert math.isnan(metrics.evidence_share(-np.ones((2, 2)), coverage))


def test_chance_shares():
    """A shuffled map is worth the area; the maps of others are worth what they are."""
    rng = np.random.default_rng(0)
    coverages = np.stack([metrics.box_coverage(np.array([[0, 0, 32, 64]]), 64, 4)] * 3)
    maps = np.zeros((3, 4, 4))
    maps[0] = rng.uniform(0, 1, (4, 4))
    maps[1, :, 0], maps[2, :, 3] = 1, 1
    shuffled, others = metrics.chance_shares(maps, coverages, rounds=2000)
    assert shuffled == pytest.approx([0.5, 0.5, 0.5], abs=0.02)
    assert others[0] == pytest.approx(0.5)  # one map wholly inside, one wholly outside
