"""Volumes checked, split and cropped, and slices augmented with their masks."""

import numpy as np
import pytest
import torch
from helpers import ATRIUM_SPACING, make_atrium, make_atrium_volumes

from companions.atrium.data import (
    AtriumSlices,
    AtriumVolume,
    augment_slice,
    check_volume,
    crop,
    find_duplicates,
    learn_window,
    make_augmentation,
    normalise,
    split_volumes,
    uncrop,
)
from companions.atrium.metrics import dice
from heartbox.data.tables import ItemError


def test_normalising_takes_the_scanner_out():
    image, _ = make_atrium()
    np.testing.assert_allclose(normalise(image), normalise(image * 7.5 + 40), atol=1e-6)
    evenly = np.linspace(0, 1, 480).reshape(6, 8, 10)
    z = normalise(evenly) * 6 - 1
    assert z.min() == -1  # of -1.73
    assert z[evenly > 0.3] == pytest.approx((evenly[evenly > 0.3] - evenly.mean()) / evenly.std(), abs=1e-5)
    evenly[0, 0, 0] = 50
    assert normalise(evenly).max() == 1


def test_a_large_image_is_cut_to_its_middle_first():
    image, mask = np.zeros((3, 320, 320)), np.zeros((3, 320, 320))
    image[:, 140:180, 150:190], mask[:, 150:170, 160:180] = 5.0, 1
    volume = check_volume("one", image, mask, ATRIUM_SPACING)
    assert volume.mask.shape == (3, 256, 256)
    np.testing.assert_array_equal(volume.mask, mask[:, 32:-32, 32:-32] > 0)
    np.testing.assert_array_equal(volume.image, normalise(image[:, 32:-32, 32:-32]).astype(np.float16))
    mask[:, :4] = 1
    with pytest.raises(ItemError, match="middle 256 x 256"):
        check_volume("one", image, mask, ATRIUM_SPACING)


@pytest.mark.parametrize(("count", "training"), [(16, 12), (20, 16)])
def test_four_validate_and_duplicates_train(count, training):
    volumes = make_atrium_volumes(count)
    volumes[7] = AtriumVolume("s7", volumes[3].image, np.roll(volumes[3].mask, 1, axis=2), ATRIUM_SPACING)
    assert find_duplicates(volumes) == [(3, 7)]
    for seed in range(5):
        train, val = split_volumes(volumes, 4, seed)
        assert (len(train), len(val)) == (training, 4)
        assert sorted(train + val) == list(range(count))
        assert {3, 7} <= set(train)
        assert split_volumes(volumes, 4, seed) == (train, val)
    assert len({tuple(split_volumes(volumes, 4, seed)[1]) for seed in range(5)}) > 1
    with pytest.raises(ValueError, match="too few to validate on 4"):
        split_volumes(volumes[:5], 4)


def test_the_window_holds_the_training_masks_and_the_margin():
    image, mask = np.random.default_rng(0).random((3, 100, 120)), np.zeros((3, 100, 120))
    mask[1, 40:60, 70:90] = 1
    volume = check_volume("one", image, mask, (1.37, 1.25, 2.5))
    top, bottom, left, right = learn_window([volume], margin_mm=10.0)
    assert (bottom - top) % 16 == 0
    assert (right - left) % 16 == 0
    assert top <= 40 - 50 - 8 < 60 - 50 + 8 <= bottom  # 10 mm are 8 rows
    assert left <= 70 - 60 - 4 < 90 - 60 + 4 <= right  # and 4 columns
    assert bottom - top == 48
    assert right - left == 32


def test_crop_goes_there_and_back_and_over_the_border():
    volume = np.random.default_rng(0).random((2, 9, 12))
    window = (-6, 3, -2, 8)  # rows from 2 above the border on, columns to 2 beyond the right one
    cut = crop(volume, window)
    assert cut.shape == (2, 9, 10)
    np.testing.assert_array_equal(cut[:, 2:, :8], volume[:, :7, 4:])
    assert not cut[:, :2].any()
    assert not cut[:, :, 8:].any()
    back = uncrop(cut, window, volume.shape)
    np.testing.assert_array_equal(back[:, :7, 4:], volume[:, :7, 4:])
    assert not back[:, 7:].any()


def test_image_and_mask_move_together():
    y, x = np.mgrid[:64, :80]
    mask = ((y - 30) / 14) ** 2 + ((x - 45) / 20) ** 2 < 1
    image = np.repeat(0.2 + 0.6 * mask[..., None].astype(np.float32), 3, axis=2)
    moved = []
    for seed in range(8):
        changed, changed_mask = augment_slice(image, mask, make_augmentation(), seed)
        assert changed.shape == image.shape
        assert changed_mask.dtype == bool
        assert dice(changed[..., 1] > 0.5, changed_mask) > 0.9  # also where the contrast has changed
        moved.append(dice(changed_mask, mask))
        again = augment_slice(image, mask, make_augmentation(), seed)
        np.testing.assert_array_equal(again[0], changed)
        np.testing.assert_array_equal(again[1], changed_mask)
    assert min(moved) < 0.9
    assert len(set(moved)) == 8


def test_slices_come_with_their_neighbours():
    volumes = make_atrium_volumes(2)
    window = learn_window(volumes)
    slices = AtriumSlices(volumes, window, offsets=(-1, 0, 1))
    assert len(slices) == 12
    images = crop(volumes[1].image, window).astype(np.float32)
    x, mask = slices[6 + 2]  # the third slice of the second volume
    np.testing.assert_array_equal(x.numpy(), images[[1, 2, 3]])
    np.testing.assert_array_equal(mask[0].numpy(), crop(volumes[1].mask, window)[2])
    np.testing.assert_array_equal(slices[6][0].numpy(), images[[0, 0, 1]])  # nothing of the volume before
    np.testing.assert_array_equal(slices[11][0].numpy(), images[[4, 5, 5]])
    assert AtriumSlices(volumes, window, offsets=(0,))[0][0].shape[0] == 1
    augmented = AtriumSlices(volumes, window, augment=True)
    torch.manual_seed(3)
    first, second = augmented[2][0], augmented[2][0]
    torch.manual_seed(3)
    assert torch.equal(augmented[2][0], first)
    assert not torch.equal(first, second)
