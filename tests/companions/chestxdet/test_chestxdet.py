"""The companion on ChestX-Det10: its loader on the real forms and on bad input, its measures, its notebook."""

import functools
import json
import math
import re
import shutil
from pathlib import Path

import cv2
import helpers
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

optuna = pytest.importorskip("optuna")
pytest.importorskip("torchmetrics")
pytest.importorskip("pycocotools")

from helpers import ROOT  # noqa: E402

from companions.chestxdet.data import AbnormalityDataset, Collection, FindingsDataset, assign_sides, part_patients  # noqa: E402
from companions.chestxdet.data import prepare as prepare_with_bar  # noqa: E402
from companions.chestxdet.layouts import (  # noqa: E402
    TEN,
    THIRTEEN,
    AnnotatedXRay,
    Problem,
    find_data,
    match_images,
    read_annotations,
    recognise_layout,
    summarise,
)
from companions.chestxdet.metrics import (  # noqa: E402
    average_precision,
    choose_threshold,
    confusion,
    count_findings,
    match_boxes,
    threshold_at_floor,
    usual_boxes,
    wilson,
)
from companions.chestxdet.model import Detection, DetectionTask, SmallCNN, find, make_detector, score_films  # noqa: E402
from companions.chestxdet.sample import PLANTED, Planter, write_sample  # noqa: E402
from companions.chestxdet.tuning import tune  # noqa: E402
from heartbox.phantom import render, sample_subject  # noqa: E402
from heartbox.training.loop import fit  # noqa: E402
from heartbox.training.task import Schedule  # noqa: E402
from heartbox.xray.contrast import normalize_contrast  # noqa: E402

NOTEBOOK = "ChestX-Det10.ipynb"
torch.set_num_threads(1)
# A handful of films is read sooner than another process is started.
prepare = functools.partial(prepare_with_bar, processes=1, progress=False)


# ---------------------------------------------------------------- small made folders


def entry(name: str, *found, **more) -> dict:
    """Return an entry of a json; `found` are pairs of name and box."""
    return {"file_name": name, "syms": [sym for sym, _ in found], "boxes": [box for _, box in found], **more}


def write_image(path: Path, size=(64, 64), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8))


def write_folder(folder: Path, train: list, test: list, form: str = "ChestX-Det10", images=True) -> Path:
    """Write a folder in one of the two forms; every named entry gets an image of 64 px."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "ChestX_Det_" if form == "ChestX-Det" else ""
    for side, entries in (("train", train), ("test", test)):
        (folder / f"{stem}{side}.json").write_text(json.dumps(entries))
        for k, one in enumerate(entries if images else []):
            if isinstance(one, dict) and re.fullmatch(r"[\w.]+", str(one.get("file_name"))):
                write_image(folder / f"{side}_data" / one["file_name"], seed=k)
    return folder


def many(start: int, count: int) -> list:
    """Return entries of which every other one is normal."""
    return [entry(f"{k}.png", *([("Nodule", [8, 8, 24, 24])] if k % 2 else [])) for k in range(start, start + count)]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Collection:
    """Return a prepared folder of 40 made films of 64 px; ill ones have a bright square, a 'Mass'."""
    folder, rng = tmp_path_factory.mktemp("small"), np.random.default_rng(0)
    sides = {"train": [], "test": []}
    for k in range(40):
        image = rng.integers(0, 60, (64, 64), dtype=np.uint8)
        found = []
        if k % 2:
            x, y = rng.integers(4, 36, 2).tolist()
            image[y : y + 24, x : x + 24] = 230
            found = [("Mass", [x, y, x + 24, y + 24])]
        side = "test" if k >= 30 else "train"
        sides[side].append(entry(f"{k}.png", *found))
        (folder / f"{side}_data").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{side}_data" / f"{k}.png"), image)
    write_folder(folder, **sides, images=False)
    return prepare(folder, folder / "out", size=64)


# ---------------------------------------------------------------- the loader on good input


def test_ten_findings(tmp_path):
    """ChestX-Det10: boxes without polygons, an empty list is a normal film, boxes in pixels of the original."""
    films = many(0, 20) + [entry("77.png", ("Effusion", [0, 32, 32, 64]), ("Mass", [16, 0, 64, 16]))]
    folder = write_folder(tmp_path / "raw", films, many(100, 8))
    assert recognise_layout(folder) == "ChestX-Det10"
    made = prepare(folder, tmp_path / "out", size=32)
    assert len(made.problems) == 0
    assert made.films["side"].value_counts()["test"] == 8
    assert made.findings == ("Effusion", "Mass", "Nodule") or made.findings == ("Nodule",)  # 77 may validate
    row = int(np.flatnonzero(made.films["name"] == "77.png")[0])
    boxes = made.boxes[made.boxes["film"] == row]
    assert boxes["finding"].tolist() == ["Effusion", "Mass"]
    assert boxes[["x_min", "y_min", "x_max", "y_max"]].to_numpy().tolist() == [[0, 16, 16, 32], [8, 0, 32, 8]]
    assert made.images().shape == (29, 32, 32)
    assert made.films["ill"].tolist() == [len(one["syms"]) > 0 for one in films + many(100, 8)]


def test_thirteen_findings_and_polygons(tmp_path):
    """ChestX-Det: a film with a finding that is not asked for is ill, and its box is not taught."""
    train = [entry(**{"name": f"{k}.png"}, polygons=[]) for k in range(10)]
    for k in range(10, 20):
        train.append(entry(f"{k}.png", ("Cardiomegaly", [4, 4, 40, 40]), ("Nodule", [8, 8, 20, 20]), polygons=[[], []]))
    folder = write_folder(tmp_path / "raw", train, many(50, 6), "ChestX-Det")
    assert recognise_layout(folder) == "ChestX-Det"
    ten = prepare(folder, tmp_path / "ten", size=64, findings=TEN)
    assert ten.findings == ("Nodule",)
    both = prepare(folder, tmp_path / "all", size=64, findings=THIRTEEN)
    assert both.findings == ("Cardiomegaly", "Nodule")
    row = int(np.flatnonzero(both.films["name"] == "12.png")[0])
    assert ten.boxes_of(row)[1].tolist() == [1]
    assert both.boxes_of(row)[1].tolist() == [1, 2]
    assert ten.films["ill"].sum() == 13


def test_nih_form(tmp_path):
    """Films that RSNA's readers did not see have unknown boxes, not none: they teach stage 1 alone."""
    labels, boxes = [], []
    for k in range(40):
        name = f"{k // 2:08d}_{k % 2:03d}.jpg"
        write_image(tmp_path / "images" / name, seed=k)
        seen = {0: "Lung Opacity", 1: "Normal", 2: None, 3: None}[k % 4]
        labels.append({"file": name, "nih_label": "pneumonia" if k % 4 in (0, 2) else "no finding", "rsna_class": seen})
        if seen == "Lung Opacity":
            boxes.append({"file": name, "x": 128.0, "y": 256.0, "width": 64.0, "height": 128.0})
    pd.DataFrame(labels).to_csv(tmp_path / "labels.csv", index=False)
    pd.DataFrame(boxes).to_csv(tmp_path / "opacity_boxes_512.csv", index=False)
    made = prepare(tmp_path, tmp_path / "out", size=64)
    assert made.stats["layout"] == "NIH"
    assert made.findings == ("Opacity",)
    assert made.films["located"].sum() == 20
    assert made.films.groupby("patient")["side"].nunique().max() == 1
    assert len(made.rows("train", located=True)) < len(made.rows("train"))
    row = int(np.flatnonzero(made.films["name"] == "00000000_000.jpg")[0])
    assert made.boxes_of(row)[0].tolist() == [[16, 32, 24, 48]]  # given at 512, the image has 64


def test_real_jsons(real_data, tmp_path):
    folder = real_data / "chestxdet"
    films, problems = read_annotations(folder)
    assert len(films) == 3578
    assert problems == []
    assert sum(film.split == "test" for film in films) == 553
    assert sum(not film.ill for film in films) == 547 + 64
    assert {name for film in films for name in film.findings} == set(THIRTEEN)
    matched, missing = match_images(folder, films)
    assert sorted(film.name for film in matched) == ["36199.png", "36203.png", "36216.png", "36229.png"]
    assert len(missing) == 3574
    with pytest.raises(ValueError, match=r"4 films have both .* 3574 x annotated, but there is no such image"):
        prepare(folder, tmp_path / "out")


def test_real_nih(real_data):
    films, problems = read_annotations(real_data / "nih")
    assert len(films) == 800
    # NIH found nothing in these, and RSNA's readers drew a box.
    assert [problem.file for problem in problems] == ["00002649_008.jpg", "00003005_022.jpg", "00003369_013.jpg"]
    assert {problem.consequence for problem in problems} == {"taken for ill, with its boxes"}
    assert sum(film.ill for film in films) == 398 + 3
    assert sum(len(film.boxes) for film in films) == 163
    assert sum(film.findings is not None for film in films) == 260
    sides = assign_sides(films)
    homes = pd.DataFrame({"patient": [film.patient for film in films], "side": sides}).groupby("patient")["side"]
    assert homes.nunique().max() == 1


def test_sides_keep_the_official_test_films():
    films = [AnnotatedXRay(f"{k}.png", "test" if k < 20 else "train", k % 3 > 0, ()) for k in range(100)]
    sides = assign_sides(films, seed=1)
    assert (sides[:20] == "test").all()
    assert not (sides[20:] == "test").any()
    assert (sides[20:] == "val").sum() == 16


def test_official_test_films_do_not_unbalance_the_others():
    """Ill films are many on the test side and few beside it: those few are spread evenly all the same."""
    films = [AnnotatedXRay(f"{k}.png", "test", k % 10 > 0, ()) for k in range(100)]
    films += [AnnotatedXRay(f"{k}.png", "train", k < 105, ()) for k in range(100, 150)]
    for seed in range(5):
        sides = assign_sides(films, seed)
        assert (sides[100:105] == "val").sum() == 1


def test_other_films_of_a_test_patient_teach_nothing():
    films = [AnnotatedXRay("00000001_000.png", "test", True, ()), AnnotatedXRay("00000001_001.png", "test", True, ())]
    films += [AnnotatedXRay(f"{k:08d}_002.png", "train", k % 2 > 0, ()) for k in range(1, 4)]
    kept, problems = part_patients(films)
    assert [film.name for film in kept] == [film.name for film in films if film.name != "00000001_002.png"]
    assert [(problem.file, problem.consequence) for problem in problems] == [("00000001_002.png", "left out")]


def test_prepared_again_and_after_a_change(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    made = prepare(folder, tmp_path / "out", size=32)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    stamp = (tmp_path / "out" / "images.npy").stat().st_mtime_ns
    prepare(folder, tmp_path / "out", size=32)
    assert (tmp_path / "out" / "images.npy").stat().st_mtime_ns == stamp
    shutil.rmtree(tmp_path / "out")
    prepare(folder, tmp_path / "out", size=32)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    changed = [*many(0, 19), entry("19.png")]
    (folder / "train.json").write_text(json.dumps(changed))
    assert prepare(folder, tmp_path / "out", size=32).films["ill"].sum() == made.films["ill"].sum() - 1


# ---------------------------------------------------------------- the loader on bad input

BAD = {
    "a box outside": (entry("bad.png", ("Mass", [10, 10, 90, 30])), "reaches outside the image of 64 x 64"),
    "a box without size": (entry("bad.png", ("Mass", [10, 10, 10, 30])), "has no size"),
    "shares for pixels": (entry("bad.png", ("Mass", [0.1, 0.1, 0.5, 0.5])), "less than a pixel"),
    "an inside-out box": (entry("bad.png", ("Mass", [30, 30, 10, 10])), "has no size"),
    "three numbers": (entry("bad.png", ("Mass", [10, 10, 30])), "four numbers"),
    "words in a box": (entry("bad.png", ("Mass", [1, 2, "x", 4])), "four numbers"),
    "not a number": (entry("bad.png", ("Mass", [1, 2, float("nan"), 4])), "four numbers"),
    "unknown finding": (entry("bad.png", ("Nodul", [1, 2, 30, 40])), "unknown finding 'Nodul'"),
    "different lengths": ({"file_name": "bad.png", "syms": ["Mass"], "boxes": []}, "1 syms, 0 boxes"),
    "polygons too few": (entry("bad.png", ("Mass", [1, 2, 30, 40]), polygons=[]), "1 boxes, 0 polygons"),
    "no list of findings": ({"file_name": "bad.png", "boxes": []}, "no list of syms; a normal film"),
    "null for a list": ({"file_name": "bad.png", "syms": None, "boxes": []}, "no list of syms"),
    "no such image": (entry("else where.png"), "there is no such image"),
    "a path for a name": (entry("../bad.png"), "not a plain name"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_entry_is_named_and_left_out(tmp_path, kind):
    bad, words = BAD[kind]
    folder = write_folder(tmp_path / "raw", [*many(0, 20), bad], many(50, 6))
    made = prepare(folder, tmp_path / "out", size=64)
    assert len(made.films) == 26
    assert made.problems["file"].tolist() == [bad["file_name"]]
    assert words in made.problems["fault"][0]
    assert made.problems["consequence"].tolist() == ["left out"]


def test_a_box_that_is_a_rounding_too_far_is_clipped(tmp_path):
    train = [*many(0, 20), entry("edge.png", ("Mass", [-0.4, 10, 30, 64.5]))]
    made = prepare(write_folder(tmp_path / "raw", train, many(50, 6)), tmp_path / "out", size=64)
    assert len(made.problems) == 0
    row = int(np.flatnonzero(made.films["name"] == "edge.png")[0])
    box = made.boxes.loc[made.boxes["film"] == row, ["x_min", "y_min", "x_max", "y_max"]].to_numpy()[0]
    assert box.tolist() == [0, 10, 30, 64]


def test_only_what_was_prepared_is_ever_replaced(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="where the raw files lie"):
        prepare(folder, folder, size=32)
    prepare(folder, folder / "train_data", size=32)  # of all places
    prepare(folder, folder / "train_data", size=64)
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_prepared_folder_is_made_anew(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    prepare(folder, tmp_path / "out", size=32)
    (tmp_path / "out" / "stats.json").write_text("{")
    prepare(folder, tmp_path / "out", size=32)
    (tmp_path / "out" / "boxes.csv").unlink()
    assert len(prepare(folder, tmp_path / "out", size=32).films) == 26


def test_images_that_are_broken_or_unknown(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 24), many(50, 6))
    whole = (folder / "train_data" / "1.png").read_bytes()
    (folder / "train_data" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train_data" / "2.png").write_bytes(b"no picture")
    cv2.imwrite(str(folder / "train_data" / "4.png"), np.full((64, 64), 90, np.uint8))
    write_image(folder / "train_data" / "stranger.png")
    made = prepare(folder, tmp_path / "out", size=64)
    faults = made.problems.set_index("file")["fault"]
    assert sorted(faults.index) == ["1.png", "2.png", "4.png", "stranger.png"]
    assert "cut off" in faults["1.png"]
    assert "no DICOM, PNG" in faults["2.png"]
    assert "one even grey" in faults["4.png"]
    assert "without annotation" in faults["stranger.png"]
    assert len(made.films) == 27
    assert str(tmp_path) not in " ".join(faults)  # the table is shown in the notebook
    assert summarise(made.problems)["count"].sum() == 4


def test_a_refused_annotation_is_not_reported_twice(tmp_path):
    folder = write_folder(tmp_path / "raw", [*many(0, 20), BAD["unknown finding"][0]], many(50, 6))
    assert (folder / "train_data" / "bad.png").is_file()
    assert len(prepare(folder, tmp_path / "out", size=32).problems) == 1


def test_a_film_on_both_sides_tests_only(tmp_path):
    found = ("Nodule", [8, 8, 24, 24])
    folder = write_folder(tmp_path / "raw", [*many(0, 20), entry("51.png", found, found)], many(50, 6))
    made = prepare(folder, tmp_path / "out", size=32)
    assert (made.films["name"] == "51.png").sum() == 1
    assert made.films.set_index("name").loc["51.png", "side"] == "test"
    assert "a second entry" in made.problems["fault"][0]
    assert made.problems["consequence"][0] == "the first one is used"


def test_entries_of_one_film_that_contradict_each_other(tmp_path):
    folder = write_folder(tmp_path / "raw", [*many(0, 20), entry("3.png")], many(50, 6))
    films, problems = read_annotations(folder)
    assert "3.png" not in [film.name for film in films]
    assert [(one.file, one.consequence) for one in problems] == [("3.png", "left out")]
    assert problems[0].fault.endswith("a second entry, the first is in train.json, entry 4, with other findings")


def test_the_same_box_twice_is_one(tmp_path):
    found = ("Mass", [1, 2, 30, 40])
    folder = write_folder(tmp_path / "raw", [entry("a.png", found, ("Nodule", found[1]), found)], [])
    films, problems = read_annotations(folder)
    assert films[0].findings == ("Mass", "Nodule")
    assert films[0].boxes == ((1, 2, 30, 40), (1, 2, 30, 40))
    assert [(one.file, one.consequence) for one in problems] == [
        ("test.json", "films of the training side test instead")
    ]


def test_a_link_that_leads_nowhere_is_no_image(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    (folder / "train_data" / "3.png").unlink()
    (folder / "train_data" / "3.png").symlink_to(tmp_path / "nowhere.png")
    made = prepare(folder, tmp_path / "out", size=32)
    assert made.problems["fault"].tolist() == ["annotated, but there is no such image"]


def test_films_are_evened_as_the_heart_weights_learnt_them(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    path = folder / "train_data" / "0.png"
    cv2.imwrite(str(path), 200 + cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 8)  # pale
    even, bare = (prepare(folder, tmp_path / str(even), size=64, even=even) for even in (True, False))
    assert (even.stats["contrast"], bare.stats.get("contrast")) == ("even", None)
    assert bare.images()[0].min() >= 200
    expected = np.rint(normalize_contrast(bare.images()[0] / np.float32(255)) * 255)
    assert np.abs(even.images()[0] - expected).max() <= 1


def test_what_is_refused_as_a_whole(tmp_path):
    def folder(name: str, train: object, test: object) -> Path:
        made = write_folder(tmp_path / name, [], [])
        for side, entries in (("train", train), ("test", test)):
            (made / f"{side}.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
        return made

    with pytest.raises(ValueError, match=r"train\.json: cannot be read as JSON"):
        prepare(folder("cut", '[{"file_name": ', many(50, 6)), tmp_path / "out")
    with pytest.raises(ValueError, match=r"test\.json: a list of entries is expected"):
        prepare(folder("dict", many(0, 20), {}), tmp_path / "out")
    few = write_folder(tmp_path / "few", [*many(0, 3), *[BAD["unknown finding"][0]] * 20], many(50, 10))
    with pytest.raises(ValueError, match="few: films of 3 patients are left .* unknown finding"):
        prepare(few, tmp_path / "out", size=32)
    with pytest.raises(ValueError, match="no annotation can be used; the first reason"):
        prepare(folder("none", [BAD["null for a list"][0]], [7]), tmp_path / "out")
    healthy = write_folder(tmp_path / "healthy", [entry(f"{k}.png") for k in range(20)], many(50, 6))
    with pytest.raises(ValueError, match="train side has 0 ill .* empty list of findings"):
        prepare(healthy, tmp_path / "out", size=32)
    with pytest.raises(FileNotFoundError, match="none of the layouts"):
        prepare(tmp_path, tmp_path / "out")


def write_nih(folder: Path, rows: list, boxes: list) -> pd.DataFrame:
    """Write the two tables of NIH films without images; return that of the labels."""
    table = pd.DataFrame(rows, columns=["file", "nih_label", "rsna_class"])
    table.to_csv(folder / "labels.csv", index=False)
    boxes = pd.DataFrame(boxes, columns=["file", "x", "y", "width", "height"])
    boxes.to_csv(folder / "opacity_boxes_512.csv", index=False)
    return table


def test_nih_labels_and_boxes(tmp_path):
    rows = [
        ("00000004_000.jpg", "ill", ""),
        ("00000005_000.jpg", "Effusion|Pleural_Thickening", ""),
        ("00000006_000.jpg", "pneumonia", ""),
        ("00000006_000.jpg", "no finding", ""),
        ("00000007_000.jpg", "no finding", "Lung Opacity"),
        ("00000008_000.jpg", "pneumonia", "Lung Opacity"),
        ("00000008_000.jpg", "pneumonia", "Lung Opacity"),
    ]
    write_nih(tmp_path, rows, [(f"0000000{k}_000.jpg", 1, 2, 3, 4) for k in (7, 8, 8, 9)])
    films, problems = read_annotations(tmp_path)
    assert [(film.name[7], film.ill, len(film.boxes)) for film in films] == [
        ("5", True, 0), ("7", True, 1), ("8", True, 1)
    ]  # fmt: skip
    faults = {problem.file[7:8]: problem.fault for problem in problems}
    assert "the nih_label 'ill' is neither" in faults["4"]
    assert "several rows in labels.csv that say different things" in faults["6"]
    assert "1 boxes, but the nih_label is 'no finding'" in faults["7"]
    assert faults["8"] == "a second row in labels.csv"


def test_nih_contradictions(tmp_path):
    rows = [
        ("00000001_000.jpg", "pneumonia", "Lung Opacity"),
        ("00000002_000.jpg", "no finding", "Normal"),
        ("00000003_000.jpg", "", "Normal"),
        ("00000002_000.jpg", "no finding", ""),
        ("", "no finding", ""),
    ]
    boxes = [("00000002_000.jpg", 1, 2, 3, 4), ("00000009_000.jpg", 1, 2, 3, 4)]
    table = write_nih(tmp_path, rows, boxes)
    with pytest.raises(ValueError, match="no annotation can be used"):
        read_annotations(tmp_path)
    table.loc[[0, 3], "rsna_class"] = "Normal"
    table.to_csv(tmp_path / "labels.csv", index=False)
    films, problems = read_annotations(tmp_path)
    assert [film.name for film in films] == ["00000001_000.jpg"]
    faults = " | ".join(problem.fault for problem in problems)
    for words in ("no row in labels.csv", "1 boxes, but the RSNA class is Normal", "no nih_label",
                  "a second row", "without a file name"):  # fmt: skip
        assert words in faults
    (tmp_path / "labels.csv").write_text("file,nih_label\nx,y\n")
    with pytest.raises(ValueError, match="column rsna_class is missing"):
        read_annotations(tmp_path)


def test_where_the_data_is(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    assert find_data(tmp_path) == (tmp_path / "data" / "chestxdet-sample", False)
    write_folder(tmp_path / "data" / "chestxdet", many(0, 4), many(9, 2))
    assert find_data(tmp_path) == (tmp_path / "data" / "chestxdet", True)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"holds none of the layouts .*ChestX_Det_train.json.*train.json"):
        find_data(tmp_path)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_data(tmp_path)


def test_problems_of_one_kind_are_counted_together():
    problems = [Problem(f"{k}.png", f"train.json, entry {k}: the box [{k}, 2] has no size") for k in range(5)]
    table = summarise([*problems, Problem("x.png", "unknown finding 'A'", "left out")])
    assert table["count"].tolist() == [5, 1]
    assert table["examples"][0] == "0.png, 1.png"


# ---------------------------------------------------------------- the measures, by hand


def test_threshold_under_a_floor():
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    ill = [0, 0, 1, 0, 0, 1, 0, 1, 1]
    # Five normal films: a floor of 0.8 lets one of them pass as ill, the one at 0.7.
    best = threshold_at_floor(scores, ill, 0.8)
    assert best["threshold"] == pytest.approx(0.55)
    assert (best["recall"], best["specificity"]) == (0.75, 0.8)
    # No false alarm at all: only the two above 0.7 are left.
    assert threshold_at_floor(scores, ill, 1.0)["recall"] == 0.5
    # Among equal recalls the higher specificity: the normal film at 0.5 buys nothing.
    assert threshold_at_floor(scores, ill, 0.6)["specificity"] == 0.8
    assert threshold_at_floor(scores, ill, 0.0)["recall"] == 1.0


def test_everything_is_ill_gains_nothing():
    ill = [1, 1, 1, 0]
    assert confusion(np.ones(4), ill, 0.5)["recall"] == 1
    assert threshold_at_floor(np.ones(4), ill, 0.8)["recall"] == 0
    with pytest.raises(ValueError, match="ill and normal"):
        threshold_at_floor([0.1, 0.2], [1, 1], 0.8)
    with pytest.raises(FloatingPointError, match="not a number"):
        threshold_at_floor([0.1, math.nan], [1, 0], 0.8)


def test_confusion_by_hand():
    measured = confusion([0.9, 0.8, 0.4, 0.6, 0.1], [1, 1, 1, 0, 0], 0.5)
    assert [measured[key] for key in ("true_ill", "missed", "false_alarms", "true_normal")] == [2, 1, 1, 1]
    assert measured["accuracy"] == pytest.approx(3 / 5)
    assert measured["recall"] == measured["precision"] == measured["f1"] == pytest.approx(2 / 3)
    assert measured["specificity"] == 0.5
    assert math.isnan(confusion([0.1], [1], 0.5)["precision"])


def test_wilson_by_hand():
    # 8 of 10: (0.8 + 0.19207) / 1.38415 +- 1.95996 * sqrt(0.016 + 0.0096036) / 1.38415
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[0] == 0
    assert wilson(0, 0) == (0, 1)


def answer(*found) -> dict:
    """Return an answer of (box, label, score) or a truth of (box, label)."""
    made = {
        "boxes": torch.tensor([box for box, *_ in found], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([one[1] for one in found], dtype=torch.int64),
    }
    if not found or len(found[0]) == 3:
        made["scores"] = torch.tensor([one[2] for one in found], dtype=torch.float32)
    return made


A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]
HALF = [0, 0, 10, 4]  # overlaps A by 0.4


def test_average_precision_by_hand():
    """Right, false, right: precision 1 up to a recall of one half, then 2/3, at 51 and 50 of the 101 recalls."""
    found = average_precision([answer((A, 1, 0.9), (FAR, 1, 0.8), (B, 1, 0.7))], [answer((A, 1), (B, 1))], ["Mass"])
    assert found.map(0.5) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert found.map() == pytest.approx(found.map(0.5))  # exact boxes are found at every overlap
    assert found.boxes.tolist() == [2]


def test_average_precision_counts_overlap_and_absent_findings():
    truths = [answer((A, 1)), answer((B, 3))]
    found = average_precision([answer((HALF, 1, 0.9)), answer((B, 2, 0.9))], truths, ["Mass", "Nodule", "Effusion"])
    assert found.at(0.3)[0] == pytest.approx(1)
    assert found.at(0.5)[0] == 0
    assert math.isnan(found.at(0.5)[1])  # no true box: nothing can be said, though one was answered
    assert found.at(0.5)[2] == 0
    assert found.map(0.3) == pytest.approx(0.5)
    nothing = average_precision([answer()], [answer()], ["Mass"])
    assert math.isnan(nothing.map(0.5))
    with pytest.raises(ValueError, match="1 answers for 2 films"):
        average_precision([answer()], truths, ["Mass"])


def test_false_boxes_in_normal_films_cost_precision():
    truths = [answer((A, 1)), {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    found = average_precision([answer((A, 1, 0.5)), answer((A, 1, 0.9))], truths, ["Mass"])
    assert found.map(0.5) == pytest.approx(0.5)


def test_boxes_are_matched_once_and_best_first():
    truth = answer((A, 1), (B, 1), (A, 2))
    given = answer((A, 1, 0.6), (A, 1, 0.9), (FAR, 1, 0.8), (B, 2, 0.9), (B, 1, 0.1))
    assert match_boxes(given, truth, 1, 0.5, 0.5) == (1, 2, 1)
    assert match_boxes(given, truth, 1, 0.05, 0.5) == (2, 2, 0)
    assert match_boxes(given, truth, 2, 0.5, 0.5) == (0, 1, 1)


def test_findings_by_films_and_by_boxes():
    truths = [answer((A, 1)), answer((B, 1)), answer((B, 2)), answer((A, 2))]
    answers = [answer((A, 1, 0.9)), answer((FAR, 1, 0.9)), answer((B, 1, 0.9)), answer((A, 2, 0.3))]
    table = count_findings(answers, truths, ["Mass", "Nodule"], 0.5)
    mass = table.loc["Mass"]
    assert (mass["films"], mass["boxes"]) == (2, 2)
    assert (mass["accuracy"], mass["recall"]) == (0.75, 1)  # by films the box far away is right
    assert mass["precision"] == pytest.approx(2 / 3)
    assert (mass["box_recall"], mass["box_precision"]) == (0.5, pytest.approx(1 / 3))
    assert table.loc["Nodule", "recall"] == 0
    assert math.isnan(table.loc["Nodule", "precision"])
    assert choose_threshold(answers, truths, ["Mass", "Nodule"]) <= 0.3


def test_usual_boxes():
    class Train:
        boxes = ([[0, 0, 10, 10], [40, 0, 60, 20]], [[10, 10, 20, 20]], [], [])
        targets = [(np.array(one, np.float32).reshape(-1, 4), np.ones(len(one), int)) for one in boxes]

        def raw(self, index):
            return np.zeros((64, 64))

        def __len__(self):
            return 4

    answers = usual_boxes(Train(), 3)
    assert len(answers) == 3
    assert answers[0]["boxes"].tolist() == [[5, 5, 15, 15], [40, 0, 60, 20]]
    assert answers[0]["scores"].tolist() == [0.5, 0.25]


# ---------------------------------------------------------------- the planted findings


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_planted_findings_are_where_their_boxes_say(name):
    """The film with and without the finding differ inside the box, and hardly elsewhere."""
    subject, planter = sample_subject(0, 4), Planter((name,), 0, 4)
    with_it, without = render(subject, 224, planter).image, render(subject, 224).image
    (found, box), *others = planter.findings
    assert (found, others) == (name, [])
    x0, y0, x1, y1 = np.rint(box * 224).astype(int)
    change = np.abs(with_it - without)
    outside = np.ones_like(change, dtype=bool)
    outside[max(y0 - 4, 0) : y1 + 4, max(x0 - 4, 0) : x1 + 4] = False
    assert np.quantile(change[y0:y1, x0:x1], 0.9) > 5 * change[outside].mean()
    assert change[y0:y1, x0:x1].max() > 0.04
    darker = (with_it - without)[y0:y1, x0:x1].mean() < 0
    assert darker == (name == "Pneumothorax") or name == "Fracture"


def test_a_planter_without_findings_changes_nothing():
    subject = sample_subject(0, 1)
    assert np.array_equal(render(subject, 64).image, render(subject, 64, Planter((), 0, 1)).image)


def test_sample_is_the_same_again_and_made_anew_when_asked_otherwise(tmp_path):
    write_sample(tmp_path / "a", 4, 2, size=64, processes=1, progress=False)
    write_sample(tmp_path / "b", 4, 2, size=64, processes=1, progress=False)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 9
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)
    write_sample(tmp_path / "a", 2, 2, size=64, processes=1, progress=False)
    films, problems = match_images(tmp_path / "a", read_annotations(tmp_path / "a")[0])
    assert (len(films), problems) == (4, [])
    with pytest.raises(ValueError, match="even"):
        write_sample(tmp_path / "c", 3, 2)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.json").write_text("[]")
    with pytest.raises(FileExistsError, match="other than the sample's"):
        write_sample(tmp_path / "d", 4, 2)


# ---------------------------------------------------------------- learning


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
    assert sum(len(boxes) for boxes, _ in plain.targets) == small.films.query("side == 'train'")["ill"].sum()


def test_study_goes_on_where_it_was_stopped(small, tmp_path, monkeypatch):
    """A study killed in its second trial ends with the trials of one that nobody disturbed."""
    import companions.chestxdet.tuning as learning

    train, val = AbnormalityDataset(small, "train", 32, augment=True), AbnormalityDataset(small, "val", 32)
    whole = tune(train, val, tmp_path / "whole", 3, 1, 0.5, progress=False)
    real, calls = learning.train_normal, []

    def stopped(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(learning, "train_normal", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(train, val, tmp_path / "cut", 3, 1, 0.5, progress=False)
    again = tune(train, val, tmp_path / "cut", 3, 1, 0.5, progress=False)
    assert len(calls) == 4  # one whole, one killed, two more
    done = [trial for trial in again.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert [trial.params for trial in done] == [trial.params for trial in whole.trials]
    assert [trial.value for trial in done] == [trial.value for trial in whole.trials]
    tune(train, val, tmp_path / "cut", 3, 1, 0.5, progress=False)
    assert len(calls) == 4  # nothing is left to do
    tune(train, val, tmp_path / "cut", 1, 1, 0.6, progress=False)
    assert len(calls) == 5  # another floor is another study
    with pytest.raises(ValueError, match="between 0 and 1"):
        tune(train, val, tmp_path, 1, 1, 0.0)


def test_a_trial_that_diverges_is_worth_nothing_and_ends_nothing(small, tmp_path, monkeypatch):
    """Not counted, it would be drawn again by the same seed for ever."""
    import companions.chestxdet.tuning as learning

    real, calls = learning.train_normal, []

    def diverging(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise FloatingPointError("the loss became nan in epoch 1")
        return real(*args, **kwargs)

    monkeypatch.setattr(learning, "train_normal", diverging)
    train, val = AbnormalityDataset(small, "train", 32, augment=True), AbnormalityDataset(small, "val", 32)
    study = tune(train, val, tmp_path, 2, 1, 0.5, progress=False)
    assert len(calls) == 2
    assert study.trials[0].value == 0
    assert study.trials[0].params != study.trials[1].params


def test_small_network_learns(small, tmp_path):
    from companions.chestxdet.model import NormalTask

    train, val, test = (AbnormalityDataset(small, side, 32) for side in ("train", "val", "test"))
    torch.manual_seed(0)
    model = SmallCNN(8, 3, 0.0)
    history = fit(model, train, val, NormalTask(Schedule(12, 8, 1e-2), 0.8), tmp_path, progress=False)
    assert history["val_recall"].iloc[-1] == 1
    assert confusion(score_films(model, test), test.ill, 0.5)["accuracy"] >= 0.9


def test_detector_learns_and_goes_on(small, tmp_path, monkeypatch):
    # In float32 everywhere: on so few films the rounding of bfloat16 moves the figure by a tenth and more.
    monkeypatch.setattr("heartbox.training.device._cpu_has_bfloat16", lambda: False)
    train, val, test = (FindingsDataset(small, side) for side in ("train", "val", "test"))
    recipe = Detection(epochs=8, batch_size=2, learning_rate=2e-3, size=64)
    task = DetectionTask(recipe, small.findings)
    model = make_detector(recipe, 1)
    assert model.started_from == "heart"
    history = fit(model, train, val, task, tmp_path, progress=False)
    truth = [test.truth(i) for i in range(len(test))]
    found = average_precision(find(model, test), truth, small.findings).map(0.5)
    assert found > 0.5
    assert found > average_precision(usual_boxes(train, len(test)), truth, small.findings).map(0.5)
    again = fit(make_detector(recipe, 1), train, val, task, tmp_path, progress=False)  # loaded, not trained
    assert again["train_loss"].tolist() == history["train_loss"].tolist()


def test_starts(monkeypatch, tmp_path):
    """What cannot be had is said, and the same weights come out as from nothing."""
    import companions.chestxdet.model as learning

    monkeypatch.setattr(learning, "HEART_WEIGHTS", tmp_path / "absent.pt")
    with pytest.warns(UserWarning, match="heart weights for resnet18 could not be had .*starting from scratch"):
        without = make_detector(Detection(start="heart", size=64), 2)
    assert without.started_from == ""
    nothing = make_detector(Detection(start="", size=64), 2)
    assert all(torch.equal(a, b) for a, b in zip(without.parameters(), nothing.parameters(), strict=True))
    with pytest.raises(ValueError, match="'resnet50' cannot start from 'heart'"):
        make_detector(Detection(backbone="resnet50", start="heart"), 2)


def test_resnet50_takes_grey_films():
    model = make_detector(Detection(backbone="resnet50", start="", size=64), 10).train()
    target = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([3])}
    losses = model([torch.rand(1, 64, 64), torch.rand(1, 64, 64)], [target, answer()])
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert model.roi_heads.box_predictor.cls_score.out_features == 11


# ---------------------------------------------------------------- the benchmark


def test_benchmark_pools_its_folds(monkeypatch):
    """Two folds of two films: three of the four right in stage 1, one of two boxes found first in stage 2."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import companion_chestxdet

    def fold(called: list, given: dict, start: str) -> dict:
        stage2 = {"answers": [given, answer()], "usual": [answer()] * 2, "truth": [answer((A, 1)), answer()]}
        stage2 |= {"findings": ["Opacity"], "started_from": start, "trained_on": 7}
        stage1 = {"auc": 0.75, "called": called, "ill": [True, False]}
        return {"layout": "NIH", "problems": 0, "stage1": stage1, "stage2": stage2}

    folds = [fold([True, False], answer((A, 1, 0.9)), "heart"), fold([True, True], answer((FAR, 1, 0.8)), "heart")]
    text = companion_chestxdet.as_markdown(folds, 5, Detection())
    assert "2 of 5 folds measured" in text
    assert "4 films, 2 ill" in text
    assert "| small CNN | 1.00 (0.34 to 1.00) | 0.50 (0.09 to 0.91) | 0.750 |" in text
    assert f"| Opacity | 2 | {51 / 101:.3f} | {51 / 101:.3f} | 0.000 | 0.000 |" in text


# ---------------------------------------------------------------- the notebook


def test_notebook_on_the_sample(tmp_path):
    """Copied with what it needs, in fast mode: nothing red, nothing of this machine, the files promised."""
    for name in ("heartbox", "companions", "weights"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cardiac_dataset.py", tmp_path)
    run = helpers.execute(tmp_path, [f"companions/{NOTEBOOK}"])
    assert run.returncode == 0, run.stderr[-3000:]
    cells = nbformat.read(tmp_path / "companions" / NOTEBOOK, 4).cells
    assert [o["text"] for c in cells for o in c.get("outputs", []) if o.get("name") == "stderr"] == []
    assert str(tmp_path) not in helpers.output_of(tmp_path / "companions" / NOTEBOOK)
    metrics = json.loads((tmp_path / "artifacts" / "chestxdet" / "metrics.json").read_text())
    assert metrics["films"]["test"] == 20
    assert set(metrics["stage1"]) == {"128 px", "224 px", "everything is ill"}
    assert {"detector", "usual_boxes"} <= set(metrics["stage2"])
    assert (tmp_path / "artifacts" / "chestxdet" / "study" / "study.db").is_file()
