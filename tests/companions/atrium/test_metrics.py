"""Figures of the atrium against numbers worked out by hand."""

import numpy as np
import pytest
from helpers import ATRIUM_SPACING, make_atrium_volumes

from companions.atrium.data import AtriumSlices, AtriumVolume, learn_window
from companions.atrium.metrics import bland_altman, dice, mean_mask, measure, slice_dice, surface_distances


def test_the_mean_atrium_is_what_most_share():
    volumes = make_atrium_volumes(3)
    slices = AtriumSlices(volumes, learn_window(volumes))
    answer = mean_mask(slices.masks, depth=8)
    assert answer.shape == (8, *slices.masks[0].shape[1:])
    assert not answer[[0, -1]].any()  # the two slices more than there were
    assert dice(answer[1:7], slices.masks[1]) > 0.85


def test_dice_by_hand():
    predicted, truth = np.zeros((2, 2, 4), dtype=bool), np.zeros((2, 2, 4), dtype=bool)
    predicted[0, 0], truth[0, 0, 1:], truth[1, 1, 0] = True, True, True
    assert dice(predicted, truth) == pytest.approx(2 * 3 / (4 + 4))
    np.testing.assert_allclose(slice_dice(predicted, truth), [6 / 7, 0])
    assert np.isnan(slice_dice(predicted & False, truth & False)).all()
    assert dice(predicted & False, truth & False) == 1
    assert dice(predicted, truth & False) == 0


@pytest.mark.parametrize(("axis", "side"), [(0, 1.37), (1, 1.25), (2, 1.30)])
def test_distances_are_in_mm_along_each_axis(axis, side):
    """Two planes, one voxel thick, three voxels apart: every distance is three sides of a voxel."""
    predicted, truth = np.zeros((12, 12, 12), dtype=bool), np.zeros((12, 12, 12), dtype=bool)
    np.moveaxis(predicted, axis, 0)[3, 2:10, 2:10] = True
    np.moveaxis(truth, axis, 0)[6, 2:10, 2:10] = True
    hausdorff95, mean = surface_distances(predicted, truth, ATRIUM_SPACING)
    assert hausdorff95 == pytest.approx(3 * side, rel=1e-5)
    assert mean == pytest.approx(3 * side, rel=1e-5)


def test_one_far_voxel_moves_the_mean_and_not_the_95th_percentile():
    predicted, truth = np.zeros((30, 12, 12), dtype=bool), np.zeros((30, 12, 12), dtype=bool)
    predicted[2, 1:11, 1:11], truth[2, 1:11, 1:11] = True, True
    predicted[22, 5, 5] = True  # 20 slices off, one of 101 voxels
    hausdorff95, mean = surface_distances(predicted, truth, ATRIUM_SPACING)
    assert hausdorff95 == 0
    assert mean == pytest.approx(20 * 1.37 / 201, rel=1e-5)  # one distance among 101 + 100
    assert surface_distances(truth, truth, ATRIUM_SPACING) == (0, 0)
    assert surface_distances(predicted & False, truth, ATRIUM_SPACING) == (np.inf, np.inf)
    assert surface_distances(predicted & False, truth & False, ATRIUM_SPACING) == (0, 0)


def test_volume_in_millilitres():
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[1:11, 1:11, 1:11] = True
    volume = AtriumVolume("one", mask.astype(np.float16), mask, ATRIUM_SPACING)
    assert volume.volume_ml == pytest.approx(1000 * 1.37 * 1.25 * 1.30 / 1000)
    half = mask.copy()
    half[6:] = False
    measured = measure(volume, half)
    assert measured["volume_ml"] == pytest.approx(volume.volume_ml / 2)
    assert measured["true_ml"] == pytest.approx(volume.volume_ml)
    assert measured["dice"] == pytest.approx(2 * 500 / 1500)
    assert measured["dice_slices"] == pytest.approx(0.5)


def test_bland_altman_by_hand():
    limits = bland_altman([101, 82, 93], [100, 80, 90])  # differences 1, 2, 3: mean 2, standard deviation 1
    assert limits == {"bias": 2.0, "low": pytest.approx(0.04), "high": pytest.approx(3.96)}
    assert np.isnan(bland_altman([1.0], [2.0])["low"])
