"""Images and boxes stay together through augmentation, and randomness is neither repeated nor lost."""

import numpy as np
import pytest
import torch
from helpers import write_processed
from torch.utils.data import DataLoader

from cardiac_dataset import CardiacDataset, make_augmentation


def test_pairs_are_normalised(processed):
    pairs = CardiacDataset(processed, split="train")
    x, boxes = pairs[0]
    assert (x.shape, x.dtype, boxes.shape, boxes.dtype) == ((1, 64, 64), torch.float32, (4,), torch.float32)
    together = torch.stack([pairs[i][0] for i in range(len(pairs))])
    assert together.mean().item() == pytest.approx(0, abs=1e-3)
    assert together.std().item() == pytest.approx(1, abs=1e-3)
    assert boxes.tolist() == pytest.approx(pairs.boxes[0, 0].tolist())


def test_both_targets(processed):
    _, boxes = CardiacDataset(processed, "val", targets=("heart", "thorax"))[0]
    assert boxes[4:].tolist() == [2, 3, 62, 61]


def test_unknown_thorax_is_nan(tmp_path):
    folder = write_processed(tmp_path, 2, 1, thorax=False)
    _, boxes = CardiacDataset(folder, "train", augment=True, targets=("heart", "thorax"))[0]
    assert torch.isnan(boxes).tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_differs_everywhere_and_repeats_under_a_seed(processed, workers):
    pairs = CardiacDataset(processed, split="train", augment=True)

    def two_epochs(seed):
        torch.manual_seed(seed)
        loader = DataLoader(pairs, batch_size=6, num_workers=workers)
        return [torch.cat([boxes for _, boxes in loader]) for _ in range(2)]

    first, second = two_epochs(3)
    again = two_epochs(3)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert (first != second).any(dim=1).all()
    assert (two_epochs(4)[0] != first).any(dim=1).all()
    # Batches go to the workers in turn: how a box was moved must not be the same in both.
    moves = (first - torch.from_numpy(pairs.boxes[:, 0]))[:, :2]
    assert len(torch.unique(moves, dim=0)) == len(pairs)


def test_what_is_missing_is_said(tmp_path, processed):
    with pytest.raises(FileNotFoundError, match="01-Preprocessing.ipynb"):
        CardiacDataset(tmp_path)
    with pytest.raises(ValueError, match="train, val"):
        CardiacDataset(processed, split="test")


def test_targets_without_labels_are_left_out(tmp_path, processed):
    both = ("heart", "thorax")
    assert CardiacDataset.known_targets(processed, both) == both
    assert CardiacDataset.known_targets(write_processed(tmp_path, 2, 1, thorax=False), both) == ("heart",)


def test_images_and_labels_of_different_runs_are_refused(tmp_path):
    folder = write_processed(tmp_path, 4, 2)
    np.save(folder / "images.npy", np.zeros((5, 64, 64), np.float16))
    with pytest.raises(ValueError, match="5 images but 6 labels"):
        CardiacDataset(folder)


# ---------------------------------------------------------------- masks and the strong augmentation


def test_unknown_strength():
    with pytest.raises(ValueError, match="published"):
        make_augmentation("extreme")


def test_boxes_follow_the_mask(processed_with_masks):
    pairs = CardiacDataset(processed_with_masks, augment=True, targets=("heart", "thorax"), rule="mask", masks=True)
    torch.manual_seed(0)
    x, boxes, masks = pairs[0]
    assert x.shape == (1, 64, 64)
    assert boxes.shape == (8,)
    assert masks.shape == (2, 32, 32)
    inside = masks[0].numpy() > 0.5
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    assert 2 * np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) == pytest.approx(boxes[:4], abs=2.1)
    still = CardiacDataset(processed_with_masks, targets=("heart", "thorax"), rule="mask", masks=True)
    assert np.array_equal(still[3][1].numpy(), still.boxes[3].reshape(-1))


def test_masks_where_there_are_none(processed):
    """Asked for but not there: an error that says so, never something else in silence."""
    assert not CardiacDataset.has_masks(processed)
    for options in ({"rule": "mask"}, {"masks": True}):
        with pytest.raises(ValueError, match="no masks"):
            CardiacDataset(processed, augment=True, **options)
