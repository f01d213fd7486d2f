"""Folds by patient, and processed folders with another split."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import write_processed

from cardiac_dataset import CardiacDataset
from heartbox.boxes import box_iou
from heartbox.data.phantom_store import write_phantom_store
from heartbox.data.splits import assign_folds
from heartbox.data.store import write_split
from heartbox.phantom import boxes, sample_subject


def test_no_patient_is_in_two_folds_and_each_collection_is_in_all():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 60, 200)
    sources = np.where(patients < 25, "one", "other")
    folds = assign_folds(patients, sources, 5, seed=3)
    table = pd.DataFrame({"patient": patients, "source": sources, "fold": folds})
    assert table.groupby("patient")["fold"].nunique().max() == 1
    counts = table.groupby(["source", "fold"]).size().unstack()
    assert (counts > 0).all().all()
    assert np.ptp(table["fold"].value_counts()) <= table["patient"].value_counts().max()
    assert (folds == assign_folds(patients, sources, 5, seed=3)).all()
    assert (folds != assign_folds(patients, sources, 5, seed=4)).any()


def test_fewer_patients_than_folds():
    with pytest.raises(ValueError, match="3 patients cannot be spread over 5 folds"):
        assign_folds([1, 2, 3, 3], ["a"] * 4, 5)


def test_another_split_has_its_own_statistics(tmp_path):
    folder = write_processed(tmp_path / "whole", 10, 4, masks=True)
    split = ["val"] * 5 + ["unused"] * 2 + ["train"] * 7
    out = write_split(folder, tmp_path / "fold", split)
    images = np.load(folder / "images.npy").astype(np.float64)
    stats = json.loads((out / "stats.json").read_text())
    assert stats["mean"] == pytest.approx(images[7:].mean(), abs=1e-9)
    assert stats["std"] == pytest.approx(images[7:].std(), abs=1e-9)
    assert (stats["counts"]["train"], stats["counts"]["val"]) == (7, 5)
    train = CardiacDataset(out, "train", masks=True)
    assert list(train.labels["name"]) == [f"film-{i:03d}" for i in range(7, 14)]
    assert train[0][0].mean().item() == pytest.approx((images[7].mean() - stats["mean"]) / stats["std"], abs=1e-3)
    assert len(CardiacDataset(folder, "train")) == 10  # the folder it came from is as it was


def test_nobody_left_to_train_on(tmp_path):
    folder = write_processed(tmp_path / "whole", 3, 2)
    with pytest.raises(ValueError, match="no film is left"):
        write_split(folder, tmp_path / "fold", ["val"] * 5)


def test_phantoms_without_dicom(tmp_path):
    """The boxes of the masks are those that the phantom knows of itself, to the size of a rendered pixel."""
    write_phantom_store(tmp_path, 4, size=96, seed=5, validation_share=0.25, progress=False)
    train, val = (CardiacDataset(tmp_path, side, targets=("heart", "thorax"), masks=True) for side in ("train", "val"))
    assert (len(train), len(val)) == (3, 1)
    for index in range(3):
        truth = np.stack(boxes(sample_subject(5, index), 96))
        assert (box_iou(train.boxes[index], truth) > 0.95).all()
        mask = train.raw_masks(index)[0] > 0.5
        assert mask.sum() * 4 == pytest.approx(0.75 * np.prod(truth[0, 2:] - truth[0, :2]), rel=0.25)


def test_a_folder_is_not_split_into_itself(tmp_path):
    folder = write_processed(tmp_path / "whole", 3, 2)
    with pytest.raises(ValueError, match="a folder of its own"):
        write_split(folder, tmp_path / "x" / ".." / "whole", ["train"] * 5)
    assert len(CardiacDataset(folder)) == 3


def test_a_patient_of_many_films_does_not_push_a_collection_out_of_a_fold():
    patients = ["many"] * 40 + [f"p{i}" for i in range(40)]
    sources = ["a"] * 40 + ["b"] * 40
    folds = assign_folds(patients, sources, 5)
    counts = [(folds[40:] == fold).sum() for fold in range(5)]
    assert min(counts) >= 7
