"""Splits and folds: by patient, by seed, as published, each collection spread evenly."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from raw_folders import run, write_rsna

from heartbox.data.layouts import LabelledXRay
from heartbox.data.splits import assign_folds, choose_split, split_by_patient


def test_no_patient_on_both_sides(tmp_path):
    write_rsna(tmp_path / "raw", 40, patients=13)
    labels = run(tmp_path / "raw", tmp_path / "out").labels
    patient = labels["name"].str.removeprefix("film-").astype(int) % 13
    assert labels.groupby(patient)["split"].nunique().max() == 1
    assert 4 <= (labels["split"] == "val").sum() <= 12


def test_the_seed_decides_the_split():
    patients, sources = [str(i) for i in range(100)], ["here"] * 100
    first = split_by_patient(patients, sources, seed=1)
    assert first == split_by_patient(patients, sources, seed=1)
    assert first != split_by_patient(patients, sources, seed=2)
    assert first.count("val") == 20


def test_each_collection_is_on_both_sides():
    sources = ["a"] * 50 + ["b"] * 10
    split = split_by_patient([str(i) for i in range(60)], sources, seed=0)
    assert [split[:50].count("val"), split[50:].count("val")] == [10, 2]


def test_one_patient_cannot_be_split():
    with pytest.raises(ValueError, match="one patient"):
        split_by_patient(["a", "a"], ["here", "here"])
    assert sorted(split_by_patient(["a", "b"], ["here", "there"])) == ["train", "val"]


def films(count: int) -> list[LabelledXRay]:
    return [LabelledXRay(str(row), "rsna", Path("x"), row) for row in range(count)]


def test_the_published_split():
    split, rule = choose_split(films(496), [str(i) for i in range(496)], "rsna", 0, 0.2)
    assert split == ["train"] * 400 + ["val"] * 96
    assert rule.startswith("published")


def test_the_published_split_never_cuts_through_a_patient():
    patients = [str(i) for i in range(496)]
    patients[3] = patients[450]
    split, _ = choose_split(films(496), patients, "rsna", 0, 0.2)
    assert split[3] == "unused"
    assert split[450] == "val"


def test_a_short_csv_of_one_s_own_is_split_by_patient():
    split, rule = choose_split(films(10), [str(i) for i in range(10)], "rsna", 0, 0.2)
    assert (split.count("val"), rule) == (2, "by patient, seed 0")


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


def test_a_patient_of_many_films_does_not_push_a_collection_out_of_a_fold():
    patients = ["many"] * 40 + [f"p{i}" for i in range(40)]
    sources = ["a"] * 40 + ["b"] * 40
    folds = assign_folds(patients, sources, 5)
    counts = [(folds[40:] == fold).sum() for fold in range(5)]
    assert min(counts) >= 7
