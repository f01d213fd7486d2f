"""Raw folders for the ChestX-Det companion: the published forms, and everything that may be wrong with them."""

import numpy as np
import pandas as pd
import pytest
from chestxdet_films import BAD, entry, many, prepare_quietly, write_folder, write_image, write_nih

from companions.chestxdet.data import assign_splits
from companions.chestxdet.layouts import (
    SAMPLE_MARK,
    TEN,
    THIRTEEN,
    find_data,
    match_images,
    read_annotations,
    recognise_layout,
)
from heartbox.data.tables import TableError


def test_ten_findings(tmp_path):
    """ChestX-Det10: boxes without polygons, an empty list is a normal film, boxes in pixels of the original."""
    films = many(0, 20) + [entry("77.png", ("Effusion", [0, 32, 32, 64]), ("Mass", [16, 0, 64, 16]))]
    folder = write_folder(tmp_path / "raw", films, many(100, 8))
    assert recognise_layout(folder) == "ChestX-Det10"
    made = prepare_quietly(folder, tmp_path / "out", size=32)
    assert len(made.problems) == 0
    assert made.films["split"].value_counts()["test"] == 8
    assert made.findings == ("Effusion", "Mass", "Nodule") or made.findings == ("Nodule",)  # 77 may validate
    row = int(np.flatnonzero(made.films["name"] == "77.png")[0])
    boxes = made.boxes[made.boxes["film"] == row]
    assert boxes["finding"].tolist() == ["Effusion", "Mass"]
    assert boxes[["x_min", "y_min", "x_max", "y_max"]].to_numpy().tolist() == [[0, 16, 16, 32], [8, 0, 32, 8]]
    assert made.images.shape == (29, 32, 32)
    assert made.films["abnormal"].tolist() == [len(one["syms"]) > 0 for one in films + many(100, 8)]


def test_thirteen_findings_and_polygons(tmp_path):
    """ChestX-Det: a film with a finding that is not asked for is ill, and its box is not taught."""
    train = [entry(**{"name": f"{k}.png"}, polygons=[]) for k in range(10)]
    for k in range(10, 20):
        train.append(entry(f"{k}.png", ("Cardiomegaly", [4, 4, 40, 40]), ("Nodule", [8, 8, 20, 20]), polygons=[[], []]))
    folder = write_folder(tmp_path / "raw", train, many(50, 6), "ChestX-Det")
    assert recognise_layout(folder) == "ChestX-Det"
    ten = prepare_quietly(folder, tmp_path / "ten", size=64, findings=TEN)
    assert ten.findings == ("Nodule",)
    both = prepare_quietly(folder, tmp_path / "all", size=64, findings=THIRTEEN)
    assert both.findings == ("Cardiomegaly", "Nodule")
    row = int(np.flatnonzero(both.films["name"] == "12.png")[0])
    assert ten.boxes_of(row)[1].tolist() == [1]
    assert both.boxes_of(row)[1].tolist() == [1, 2]
    assert ten.films["abnormal"].sum() == 13


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
    made = prepare_quietly(tmp_path, tmp_path / "out", size=64)
    assert made.stats["layout"] == "NIH"
    assert made.findings == ("Opacity",)
    assert made.films["located"].sum() == 20
    assert made.films.groupby("patient")["split"].nunique().max() == 1
    assert len(made.rows("train", located=True)) < len(made.rows("train"))
    row = int(np.flatnonzero(made.films["name"] == "00000000_000.jpg")[0])
    assert made.boxes_of(row)[0].tolist() == [[16, 32, 24, 48]]  # given at 512, the image has 64


def test_real_jsons(real_data, tmp_path):
    folder = real_data / "chestxdet"
    films, problems = read_annotations(folder)
    assert len(films) == 3578
    assert problems == []
    assert sum(film.split == "test" for film in films) == 553
    assert sum(not film.abnormal for film in films) == 547 + 64
    assert {name for film in films for name in film.findings} == set(THIRTEEN)
    matched, missing = match_images(folder, films)
    assert sorted(film.name for film in matched) == ["36199.png", "36203.png", "36216.png", "36229.png"]
    assert len(missing) == 3574
    with pytest.raises(ValueError, match=r"4 films have both .* 3574 x no image"):
        prepare_quietly(folder, tmp_path / "out")


def test_real_nih(real_data):
    films, problems = read_annotations(real_data / "nih")
    assert len(films) == 800
    # NIH found nothing in these, and RSNA's readers drew a box.
    assert [problem.name for problem in problems] == ["00002649_008.jpg", "00003005_022.jpg", "00003369_013.jpg"]
    assert {problem.kind for problem in problems} == {"contradiction"}
    assert all("taken as abnormal" in problem.reason for problem in problems)
    assert sum(film.abnormal for film in films) == 398 + 3
    assert sum(len(film.boxes) for film in films) == 163
    assert sum(film.findings is not None for film in films) == 260
    splits = assign_splits(films)
    homes = pd.DataFrame({"patient": [film.patient for film in films], "split": splits}).groupby("patient")["split"]
    assert homes.nunique().max() == 1


@pytest.mark.parametrize("case", BAD)
def test_bad_entry_is_named_and_left_out(tmp_path, case):
    bad, kind, words = BAD[case]
    folder = write_folder(tmp_path / "raw", [*many(0, 20), bad], many(50, 6))
    made = prepare_quietly(folder, tmp_path / "out", size=64)
    assert len(made.films) == 26
    (problem,) = made.problems.itertuples(index=False)
    assert (problem.name, problem.kind) == (bad["file_name"], kind)
    assert words in problem.reason


def test_a_refused_annotation_is_not_reported_twice(tmp_path):
    folder = write_folder(tmp_path / "raw", [*many(0, 20), BAD["unknown finding"][0]], many(50, 6))
    assert (folder / "train_data" / "bad.png").is_file()
    assert len(prepare_quietly(folder, tmp_path / "out", size=32).problems) == 1


def test_a_film_in_both_splits_is_a_test_film(tmp_path):
    found = ("Nodule", [8, 8, 24, 24])
    folder = write_folder(tmp_path / "raw", [*many(0, 20), entry("51.png", found, found)], many(50, 6))
    made = prepare_quietly(folder, tmp_path / "out", size=32)
    assert (made.films["name"] == "51.png").sum() == 1
    assert made.films.set_index("name").loc["51.png", "split"] == "test"
    assert made.problems["kind"].tolist() == ["duplicate"]
    assert "the first one is used" in made.problems["reason"][0]


def test_entries_of_one_film_that_contradict_each_other(tmp_path):
    folder = write_folder(tmp_path / "raw", [*many(0, 20), entry("3.png")], many(50, 6))
    films, problems = read_annotations(folder)
    assert "3.png" not in [film.name for film in films]
    assert [(problem.name, problem.kind) for problem in problems] == [("3.png", "contradiction")]
    assert "train.json, entry 4, with other findings" in problems[0].reason


def test_the_same_box_twice_is_one(tmp_path):
    found = ("Mass", [1, 2, 30, 40])
    folder = write_folder(tmp_path / "raw", [entry("a.png", found, ("Nodule", found[1]), found)], [])
    films, problems = read_annotations(folder)
    assert films[0].findings == ("Mass", "Nodule")
    assert films[0].boxes == ((1, 2, 30, 40), (1, 2, 30, 40))
    assert [problem.name for problem in problems] == ["test.json"]  # no test films: training films are used


def test_a_dangling_link_is_not_an_image(tmp_path):
    folder = write_folder(tmp_path / "raw", many(0, 20), many(50, 6))
    (folder / "train_data" / "3.png").unlink()
    (folder / "train_data" / "3.png").symlink_to(tmp_path / "nowhere.png")
    made = prepare_quietly(folder, tmp_path / "out", size=32)
    assert made.problems["kind"].tolist() == ["no image"]


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
    assert [(film.name[7], film.abnormal, len(film.boxes)) for film in films] == [
        ("5", True, 0), ("7", True, 1), ("8", True, 1)
    ]  # fmt: skip
    reasons = {problem.name[7:8]: problem for problem in problems}
    assert {name: problem.kind for name, problem in reasons.items()} == {
        "4": "label", "6": "contradiction", "7": "contradiction", "8": "duplicate", "9": "box"
    }  # fmt: skip
    assert "'ill'" in reasons["4"].reason
    assert "1 boxes" in reasons["7"].reason


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
    assert sorted((problem.name, problem.kind) for problem in problems) == [
        ("00000002_000.jpg", "contradiction"),
        ("00000002_000.jpg", "duplicate"),
        ("00000003_000.jpg", "label"),
        ("00000009_000.jpg", "box"),
        ("labels.csv", "label"),
    ]
    (tmp_path / "labels.csv").write_text("file,nih_label\nx,y\n")
    with pytest.raises(TableError, match="column rsna_class is missing"):
        read_annotations(tmp_path)


def test_where_the_data_is(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    default = tmp_path / "data" / "chestxdet"

    def make_sample(folder):
        write_folder(folder, many(0, 4), many(9, 2))
        (folder / SAMPLE_MARK).write_text("{}")

    source = find_data(default, make_sample)
    assert (source.folder, source.layout) == (tmp_path / "data" / "chestxdet-sample", "sample")
    assert source.is_synthetic
    write_folder(default, many(0, 4), many(9, 2))
    source = find_data(default, make_sample)
    assert (source.folder, source.layout, source.is_synthetic) == (default, "ChestX-Det10", False)
    for wrong, words in ((tmp_path, "holds none of the layouts"), (tmp_path / "no", "does not exist")):
        monkeypatch.setenv("CARDIAC_DATA", str(wrong))
        with pytest.raises(FileNotFoundError, match=f"CARDIAC_DATA={wrong} {words}.*ChestX_Det_train.json"):
            find_data(default, make_sample)
