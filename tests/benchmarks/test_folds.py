"""The benchmarks pool answers, calibrate margins on other folds and never mix measurements."""

import sys

import numpy as np
import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from folds import ROWS, describe, load_answers, prepare_folds, read_answers, summarise


def made_fold(seed: int, count: int = 60, names: str = "film", error: float = 2.0) -> dict:
    rng = np.random.default_rng(seed)
    truth = np.tile([60.0, 80, 150, 170, 20, 10, 200, 190], (count, 1)) + rng.normal(0, 5, (count, 8))
    std = rng.uniform(1, 3, (count, 8))
    return {
        "names": np.array([f"{names}-{seed}-{i}" for i in range(count)]),
        "predicted": truth + error * std * rng.standard_normal((count, 8)),
        "truth": truth,
        "std": std,
    }


def test_folds_are_pooled_and_a_group_is_picked_out():
    folds = [made_fold(seed) for seed in range(5)]
    every = {name for fold in folds for name in fold["names"]}
    whole = summarise(folds, every)
    assert whole["images"] == 300
    errors = np.concatenate([np.abs(fold["predicted"] - fold["truth"])[:, 0] for fold in folds])
    assert whole["mae_x_min"] == pytest.approx(errors.mean())
    assert whole["coverage_x_max"] == pytest.approx(0.9, abs=0.03)
    some = summarise(folds, set(folds[3]["names"][:20]))
    assert some["images"] == 20
    assert some["mae_x_min"] == pytest.approx(np.abs(folds[3]["predicted"] - folds[3]["truth"])[:20, 0].mean())


def test_margins_come_from_the_other_folds():
    """One fold is twice as hard as the others, so their margins must cover too few of its labels."""
    folds = [made_fold(seed) for seed in range(4)] + [made_fold(4, error=4.0)]
    assert summarise(folds, set(folds[4]["names"]))["coverage_x_min"] < 0.75
    assert summarise(folds, set(folds[0]["names"]))["coverage_x_min"] > 0.85


def test_a_single_run_has_no_margins():
    assert "coverage_ctr" not in summarise([made_fold(0)], set(made_fold(0)["names"]))


def test_answers_of_another_recipe_or_other_films_are_ignored(tmp_path):
    recipe = ROWS["classic ResNet18"]
    runs = {}
    for key in ("0", "1", "2", "3"):
        (tmp_path / "folds" / key).mkdir(parents=True)
        (tmp_path / "folds" / key / "labels.csv").write_text(f"films of fold {key}")
        settings = describe(tmp_path / "folds" / key, recipe, 1 if key == "2" else 0, tmp_path)
        runs[key] = tmp_path / f"{key}.npz"
        np.savez(runs[key], **made_fold(int(key)), settings=np.array(settings))
    (tmp_path / "folds" / "3" / "labels.csv").write_text("one film was left out since")
    answers, epochs = load_answers(runs, {key: tmp_path / "folds" / key for key in runs})
    assert list(answers) == ["0", "1"]
    assert epochs == recipe.epochs


def test_a_work_folder_belongs_to_its_films(tmp_path, monkeypatch):
    (tmp_path / "work" / "processed").mkdir(parents=True)
    (tmp_path / "work" / "processed" / "stats.json").write_text("{}")
    (tmp_path / "work" / "origin.txt").write_text("other films")
    with pytest.raises(SystemExit, match="name another --work"):
        prepare_folds(tmp_path, tmp_path / "work")


def test_answers_of_an_earlier_version_are_read(tmp_path):
    old = {"std": "spread"}
    np.savez(tmp_path / "answers.npz", **{old.get(key, key): value for key, value in made_fold(0).items()})
    read = read_answers(tmp_path / "answers.npz")
    assert set(read) == set(made_fold(0))
    np.testing.assert_array_equal(read["std"], made_fold(0)["std"])
