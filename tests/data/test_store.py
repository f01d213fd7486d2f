"""The processed folder: its statistics, its checks, and another split of the same films."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import write_processed
from raw_folders import run, write_rsna

from cardiac_dataset import CardiacDataset
from heartbox.data.store import ProcessedError, ProcessedXRay, Statistics, write_split
from heartbox.data.store import write_processed as write_processed_folder


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


def test_a_folder_is_not_split_into_itself(tmp_path):
    folder = write_processed(tmp_path / "whole", 3, 2)
    with pytest.raises(ValueError, match="a folder of its own"):
        write_split(folder, tmp_path / "x" / ".." / "whole", ["train"] * 5)
    assert len(CardiacDataset(folder)) == 3


def test_a_stopped_run_leaves_no_mixture(tmp_path, monkeypatch):
    write_rsna(tmp_path / "raw", 8)
    run(tmp_path / "raw", tmp_path / "out")
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *_, **__: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception):
        run(tmp_path / "raw", tmp_path / "out", size=32)
    assert not (tmp_path / "out" / "stats.json").exists()


def test_statistics_are_of_the_training_split_alone(tmp_path):
    write_rsna(tmp_path / "raw", 20)
    prepared = run(tmp_path / "raw", tmp_path / "out", normalize=False)
    images = np.load(tmp_path / "out" / "images.npy").astype(np.float64)
    train = images[(prepared.labels["split"] == "train").to_numpy()]
    assert prepared.stats.mean == pytest.approx(train.mean(), abs=1e-12)
    assert prepared.stats.std == pytest.approx(train.std(), abs=1e-9)
    assert prepared.stats.mean != pytest.approx(images.mean(), abs=1e-6)
    assert prepared.stats.counts == {"train": 16, "val": 4, "skipped": 0, "low_contrast": 20}


# ---------------------------------------------------------------- damaged folders


@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        ("stats.json", lambda data: data[: len(data) // 2], "damaged"),
        ("stats.json", lambda data: b"", "damaged"),
        ("stats.json", lambda data: b"[1, 2]", "damaged"),
        ("stats.json", lambda data: json.dumps(json.loads(data) | {"mean": float("nan")}).encode(), "mean is nan"),
        ("stats.json", lambda data: json.dumps(json.loads(data) | {"std": -0.2}).encode(), "std is -0.2"),
        ("stats.json", lambda data: json.dumps(json.loads(data) | {"std": "wide"}).encode(), "std is 'wide'"),
        ("stats.json", lambda data: json.dumps(json.loads(data) | {"size": 10**9}).encode(), "size is"),
        ("stats.json", lambda data: b"{}", "damaged"),
        ("labels.csv", lambda data: b"", "damaged"),
        ("labels.csv", lambda data: b"\xff\xfe\x00" * 9, "damaged"),
        ("labels.csv", lambda data: data.replace(b"heart_x_min", b"hart", 1), "column heart_x_min is missing"),
        ("labels.csv", lambda data: data.replace(b"film-000,made,train,", b"film-000,made,train,wide", 1), "damaged"),
        ("images.npy", lambda data: data[: len(data) // 2], "damaged"),
        ("images.npy", lambda data: b"", "damaged"),
        ("images.npy", lambda data: b"not an array", "damaged"),
        ("images.npy", lambda data: data.replace(b"<f2", b"<u2", 1), "damaged"),
    ],
)
def test_a_damaged_file_is_one_sentence_with_file_fault_and_way_out(tmp_path, name, damage, fault):
    folder = write_processed(tmp_path / "processed", 3, 2)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(ProcessedError, match=f"{name}.*{fault}.*run 01-Preprocessing.ipynb again") as caught:
        CardiacDataset(folder)
    assert "\n" not in str(caught.value)


def test_labels_of_other_images_are_named(tmp_path):
    folder = write_processed(tmp_path / "processed", 3, 2)
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ProcessedError, match="5 images but 4 labels; run 01-Preprocessing.ipynb again"):
        CardiacDataset(folder)


def test_a_missing_array_is_named(tmp_path):
    folder = write_processed(tmp_path / "processed", 3, 2)
    (folder / "images.npy").unlink()
    with pytest.raises(ProcessedError, match="images.npy"):
        CardiacDataset(folder)


def test_damaged_masks_are_named(tmp_path):
    folder = write_processed(tmp_path / "processed", 3, 2, masks=True)
    np.save(folder / "masks.npy", np.load(folder / "masks.npy")[:3])
    with pytest.raises(ProcessedError, match="masks.npy: 3 masks but 5 labels"):
        CardiacDataset(folder, masks=True)[0]


def test_statistics_come_back_as_they_were_saved(tmp_path):
    stats = Statistics(0.25, 0.5, 64, "made", 3, "even", "by patient", {"train": 3, "val": 2})
    stats.save(tmp_path)
    assert Statistics.load(tmp_path) == stats
    text = (tmp_path / "stats.json").read_text()
    (tmp_path / "stats.json").write_text(text.replace("{", '{"of a later version": 1,', 1))
    assert Statistics.load(tmp_path) == stats
    assert "contrast" not in Statistics(0.25, 0.5, 64, "made").as_dict()


def test_images_of_one_grey_have_no_statistics(tmp_path):
    films = [ProcessedXRay(np.full((8, 8), 0.5, np.float16), {"name": name}, name) for name in "ab"]
    with pytest.raises(ValueError, match="one grey"):
        write_processed_folder(tmp_path, films, lambda: (["train", "val"], "made"), 8, "made")
    assert not (tmp_path / "stats.json").exists()
