"""Preparing films for the ChestX-Det companion, and the datasets that serve them."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from chestxdet_films import BAD, entry, many, prepare_quietly, write_folder, write_image

from companions.chestxdet import data
from companions.chestxdet.data import FindingsDataset, assign_splits, drop_tested_patients, summarise
from companions.chestxdet.layouts import AnnotatedXRay
from heartbox.data.tables import Problem
from heartbox.xray.contrast import normalize_contrast


def test_official_test_films_stay():
    films = [AnnotatedXRay(f"{k}.png", "test" if k < 20 else "train", k % 3 > 0, ()) for k in range(100)]
    splits = assign_splits(films, seed=1)
    assert (splits[:20] == "test").all()
    assert not (splits[20:] == "test").any()
    assert (splits[20:] == "val").sum() == 16


def test_official_test_films_do_not_unbalance_the_others():
    """Ill films are many on the test side and few beside it: those few are spread evenly all the same."""
    films = [AnnotatedXRay(f"{k}.png", "test", k % 10 > 0, ()) for k in range(100)]
    films += [AnnotatedXRay(f"{k}.png", "train", k < 105, ()) for k in range(100, 150)]
    for seed in range(5):
        splits = assign_splits(films, seed)
        assert (splits[100:105] == "val").sum() == 1


def test_other_films_of_a_test_patient_teach_nothing():
    films = [AnnotatedXRay("00000001_000.png", "test", True, ()), AnnotatedXRay("00000001_001.png", "test", True, ())]
    films += [AnnotatedXRay(f"{k:08d}_002.png", "train", k % 2 > 0, ()) for k in range(1, 4)]
    kept, problems = drop_tested_patients(films)
    assert [film.name for film in kept] == [film.name for film in films if film.name != "00000001_002.png"]
    assert [(problem.name, problem.kind) for problem in problems] == [("00000001_002.png", "patient")]


def test_prepared_again_and_after_a_change(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    made = prepare_quietly(folder, tmp_path / "out", size=32)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    stamp = (tmp_path / "out" / "images.npy").stat().st_mtime_ns
    prepare_quietly(folder, tmp_path / "out", size=32)
    assert (tmp_path / "out" / "images.npy").stat().st_mtime_ns == stamp
    shutil.rmtree(tmp_path / "out")
    prepare_quietly(folder, tmp_path / "out", size=32)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    changed = [*many(0, 19), entry("19.png")]
    (folder / "train.json").write_text(json.dumps(changed))
    assert (
        prepare_quietly(folder, tmp_path / "out", size=32).films["abnormal"].sum() == made.films["abnormal"].sum() - 1
    )


def test_a_box_that_is_a_rounding_too_far_is_clipped(tmp_path):
    train = [*many(0, 20), entry("edge.png", ("Mass", [-0.4, 10, 30, 64.5]))]
    made = prepare_quietly(write_folder(tmp_path / "raw", train, many(50, 6)), tmp_path / "out", size=64)
    assert len(made.problems) == 0
    row = int(np.flatnonzero(made.films["name"] == "edge.png")[0])
    box = made.boxes.loc[made.boxes["film"] == row, ["x_min", "y_min", "x_max", "y_max"]].to_numpy()[0]
    assert box.tolist() == [0, 10, 30, 64]


def test_only_what_was_prepared_is_ever_replaced(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="where the raw files lie"):
        prepare_quietly(folder, folder, size=32)
    prepare_quietly(folder, folder / "train_data", size=32)  # of all places
    prepare_quietly(folder, folder / "train_data", size=64)
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_prepared_folder_is_made_anew(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    prepare_quietly(folder, tmp_path / "out", size=32)
    (tmp_path / "out" / "stats.json").write_text("{")
    prepare_quietly(folder, tmp_path / "out", size=32)
    (tmp_path / "out" / "boxes.csv").unlink()
    assert len(prepare_quietly(folder, tmp_path / "out", size=32).films) == 26


def test_images_that_are_broken_or_unknown(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 24), many(50, 6))
    whole = (folder / "train_data" / "1.png").read_bytes()
    (folder / "train_data" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train_data" / "2.png").write_bytes(b"no picture")
    cv2.imwrite(str(folder / "train_data" / "4.png"), np.full((64, 64), 90, np.uint8))
    write_image(folder / "train_data" / "stranger.png")
    made = prepare_quietly(folder, tmp_path / "out", size=64)
    problems = made.problems.set_index("name")
    assert problems["kind"].to_dict() == {
        "1.png": "unreadable", "2.png": "unreadable", "4.png": "unreadable", "stranger.png": "no label"
    }  # fmt: skip
    assert "grey" in problems.loc["4.png", "reason"]
    assert len(made.films) == 27
    assert str(tmp_path) not in " ".join(problems["reason"])  # the table is shown in the notebook
    assert summarise(made.problems)["count"].sum() == 4


def test_any_exception_of_a_film_stays_its_problem(tmp_path, monkeypatch):
    """Not only errors that are expected: the others are read, and the folder is finished."""
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    read_film = data.read_film

    def failing(film, size, even):
        if film.name == "3.png":
            raise MemoryError("a film of 10 GB")
        return read_film(film, size, even)

    monkeypatch.setattr(data, "read_film", failing)
    made = prepare_quietly(folder, tmp_path / "out", size=32, log=tmp_path / "log.txt")
    assert len(made.films) == 25
    (problem,) = made.problems.itertuples(index=False)
    assert (problem.name, problem.kind) == ("3.png", "error")
    assert "a film of 10 GB" in problem.reason
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_contrast_is_normalised_as_for_the_heart_weights(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    path = folder / "train_data" / "0.png"
    cv2.imwrite(str(path), 200 + cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 8)  # pale
    even, bare = (prepare_quietly(folder, tmp_path / str(even), size=64, even=even) for even in (True, False))
    assert (even.stats["contrast"], bare.stats.get("contrast")) == ("even", None)
    assert bare.images[0].min() >= 200
    expected = np.rint(normalize_contrast(bare.images[0] / np.float32(255)) * 255)
    assert np.abs(even.images[0] - expected).max() <= 1


def test_what_is_refused_as_a_whole(tmp_path):
    def folder(name: str, train: object, test: object) -> Path:
        made = write_folder(tmp_path / name, [], [])
        for split, entries in (("train", train), ("test", test)):
            (made / f"{split}.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
        return made

    with pytest.raises(ValueError, match=r"train\.json: cannot be read as JSON"):
        prepare_quietly(folder("cut", '[{"file_name": ', many(50, 6)), tmp_path / "out")
    with pytest.raises(ValueError, match=r"test\.json: expected a list of entries"):
        prepare_quietly(folder("dict", many(0, 20), {}), tmp_path / "out")
    few = write_folder(tmp_path / "few", [*many(0, 3), *[BAD["unknown finding"][0]] * 20], many(50, 10))
    with pytest.raises(ValueError, match="few: films of 3 patients are left .* x label .*unknown finding"):
        prepare_quietly(few, tmp_path / "out", size=32)
    with pytest.raises(ValueError, match="no annotation can be used; the first reason"):
        prepare_quietly(folder("none", [BAD["null for a list"][0]], [7]), tmp_path / "out")
    healthy = write_folder(tmp_path / "healthy", [entry(f"{k}.png") for k in range(20)], many(50, 6))
    with pytest.raises(ValueError, match="'train' has 0 abnormal .* empty list of findings"):
        prepare_quietly(healthy, tmp_path / "out", size=32)
    with pytest.raises(FileNotFoundError, match="none of the layouts"):
        prepare_quietly(tmp_path, tmp_path / "out")


def test_problems_of_one_kind_are_counted_together():
    problems = [Problem(f"{k}.png", "box", f"train.json, entry {k}: the box [{k}, 2] is empty") for k in range(5)]
    table = summarise([*problems, Problem("x.png", "label", "unknown finding 'A'")])
    assert table["count"].to_dict() == {"box": 5, "label": 1}
    assert table.loc["box", "examples"] == "0.png, 1.png"
    assert table.loc["box", "reason of the first"] == problems[0].reason
    assert len(summarise([])) == 0


def test_boxes_move_with_the_film(small):
    plain, moved = FindingsDataset(small, "train"), FindingsDataset(small, "train", augment=True)
    torch.manual_seed(0)
    for i in range(len(plain)):
        image, target = moved[i]
        assert image.shape == (1, 64, 64)
        for box in target["boxes"].round().int().tolist():
            x0, y0, x1, y1 = box
            inside = image[0, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
            assert inside.numel() == 0 or inside.mean() > 2 * image.mean()
    assert sum(len(boxes) for boxes, _ in plain.targets) == small.films.query("split == 'train'")["abnormal"].sum()
