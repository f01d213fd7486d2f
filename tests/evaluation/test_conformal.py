"""Margins hold as often as they say, and are wider where the network is less sure."""

import numpy as np
import pytest

from heartbox.evaluation.conformal import CLEAR_SHARE, POWERS, calibrate, coverage, find_clear_std, margins, reliability
from heartbox.evaluation.label_audit import audit_labels


def made_answers(count: int, seed: int, edges: int = 8):
    """Boxes whose errors are as large as the spread says, times a factor of its own for each edge."""
    rng = np.random.default_rng(seed)
    truth = np.tile([60.0, 80, 150, 170, 20, 10, 200, 190][:edges], (count, 1)) + rng.normal(0, 5, (count, edges))
    spread = rng.uniform(1, 6, (count, edges))
    predicted = truth + spread * np.linspace(0.5, 1.5, edges) * rng.normal(0, 1, (count, edges))
    return predicted, spread, truth


def test_margins_hold_on_films_they_have_not_seen():
    calibration = calibrate(*made_answers(3000, 0))
    held = coverage(calibration, *made_answers(3000, 1))
    assert held["edges"] == pytest.approx(np.full(8, 0.9), abs=0.02)
    assert held["ctr"] == pytest.approx(0.9, abs=0.02)
    assert calibration.factors == pytest.approx(1.645 * np.linspace(0.5, 1.5, 8), rel=0.06)


def test_a_hard_film_gets_a_wider_margin():
    predicted, spread, truth = made_answers(200, 0)
    calibration = calibrate(predicted, spread, truth)
    edges, ratio = margins(calibration, predicted[:2], np.array([[1.0] * 8, [3.0] * 8]))
    assert edges[1] == pytest.approx(3 * edges[0])
    assert ratio[1] > 2 * ratio[0]


def test_without_spreads_every_margin_is_alike():
    predicted, _, truth = made_answers(200, 0, edges=4)
    calibration = calibrate(predicted, None, truth)
    edges, ratio = margins(calibration, predicted, None)
    assert ratio is None
    assert np.ptp(edges, axis=0).max() == 0
    held = coverage(calibration, predicted, None, truth)
    assert (held["edges"] >= 0.9).all()
    assert np.isnan(held["ctr"])


def test_unknown_labels_do_not_count():
    predicted, spread, truth = made_answers(100, 0)
    known = slice(1, None, 2)
    truth[::2, 4:] = np.nan
    whole, half = calibrate(predicted, spread, truth), calibrate(predicted[known], spread[known], truth[known])
    assert whole.factors[4:] == half.factors[4:]
    assert whole.ctr_factor == half.ctr_factor
    other = calibrate(*made_answers(100, 1))
    held, of_known = (coverage(other, predicted[which], spread[which], truth[which]) for which in (slice(None), known))
    assert held["edges"][4:] == pytest.approx(of_known["edges"][4:])
    assert held["ctr"] == pytest.approx(of_known["ctr"])


def test_too_few_labels_of_one_edge():
    predicted, spread, truth = made_answers(100, 0)
    truth[5:, 4:] = np.nan
    calibration = calibrate(predicted, spread, truth)
    assert np.isfinite(calibration.factors[:4]).all()
    assert np.isnan(calibration.factors[4:]).all()
    assert margins(calibration, predicted, spread)[1] is None


def test_the_audit_finds_what_was_planted():
    predicted, _, truth = made_answers(120, 0)
    truth[17] += [0, 0, -40, 0, 0, 0, 0, 0]  # a heart cut off
    truth[80] += [0, 0, 0, 0, 90, 0, 0, 0]  # one lung missing
    names = [f"film-{i}" for i in range(120)]
    table = audit_labels(names, predicted, truth)
    assert set(table["name"].head(2)) == {"film-17", "film-80"}
    assert table.loc[17, "edge"] == "heart_x_max"
    assert table.loc[17, "error"] == pytest.approx(predicted[17, 2] - truth[17, 2])
    assert table.loc[80, "edge"] == "thorax_x_min"
    assert len(table) == 120


def test_the_audit_without_a_thorax():
    predicted, _, truth = made_answers(30, 0)
    truth[:, 4:] = np.nan
    assert audit_labels(["a"] * 30, predicted, truth)["edge"].str.startswith("heart").all()


def test_the_usual_spread():
    predicted, spread, truth = made_answers(1000, 0)
    usual = calibrate(predicted, spread, truth).usual_std
    assert (spread[:, :4].mean(axis=1) > usual).mean() == pytest.approx(0.03, abs=0.002)
    assert calibrate(predicted, None, truth).usual_std is None


def test_margins_of_every_level_hold():
    held = reliability(*made_answers(2000, 0))
    assert list(held) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    for level, shares in held.items():
        assert shares == pytest.approx(np.full(8, level), abs=0.07)


def test_margins_that_do_not_hold_are_seen():
    """The second half's errors are twice as large as the first's: the margins must be seen to hold too seldom."""
    predicted, spread, truth = made_answers(2000, 0)
    here = np.random.default_rng(0).permutation(2000) % 2 == 0
    predicted[~here] = truth[~here] + 2 * (predicted - truth)[~here]
    assert (reliability(predicted, spread, truth)[0.9] < 0.7).all()


def test_levels_that_few_films_cannot_show_are_left_out():
    assert list(reliability(*made_answers(12, 0), levels=(0.5, 0.9))) == [0.5]


# ---------------------------------------------------------------- powers of the standard deviation


def made_too_sure(count: int, seed: int):
    """Boxes whose errors grow with the square of the spread: a network that is too sure where borders are hidden."""
    rng = np.random.default_rng(seed)
    truth = np.tile([60.0, 80, 150, 170, 20, 10, 200, 190], (count, 1)) + rng.normal(0, 5, (count, 8))
    spread = np.exp(rng.normal(0.5, 0.6, (count, 1))) * rng.uniform(0.95, 1.05, (count, 8))
    return truth + 0.3 * spread**2 * rng.normal(0, 1, (count, 8)), spread, truth


def test_margins_hold_among_the_uncertain_films_with_a_power():
    known, (predicted, spread, truth) = made_too_sure(3000, 0), made_too_sure(3000, 1)
    worst = spread.mean(axis=1) > np.quantile(spread.mean(axis=1), 0.85)
    uncertain = predicted[worst], spread[worst], truth[worst]
    with_power, plain = calibrate(*known, powers=POWERS), calibrate(*known)
    assert with_power.powers == (2.0,) * 8 and with_power.ctr_power > 1
    for films in (uncertain, (predicted, spread, truth)):
        held = coverage(with_power, *films)
        assert held["edges"] == pytest.approx(np.full(8, 0.9), abs=0.045)
        assert held["ctr"] == pytest.approx(0.9, abs=0.045)
    held = coverage(plain, *uncertain)
    assert (held["edges"] < 0.8).all() and held["ctr"] < 0.8


def test_margins_by_hand_with_a_power():
    calibration = calibrate(*made_too_sure(500, 0), powers=[2.0])
    predicted, spread = np.array([[60.0, 80, 150, 170, 20, 10, 200, 190]] * 2), np.array([[1.0] * 8, [3.0] * 8])
    edges, ratio = margins(calibration, predicted, spread)
    assert edges[0] == pytest.approx(calibration.factors)
    assert edges[1] == pytest.approx(9 * edges[0])
    assert ratio[1] == pytest.approx(9 * ratio[0])


def test_without_powers_everything_is_as_before():
    """Errors that grow with the spread itself choose the power 1, and the default does not even try."""
    films = made_answers(4000, 0)
    default, chosen = calibrate(*films), calibrate(*films, powers=POWERS)
    assert (default.powers, default.ctr_power) == ((), 1.0)
    assert not {"powers", "ctr_power", "clear_std"} & set(default.to_dict())
    assert np.abs(np.array(chosen.powers) - 1).max() <= 0.25
    unscaled = calibrate(films[0], None, films[2], powers=POWERS)  # where all films are alike, a power changes nothing
    assert unscaled.factors == calibrate(films[0], None, films[2]).factors


@pytest.mark.filterwarnings("error")
def test_an_edge_without_labels_needs_no_warning():
    predicted, spread, truth = made_answers(100, 0)
    truth[:, 5] = np.nan
    calibration = calibrate(predicted, spread, truth, powers=POWERS)
    assert np.isnan(calibration.factors[4:]).all() and np.isfinite(calibration.factors[:4]).all()
    other = calibrate(*made_answers(100, 1))
    held = coverage(other, predicted, spread, truth)["edges"]
    assert np.isnan(held[5]) and np.isfinite(np.delete(held, 5)).all()


def test_what_well_answered_films_stay_below():
    """Films 0 to 99 are answered to a pixel, 100 to 199 are not, and the right border of 200 to 299 is hidden."""
    predicted, _, truth = made_answers(300, 0)
    predicted[:100] = truth[:100] + 1
    predicted[100:200] = truth[100:200] + [0, 0, 9, 0, 0, 0, 0, 0]
    predicted[200:], truth[200:, 2] = truth[200:], np.nan
    spread = np.full((300, 8), 50.0)  # of the edges that do not count
    spread[:, 0], spread[:, 2] = np.arange(300), np.arange(300) + 2
    for share in (0.85, 0.92):
        clear = find_clear_std(predicted, spread, truth, share=share)
        assert (np.arange(100) + 1 < clear).sum() == round(100 * share)
    assert find_clear_std(predicted, spread, truth) == find_clear_std(predicted, spread, truth, share=CLEAR_SHARE)
    assert find_clear_std(predicted, spread, truth, share=1.0) == 100
    assert find_clear_std(predicted, spread, truth, within=9.5, share=1.0) == 200
