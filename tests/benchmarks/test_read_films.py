"""Films read by eye join those with masks: their borders, their folds, and the tables of answers to them."""

import shutil
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import read_accuracy
from folds import FOLDS, ROWS, describe, fold_folder, prepare_read_folds, repeat_read_films, run_folder
from read_films import HANNOVER, NIH, SIDES, UNREAD, borrow_outlines, read_borders

from cardiac_dataset import CardiacDataset
from heartbox.boxes import transform_outline
from heartbox.data.store import BOX_COLUMNS, Statistics, load_labels

KEPT_AS_THEY_ARE = [[1, 0, 0], [0, 1, 0]]
LEFT = 64  # columns of black beside the film that is padded


def write_film(path, seed: int, shape=(128, 160), left: int = 0) -> None:
    """Write a film of coarse noise, with a plain black border on its left."""
    noise = np.random.default_rng(seed).integers(60, 256, (shape[0] // 8, shape[1] // 8), np.uint8)
    film = cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), np.pad(film, ((0, 0), (left, 0))), [cv2.IMWRITE_JPEG_QUALITY, 100])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a data folder: 22 films read by eye (two of one patient), some not read, four with a chest alone."""
    data = tmp_path_factory.mktemp("data")
    for part in ("nih", "hannover"):
        (data / part / "images").mkdir(parents=True)
    rows = []
    for i in range(22):
        name = f"{max(i, 1):08d}_{i:03d}.jpg"  # films 0 and 1 are of patient 1
        write_film(data / "nih" / "images" / name, i, left=LEFT if i == 2 else 0)
        right = np.nan if i == 3 else 150 + i % 5
        second = [91.0, 160, 31, 201] if i < 6 else [np.nan] * 4
        rows.append([name, 90 + i % 7, right, 30, 200 + i % 3, "good" if i % 2 else "poor", "", *second])
    second = ["second_heart_left", "second_heart_right", "second_thorax_left", "second_thorax_right"]
    columns = ["file", "heart_left", "heart_right", "thorax_left", "thorax_right", "quality", "remark", *second]
    pd.DataFrame(rows, columns=columns).to_csv(data / "nih" / "heart_borders.csv", index=False)
    for name in ("00000005_077.jpg", "00000090_000.jpg", "00000091_000.jpg"):  # the first is of a patient who was read
        write_film(data / "nih" / "images" / name, 50)
    rows = [["a.jpg", 1, 16.0, 144.0], ["b.jpg", 1, 20.0, 159.9], ["c.jpg", 2, np.nan, np.nan], ["d.jpg", 3, 8.0, 152]]
    hannover = pd.DataFrame(rows, columns=["file", "patient", "thorax_x_min", "thorax_x_max"])
    hannover.assign(width=160, height=128).to_csv(data / "hannover" / "labels.csv", index=False)
    for i, name in enumerate(hannover["file"]):
        write_film(data / "hannover" / "images" / name, 60 + i)
    (data / "ctr").mkdir()
    return data


@pytest.fixture(scope="module")
def work(processed_with_masks, tmp_path_factory):
    """Return a work folder whose 36 films with masks are of two collections; the first was excluded."""
    work = tmp_path_factory.mktemp("work")
    shutil.copytree(processed_with_masks, work / "processed")
    labels = load_labels(work / "processed")
    labels["source"] = np.where(np.arange(len(labels)) % 2, "jsrt", "wingspan")
    labels.loc[0, "split"] = "unused"
    labels.to_csv(work / "processed" / "labels.csv", index=False)
    return work


@pytest.fixture(scope="module")
def labels(work):
    labels = load_labels(work / "processed")
    return labels.assign(fold=np.where(labels["split"] == "unused", -1, np.arange(len(labels)) % FOLDS))


@pytest.fixture(scope="module")
def joint(labels, data, work):
    return prepare_read_folds(labels, data, work)


def test_borders_are_shares_of_the_width_and_hidden_ones_unknown(data):
    films = read_borders(data).set_index("name")
    assert films["source"].value_counts().to_dict() == {NIH: 22, HANNOVER: 3, UNREAD: 2}
    assert films.loc["00000002_002.jpg", ["x0", "x1", "x2", "x3"]].tolist() == [
        92 / 224,
        152 / 224,
        30 / 224,
        202 / 224,
    ]
    assert films.loc["00000003_003.jpg", ["x0", "x1"]].isna().tolist() == [False, True]
    assert films.loc["a.jpg", ["x2", "x3"]].tolist() == [0.1, 0.9]
    assert films.loc["b.jpg", ["x2", "x3"]].isna().tolist() == [False, True]  # it goes on beyond the film's edge
    assert films.loc[["a.jpg", "00000090_000.jpg"], "x0"].isna().all()
    assert "00000005_077.jpg" not in films.index and "c.jpg" not in films.index
    assert films.loc["00000001_000.jpg", "patient"] == films.loc["00000001_001.jpg", "patient"] == "nih 00000001"


def test_a_folder_without_readings_is_named(tmp_path):
    with pytest.raises(SystemExit, match="neither nih/heart_borders.csv nor hannover/labels.csv"):
        read_borders(tmp_path)


def test_borders_go_through_the_crop(joint, work):
    films = joint.set_index("name")
    edges = films[BOX_COLUMNS].to_numpy()[:, SIDES]
    row = films.index.get_loc("00000004_004.jpg")
    assert edges[row] == pytest.approx(np.array([94, 154, 30, 201]) / 224 * 64, abs=1e-5)
    # 224 columns, of which the left 64 are black: the film is 160 wide, and a reading is in columns of the file.
    row = films.index.get_loc("00000002_002.jpg")
    assert edges[row] == pytest.approx((np.array([92, 152, 30, 202]) - LEFT) / 160 * 64, abs=1e-5)
    assert films.loc["00000002_002.jpg", ["rows", "columns"]].tolist() == [128, 160]
    assert list(Statistics.load(work / "joint").cropped) == ["00000002_002.jpg"]
    assert films.loc["a.jpg", "thorax_x_max"] == pytest.approx(0.9 * 64)


def test_what_nobody_read_stays_unknown(joint, labels):
    pd.testing.assert_frame_equal(joint[BOX_COLUMNS].iloc[: len(labels)], labels[BOX_COLUMNS])
    read = joint.iloc[len(labels) :].set_index("name")
    assert read[[name for name in BOX_COLUMNS if "_y_" in name]].isna().all(axis=None)
    assert np.isnan(read.loc["00000003_003.jpg", "heart_x_max"])
    assert read.loc["b.jpg", "thorax_x_max":"thorax_x_max"].isna().all()
    assert read.loc[read["source"] == HANNOVER, "heart_x_min"].isna().all()
    assert read.loc[read["source"] == UNREAD, BOX_COLUMNS].isna().all(axis=None)


def test_no_patient_is_in_two_folds(joint, labels, work):
    read = joint["source"].isin([NIH, HANNOVER])
    assert (joint.loc[read, "fold"] >= 0).all() and (joint.loc[~read, "fold"].iloc[len(labels) :] == -1).all()
    assert (joint[read].groupby("patient")["fold"].nunique() == 1).all()
    assert joint.loc[read, "patient"].duplicated().sum() == 2  # so that the line above could fail
    np.testing.assert_array_equal(joint["fold"].iloc[: len(labels)], labels["fold"])
    masked = np.arange(len(joint)) < len(labels)
    for k in range(FOLDS):
        with_read, without = (load_labels(work / kind / str(k))["split"] for kind in ("with-read", "without-read"))
        here, elsewhere = joint["fold"] == k, (joint["fold"] >= 0) & (joint["fold"] != k)
        for split in (with_read, without):
            np.testing.assert_array_equal(split == "val", here)
            np.testing.assert_array_equal(split == "upright", joint["source"] == UNREAD)
        np.testing.assert_array_equal(with_read == "train", elsewhere)
        np.testing.assert_array_equal(without == "train", elsewhere & masked)
    everything = load_labels(work / "with-read" / "everything")["split"]
    np.testing.assert_array_equal(everything == "train", joint["fold"] >= 0)
    assert fold_folder(work, "edges, read films", "2") == work / "with-read" / "2"
    assert fold_folder(work, "edges", "2") == work / "without-read" / "2"


def test_read_films_can_be_learnt_from(joint, work):
    """What augmentation moves is known or not, as before, and their masks are none."""
    train = CardiacDataset(work / "with-read" / "0", "train", "ward", ("heart", "thorax"), "mask", masks=True)
    position = int(np.flatnonzero(train.labels["source"] == NIH)[0])
    x, boxes, masks = (one.numpy() for one in train[position])
    assert np.isfinite(x).all() and not masks.any()
    np.testing.assert_array_equal(np.isnan(boxes), np.isnan(train.boxes[position].ravel()))
    assert np.isnan(boxes).sum() >= 4


def test_read_films_can_be_shown_more_than_once(joint, work):
    once, twice = (CardiacDataset(work / "with-read" / "0", "train", targets=("heart", "thorax")) for _ in range(2))
    repeat_read_films(twice, 2)
    read = (once.labels["source"] == NIH).sum()
    assert 0 < read < len(once) and len(twice) == len(once) + read
    assert (twice.labels["source"] == NIH).sum() == 2 * read
    for k in range(len(twice)):
        original = once.labels.index[once.labels["name"] == twice.labels["name"][k]][0]
        assert torch.equal(twice[k][0], once[original][0])
        np.testing.assert_array_equal(twice[k][1], once[original][1])


def test_outlines_are_borrowed_for_the_edges_that_are_known(processed_with_masks):
    labelled = CardiacDataset(processed_with_masks, "train", targets=("heart", "thorax"), rule="mask")
    outlines = np.stack([labelled.outlines(i) for i in range(len(labelled))])
    boxes = labelled.boxes[7].astype(float).copy()
    boxes[:, [1, 3]] = np.nan
    boxes[0, 0] += 0.5
    for box, own, outline in zip(
        boxes, labelled.boxes[7], borrow_outlines(boxes, labelled.boxes, outlines), strict=True
    ):
        expected = np.where(np.isnan(box), own, box)
        np.testing.assert_allclose(transform_outline(outline, KEPT_AS_THEY_ARE), expected, atol=1.0)
    unknown = borrow_outlines(np.full((2, 4), np.nan), labelled.boxes, outlines)
    assert np.isfinite(unknown).all()


# ---------------------------------------------------------------- tables


def made_answers(folder, row: str, work, seed: int) -> dict:
    """Return answers to a fold's validation films, right to about a pixel; the heart's right border of two is not."""
    val = CardiacDataset(folder, "val", targets=("heart", "thorax"))
    rng, count = np.random.default_rng(seed), len(val)
    truth = val.boxes.reshape(count, 8).astype(float)
    std = rng.uniform(1, 2, (count, 8))
    predicted = np.nan_to_num(truth, nan=30.0) + std * rng.standard_normal((count, 8)).clip(-1.5, 1.5)
    names = val.labels["name"].to_numpy(dtype=str)
    off = np.isin(names, ["00000010_010.jpg", "00000011_011.jpg"])
    predicted[off, 2] += 20
    std[names == "00000010_010.jpg", 2] += 9  # of one the network is unsure
    edges = slice(0, 4 if ROWS[row].head == "regression" else 8)
    answers = {"names": names, "predicted": predicted[:, edges], "truth": truth[:, edges]}
    answers |= {"seconds": np.array(1.0), "settings": np.array(describe(folder, ROWS[row], 0, work))}
    return answers | ({} if ROWS[row].head == "regression" else {"std": std})


@pytest.fixture
def page(joint, data, labels, work, monkeypatch) -> list[str]:
    """Return the lines that the benchmark writes of made answers of two rows."""
    rows = ("classic ResNet18, as published", "edges")
    for row in rows:
        for k in map(str, range(FOLDS)):
            out = run_folder(work, row, k)
            out.mkdir(parents=True, exist_ok=True)
            np.savez(out / "answers.npz", **made_answers(fold_folder(work, row, k), row, work, int(k)))
    written = {}
    monkeypatch.setattr(read_accuracy, "write_table", written.__setitem__)
    monkeypatch.setattr(read_accuracy, "prepare_folds", lambda folder, out: labels)
    monkeypatch.setattr(read_accuracy, "answer", lambda *_: pytest.fail("nothing was to be trained"))
    command = ["read_accuracy.py", str(data), "--work", str(work), "--rows", *rows, "--seeds", "0", "--no-training"]
    monkeypatch.setattr(sys, "argv", command)
    read_accuracy.main()
    return written["read_films.md"]


def test_tables_are_written_from_answers(page):
    lines = page
    cells = {
        line.split(" | ")[0].strip("| ") + ", " + line.split(" | ")[1]: line.split(" | ")
        for line in lines
        if " | " in line
    }
    # Each table has as many cells in every line as in its head.
    widths = [line.count("|") for line in lines]
    for line, width, below in zip(lines, widths, [*widths[1:], 0], strict=True):
        assert not line.startswith("|") or below in (0, width), line
    edges = "edges, seed 0"
    assert cells[f"{edges}, all (22)"][-1] == "2 |"
    assert cells["classic ResNet18, as published, seed 0, all (22)"][4:6] == ["-", "-"]  # it knows no chest
    assert cells[f"{edges}, good quality (11)"] and cells[f"{edges}, fair or poor quality (11)"]
    assert cells[f"{edges}, against the second reading (6)"]
    flagged = int(next(key for key in cells if key.startswith(f"{edges}, flagged"))[:-1].split("(")[1])
    unflagged = int(next(key for key in cells if key.startswith(f"{edges}, not flagged"))[:-1].split("(")[1])
    assert flagged + unflagged == 22 and flagged >= 1
    # Of the two films that are far off, one carries a flag; the same number is silent.
    assert cells[f"{edges}, 98%"][2] == "1 of 2" and cells[f"{edges}, 98%"][-1] == "1 |"
    groups = [key for key in cells if "std" in key]
    assert len(groups) == 2 and all(groups)


def test_the_two_readings_are_compared(page):
    """In the network's pixels, 64 a side, and for the cropped film in those of its own crop."""
    row = next(line for line in page if line.startswith("| two readings")).split(" | ")
    left = [abs(90 + i - 91) / 224 * 64 * (224 / 160 if i == 2 else 1) for i in range(6)]
    right = [abs(150 + i % 5 - 160) / 224 * 64 * (224 / 160 if i == 2 else 1) for i in range(6) if i != 3]
    assert row[1] == "read twice (6)"
    assert float(row[2]) == pytest.approx(np.mean(left), abs=0.006)
    assert float(row[3]) == pytest.approx(np.mean(right), abs=0.006)


def test_a_row_that_is_not_complete_is_left_out(page, work, monkeypatch):
    shutil.rmtree(run_folder(work, "edges", "3"))
    monkeypatch.setattr(read_accuracy, "write_table", lambda name, lines: page.__setitem__(slice(None), lines))
    monkeypatch.setattr(read_accuracy, "reading_row", lambda found: pytest.fail("no row with distributions is whole"))
    read_accuracy.main()
    assert not any(line.startswith("| edges") for line in page)
    assert any(line.startswith("| classic") for line in page)
