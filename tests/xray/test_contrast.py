"""Films with other greys look alike to a network, and nothing is made of nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import draw_disc
from hypothesis import given, settings
from hypothesis import strategies as st

from heartbox.inference.detector import HeartDetector
from heartbox.models.build import build_model
from heartbox.models.config import WeightsConfig
from heartbox.xray.contrast import LOW_CONTRAST, has_low_contrast, normalize_contrast, percentiles
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import as_xray


def made_film(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    film = 0.3 + 0.4 * draw_disc(64, (30, 36), (14, 12)) + 0.02 * rng.standard_normal((64, 64))
    return np.clip(film, 0, 1).astype(np.float32)


@given(low=st.floats(0, 0.5), gain=st.floats(0.05, 0.5))
def test_any_straight_line_through_the_greys_gives_the_same(low, gain):
    film = made_film()
    np.testing.assert_allclose(normalize_contrast(low + gain * film), normalize_contrast(film), atol=2e-3)


def test_a_tone_curve_is_undone_by_half():
    film = made_film()
    curved = film**2.2
    before = np.abs(curved - film).mean()
    assert np.abs(normalize_contrast(curved) - normalize_contrast(film)).mean() < 0.5 * before


def test_the_whole_range_is_used_and_no_two_greys_change_places():
    film = made_film()
    normalized = normalize_contrast(0.9 + 0.05 * film)
    assert normalized.dtype == np.float32
    assert normalized.min() < 0.02
    assert normalized.max() > 0.98
    order = np.argsort(film, axis=None)
    assert (np.diff(normalized.ravel()[order]) >= -1e-6).all()


def test_a_negative_stays_a_negative():
    film = made_film()
    np.testing.assert_allclose(normalize_contrast(1 - film), 1 - normalize_contrast(film), atol=1e-5)


def test_by_hand():
    """Four greys, each on a quarter: ranks 1/8, 3/8, 5/8, 7/8; stretched from the ends to 0 and 1."""
    film = np.repeat(np.array([0.2, 0.3, 0.5, 0.6], np.float32), 64).reshape(16, 16)
    expected = (np.array([0, 0.25, 0.75, 1]) + np.array([1, 3, 5, 7]) / 8) / 2
    np.testing.assert_allclose(normalize_contrast(film)[::4, 0], expected, atol=1e-6)


@pytest.mark.parametrize("grey", [0.0, 0.4, 1.0])
def test_one_grey_stays_one_grey(grey):
    film = np.full((32, 32), grey, np.float32)
    np.testing.assert_array_equal(normalize_contrast(film), film)
    rounded = film + 1e-6 * np.random.default_rng(0).standard_normal(film.shape).astype(np.float32)
    assert np.ptp(normalize_contrast(rounded)) < 1e-4  # noise of rounding is not blown up


def test_low_contrast_is_seen_before_it_is_normalized():
    film = made_film()
    assert has_low_contrast(0.9 + 0.1 * film)
    assert not has_low_contrast(film)


def test_the_detector_shows_films_as_its_weights_saw_them():
    """Weights that were trained on films of normalised contrast get them, weights of an earlier version do not."""
    film = 0.9 + 0.08 * made_film()
    config = WeightsConfig("resnet18", "edges", 64, ("heart",), mean=0.5, std=0.25, layout="made")
    torch.manual_seed(0)
    model = build_model("resnet18", "edges", size=64)
    earlier = HeartDetector(model, config)
    now = HeartDetector(model, dataclasses.replace(config, contrast="even"))
    xray = as_xray(film)
    content = resize_xray(xray.content, 64)  # without the noisy border around the disc
    np.testing.assert_allclose(earlier.shown(xray), content, atol=1e-3)
    np.testing.assert_allclose(now.shown(xray), normalize_contrast(content), atol=1e-3)
    brighter = as_xray(0.1 + 0.5 * film)
    np.testing.assert_allclose(now.detect(xray).heart, now.detect(brighter).heart, atol=0.2)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 30)), min_size=1, max_size=20),
    st.tuples(st.floats(0, 100), st.floats(0, 100)),
)
def test_percentiles_of_a_histogram_are_those_of_its_values(pairs, ranks):
    values, counts = np.array(pairs).T
    expected = np.percentile(np.repeat(values, counts), ranks)
    np.testing.assert_allclose(percentiles(values, counts, ranks), expected, atol=1e-9)


@pytest.mark.parametrize("width", [0.9 * LOW_CONTRAST, 1.1 * LOW_CONTRAST, 3 * LOW_CONTRAST, 20 * LOW_CONTRAST])
def test_a_quick_sample_does_not_move_the_limit_of_contrast(width):
    rng = np.random.default_rng(0)
    image = (0.5 + rng.uniform(-0.5, 0.5, (700, 700)) * width / 0.9).clip(0, 1)
    asked = bool(np.ptp(np.percentile(image, (5, 95))) < LOW_CONTRAST)
    assert has_low_contrast(image) == asked == (width < LOW_CONTRAST)
