"""Films without labels join the labelled ones, with a network's answers as labels, and nothing else changes."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, write_processed

from cardiac_dataset import CardiacDataset, make_augmentation
from heartbox.augmentation import augment_image, move_boxes
from heartbox.boxes import transform_outline
from heartbox.models.build import build_model
from heartbox.training.losses import mask_loss

sys.path.insert(0, str(ROOT / "benchmarks"))

from pseudo_labels import borrow_outlines, read_unlabelled, write_self_training

BOXES = [20.0, 16, 40, 40, 12, 8, 52, 56]


@pytest.fixture
def teacher():
    """Return an edges network that answers about the same boxes for any image."""
    torch.manual_seed(0)
    return build_model("resnet18", "edges", targets=("heart", "thorax"), size=64).eval()


@pytest.fixture
def answers(monkeypatch):
    """Let the teacher answer known boxes, the surer the brighter the film."""

    def predict(model, dataset, batch_size=16):
        bright = np.array([float(dataset[i][0].mean()) for i in range(len(dataset))])
        return np.tile(BOXES, (len(dataset), 1)), np.tile((10 - bright)[:, None], (1, 8))

    monkeypatch.setattr("pseudo_labels.predict", predict)


def test_films_without_labels_join(processed_with_masks, tmp_path, teacher, answers):
    images = np.linspace(0.1, 0.9, 10, dtype=np.float16)[:, None, None] * np.ones((64, 64), np.float16)
    names = [f"new-{i}" for i in range(10)]
    out = write_self_training(processed_with_masks, tmp_path / "out", images, names, teacher, share=0.7)
    before, after = (pd.read_csv(folder / "labels.csv") for folder in (processed_with_masks, out))
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
    added = after.iloc[len(before) :]
    assert added["name"].tolist() == names[3:]  # the dark ones were answered least surely
    assert set(added["split"]) == {"train"}
    assert set(added["source"]) == {"unlabelled"}
    np.testing.assert_allclose(added[[c for c in added if c.startswith(("heart", "thorax"))]], np.tile(BOXES, (7, 1)))
    assert json.loads((out / "stats.json").read_text())["counts"]["train"] == 24 + 7
    for name in ("images", "outlines", "masks"):
        old, new = (np.load(folder / f"{name}.npy") for folder in (processed_with_masks, out))
        np.testing.assert_array_equal(new[: len(old)], old)
        assert len(new) == len(after)
    pairs = CardiacDataset(out, "train", "strong", ("heart", "thorax"), "mask", masks=True)
    x, boxes, masks = pairs[len(pairs) - 1]
    assert x.shape == (1, 64, 64)
    assert boxes.shape == (8,)
    assert not masks.any()


def test_borrowed_outlines_fill_their_boxes_and_turn_as_the_others_do(processed_with_masks):
    labelled = CardiacDataset(processed_with_masks, "train", targets=("heart", "thorax"), rule="mask")
    outlines_of_all = np.stack([labelled.outlines(i) for i in range(len(labelled))])
    boxes = labelled.boxes[5] + np.array([1.0, -2, 3, -1])
    outlines = borrow_outlines(boxes, labelled.boxes, outlines_of_all)
    for box, outline in zip(boxes, outlines, strict=True):
        np.testing.assert_allclose(transform_outline(outline, [[1, 0, 0], [0, 1, 0]]), box, atol=1.0)
    # Of the film's own boxes the borrowed outline is its own, wherever augmentation takes it.
    own = borrow_outlines(labelled.boxes[5], labelled.boxes, outlines_of_all)
    _, matrix = augment_image(labelled.raw(5)[0], make_augmentation("strong"), 3)
    expected = move_boxes(labelled.boxes[5], matrix, (64, 64), outlines=labelled.outlines(5))
    np.testing.assert_allclose(move_boxes(labelled.boxes[5], matrix, (64, 64), outlines=own), expected, atol=1e-3)


def test_films_without_masks_teach_no_masks():
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 8, 8, requires_grad=True)
    masks = (torch.rand(3, 2, 16, 16) > 0.5).float()
    masks[1] = 0
    loss = mask_loss(logits, masks)
    assert loss.item() == pytest.approx(mask_loss(logits[[0, 2]], masks[[0, 2]]).item())
    loss.backward()
    assert not logits.grad[1].any()
    assert mask_loss(logits, torch.zeros_like(masks)).item() == 0


def test_what_cannot_be_joined_is_said(processed, processed_with_masks, tmp_path, teacher):
    with pytest.raises(ValueError, match="holds no masks"):
        write_self_training(processed, tmp_path / "out", np.zeros((1, 64, 64), np.float16), ["a"], teacher)
    with pytest.raises(ValueError, match="do not fit"):
        write_self_training(processed_with_masks, tmp_path / "out", np.zeros((1, 32, 32), np.float16), ["a"], teacher)


def test_files_that_cannot_be_read_are_named(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "good.png"), np.tile(np.arange(200, dtype=np.uint8), (200, 1)))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images, names, problems = read_unlabelled([tmp_path / "bad.png", tmp_path / "good.png"], 64, progress=False)
    assert images.shape == (1, 64, 64)
    assert images.dtype == np.float16
    assert names == ["good.png"]
    assert problems[0][0] == "bad.png"
    assert "bad.png" in problems[0][1]


def test_a_student_with_a_real_teacher(tmp_path, teacher):
    """A network of random weights still gives a folder to learn from: whatever it says, boxes are boxes."""
    folder = write_processed(tmp_path / "few", 6, 2, masks=True)
    images = np.random.default_rng(0).random((5, 64, 64)).astype(np.float16)
    out = write_self_training(folder, tmp_path / "out", images, list("abcde"), teacher)
    train = CardiacDataset(out, "train", targets=("heart", "thorax"), rule="mask", masks=True)
    added = train.boxes[6:]
    assert (added[..., 2:] > added[..., :2]).all()
