"""The pneumonia companion: its films and what may be wrong with them, its figures, its evidence, its notebook."""

import dataclasses
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import tracemalloc

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from helpers import ROOT  # noqa: E402

pytest.importorskip("sklearn")
nbformat = pytest.importorskip("nbformat")

from companions.pneumonia import data, layouts, metrics  # noqa: E402
from companions.pneumonia import model as classifier  # noqa: E402
from companions.pneumonia.sample import write_sample  # noqa: E402
from heartbox.explain.attribution import class_activation_map  # noqa: E402
from heartbox.models.weights import save_weights  # noqa: E402
from heartbox.phantom import render, sample_subject  # noqa: E402
from heartbox.phantom.dicom import dataset  # noqa: E402
from heartbox.training.loop import fit  # noqa: E402
from heartbox.xray.contrast import normalize_contrast  # noqa: E402

NOTEBOOK = "Pneumonia-Classification.ipynb"
RSNA_HEAD = "patientId,x,y,width,height,Target"

# ---------------------------------------------------------------- small made folders


@functools.cache
def phantom():
    return render(sample_subject(0, 0), 64)


def write_dicom(path, seed: int, view: str = "PA", photometric: str = "MONOCHROME2", bits: int = 8) -> np.ndarray:
    """Write a DICOM of 40 x 50 noise and return what it shows, in [0, 1]."""
    subject = dataclasses.replace(phantom().subject, view=view, photometric=photometric, bits=bits)
    film = dataset(dataclasses.replace(phantom(), subject=subject))
    stored = np.random.default_rng(seed).integers(0, 2**bits, (40, 50))
    film.Rows, film.Columns = stored.shape
    film.WindowCenter, film.WindowWidth = 2 ** (bits - 1), 2**bits
    film.PatientID = path.stem
    film.PixelData = stored.astype(np.uint8 if bits == 8 else "<u2").tobytes()
    film.save_as(path, enforce_file_format=True)
    shown = stored / (2**bits - 1)
    return 1 - shown if photometric == "MONOCHROME1" else shown


@pytest.fixture
def rsna(tmp_path):
    """Return a folder of eight films in RSNA's layout: a, b, c and d with pneumonia, b with two boxes."""
    folder = tmp_path / "rsna"
    images = folder / layouts.RSNA_IMAGES
    images.mkdir(parents=True)
    for i, name in enumerate("abcdefgh"):
        write_dicom(images / f"{name}.dcm", i, "AP" if name in "abce" else "PA")
    rows = ["a,5,4,10,20,1", "b,0,0,25,20,1", "b,30,10,20,10,1", "c,5,4,10,20,1", "d,5,4,10,20,1"]
    write_rsna(folder, rows + [f"{name},,,,,0" for name in "efgh"])
    return folder


def write_rsna(folder, rows) -> None:
    (folder / layouts.RSNA_LABELS).write_text("\n".join([RSNA_HEAD, *rows]) + "\n")


def rsna_rows(folder) -> list[str]:
    return (folder / layouts.RSNA_LABELS).read_text().splitlines()[1:]


@pytest.fixture
def nih(tmp_path):
    """Return a folder of six films of three patients in the layout of the NIH films."""
    folder = tmp_path / "nih"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["file,nih_label,rsna_id,rsna_class"]
    for patient, film, label in ((1, 0, "no finding"), (1, 7, "pneumonia"), (2, 0, "pneumonia"), (2, 1, "pneumonia"),
                                 (3, 0, "no finding"), (3, 1, "no finding")):  # fmt: skip
        name = f"{patient:08d}_{film:03d}.jpg"
        cv2.imwrite(str(folder / "images" / name), rng.integers(0, 256, (64, 64), dtype=np.uint8))
        rows.append(f"{name},{label},,{'Lung Opacity' if (patient, film) == (2, 0) else ''}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "opacity_boxes_512.csv").write_text("file,x,y,width,height\n00000002_000.jpg,128,256,64,128\n")
    return folder


def quiet(folder, out, **more):
    return data.prepare(folder, out, processes=1, progress=False, **more)


def problems_of(folder, kind: str) -> list[tuple[str, str]]:
    return [(one.name, one.reason) for one in layouts.list_films(folder)[1] if one.kind == kind]


# ---------------------------------------------------------------- layouts and labels


def test_rsna_rows_of_one_film_are_joined(rsna):
    films, problems = layouts.list_films(rsna)
    assert problems == []
    assert [film.name for film in films] == list("abcdefgh")
    assert [film.target for film in films] == [1, 1, 1, 1, 0, 0, 0, 0]
    assert films[1].boxes == ((0, 0, 25, 20), (30, 10, 50, 20))
    assert films[4].boxes == ()


def test_the_same_row_twice_is_one_box(rsna):
    write_rsna(rsna, [*rsna_rows(rsna), "a,5,4,10,20,1"])
    assert layouts.list_films(rsna)[0][0].boxes == ((5, 4, 15, 24),)


def test_nih_films(nih):
    films, problems = layouts.list_films(nih)
    assert problems == []
    assert [film.patient for film in films] == ["00000001"] * 2 + ["00000002"] * 2 + ["00000003"] * 2
    assert [film.target for film in films] == [0, 1, 1, 1, 0, 0]
    assert [film.follow_up for film in films] == [0, 7, 0, 1, 0, 1]
    assert films[2].reader_class == "Lung Opacity"
    assert {film.view for film in films} == {""}
    prepared = quiet(nih, nih / "out", size=32)
    assert prepared.boxes_of(2).tolist() == [[8, 16, 12, 24]]  # from a frame of 512 to one of 32


def test_nih_views_from_its_own_table(nih):
    (nih / "Data_Entry_2017_v2020.csv").write_text(
        "Image Index,Finding Labels,View Position\n00000001_000.png,No Finding,AP\n00000009_000.png,Mass,PA\n"
    )
    assert [film.view for film in layouts.list_films(nih)[0]] == ["AP", "", "", "", "", ""]


def test_rsna_patients_from_the_published_matching(rsna):
    """RSNA numbers images, not people: two of them may be of one NIH patient."""
    entries = [{"subset_img_id": name, "img_id": f"0000000{i // 2}_00{i}.png"} for i, name in enumerate("abcdefgh")]
    (rsna / layouts.RSNA_ORIGINS).write_text(json.dumps(entries))
    prepared = quiet(rsna, rsna / "out", size=32)
    assert prepared.labels["patient"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for no_mapping in ("[1]", "[]"):
        (rsna / layouts.RSNA_ORIGINS).write_text(no_mapping)
        with pytest.raises(ValueError, match="not the mapping of RSNA images"):
            layouts.list_films(rsna)


def test_a_mapping_of_other_films_is_named(rsna):
    entries = [{"subset_img_id": name, "img_id": f"0000000{name}_000.png"} for name in "12"]
    entries.append({"subset_img_id": "a", "img_id": "00000001_000.png"})
    (rsna / layouts.RSNA_ORIGINS).write_text(json.dumps(entries))
    ((name, reason),) = problems_of(rsna, "patient unknown")
    assert name == layouts.RSNA_ORIGINS
    assert reason.startswith("7 of 8 images are not in it")


def test_what_readers_said_must_fit_the_target(rsna):
    rows = ["patientId,class", "a,Normal", "b,Lung Opacity", "e,Lung Opacity", "f,No Lung Opacity / Not Normal"]
    (rsna / layouts.RSNA_CLASSES).write_text("\n".join(rows) + "\n")
    assert [name for name, _ in problems_of(rsna, "contradiction")] == ["a", "e"]


def test_a_name_that_is_not_nihs_says_nothing_of_the_patient(nih):
    for path in sorted((nih / "images").iterdir()):
        path.rename(path.with_name(path.name.replace("0000000", "film")))
    for name in ("labels.csv", "opacity_boxes_512.csv"):
        (nih / name).write_text((nih / name).read_text().replace("0000000", "film"))
    films = layouts.list_films(nih)[0]
    assert [film.name for film in films][:2] == ["film1_000", "film1_007"]
    assert {film.patient for film in films} == {""}
    assert quiet(nih, nih / "out", size=32).labels["patient"].nunique() == 6


def test_the_raw_folder_is_not_written_to(nih):
    before = (nih / "labels.csv").read_bytes()
    with pytest.raises(ValueError, match="where the raw files lie"):
        quiet(nih, nih, size=32)
    assert (nih / "labels.csv").read_bytes() == before


def test_damaged_statistics_are_made_anew(rsna):
    quiet(rsna, rsna / "out", size=32)
    (rsna / "out" / "stats.json").write_text("{")
    assert len(quiet(rsna, rsna / "out", size=32).labels) == 8


def test_a_label_without_an_image_and_an_image_without_a_label(rsna):
    (rsna / layouts.RSNA_IMAGES / "a.dcm").unlink()
    write_rsna(rsna, rsna_rows(rsna)[:-1])
    assert problems_of(rsna, "label without image") == [("a", "labelled, but there is no stage_2_train_images/a.dcm")]
    assert problems_of(rsna, "image without label") == [("h", "no row in stage_2_train_labels.csv")]
    assert [film.name for film in layouts.list_films(rsna)[0]] == list("bcdefg")


@pytest.mark.parametrize("row", ["a,,,,,0", "e,1,1,5,5,0"])
def test_rows_that_contradict_each_other(rsna, row):
    write_rsna(rsna, [*rsna_rows(rsna), row])
    (found,) = problems_of(rsna, "contradiction")
    assert found[0] == row[0]
    assert row[0] not in [film.name for film in layouts.list_films(rsna)[0]]


def test_nih_rows_that_contradict_each_other(nih):
    with (nih / "labels.csv").open("a") as file:
        file.write("00000001_000.jpg,pneumonia,,\n00000003_000.jpg,mass,,\n00000003_001.jpg,no finding,,\n")
    assert [name for name, _ in problems_of(nih, "contradiction")] == ["00000001_000.jpg", "00000003_000.jpg"]
    assert len(layouts.list_films(nih)[0]) == 4


def test_a_normal_film_with_a_box_is_left_out(nih):
    with (nih / "opacity_boxes_512.csv").open("a") as file:
        file.write("00000003_000.jpg,128,256,64,128\n")
    assert problems_of(nih, "contradiction") == [
        ("00000003_000.jpg", "nih_label is 'no finding' and yet opacity_boxes_512.csv has 1 for it")
    ]
    assert "00000003_000" not in [film.name for film in layouts.list_films(nih)[0]]


def test_a_link_that_leads_nowhere_is_no_image(rsna, tmp_path):
    path = rsna / layouts.RSNA_IMAGES / "a.dcm"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere.dcm")
    assert problems_of(rsna, "label without image") == [("a", "labelled, but there is no stage_2_train_images/a.dcm")]
    assert len(quiet(rsna, rsna / "out", size=32).labels) == 7


def test_a_label_that_is_none(rsna, nih):
    write_rsna(rsna, [*rsna_rows(rsna)[:-1], "h,,,,,2"])
    assert problems_of(rsna, "unusable label") == [("h", "Target is '2'; expected 0 or 1")]
    text = (nih / "labels.csv").read_text().replace("00000003_001.jpg,no finding", "00000003_001.jpg,effusion")
    (nih / "labels.csv").write_text(text)
    assert problems_of(nih, "unusable label")[0][1].startswith("nih_label is 'effusion'")


@pytest.mark.parametrize("box", ["5,4,0,20", "5,4,-3,20", "x,4,10,20", "5,4,inf,20", "5,,10,20", "0.1,0.1,0.4,0.5"])
def test_what_is_no_box_costs_the_boxes_and_not_the_label(rsna, box):
    write_rsna(rsna, [*rsna_rows(rsna), f"b,{box},1"])
    assert [name for name, _ in problems_of(rsna, "box")] == ["b"]
    film = layouts.list_films(rsna)[0][1]
    assert (film.name, film.target, film.boxes) == ("b", 1, ())


def test_pneumonia_without_a_box_keeps_its_label(rsna):
    write_rsna(rsna, ["a,,,,,1", *rsna_rows(rsna)[1:]])
    assert problems_of(rsna, "box") == [("a", "Target is 1 and there is no box; the label is used")]
    assert layouts.list_films(rsna)[0][0].target == 1


def test_tables_that_cannot_be_used(rsna, nih):
    (rsna / layouts.RSNA_LABELS).write_text("patientId;Target\na;1\n")
    with pytest.raises(ValueError, match="column patientId, x, y, width, height, Target is missing"):
        layouts.list_films(rsna)
    (rsna / layouts.RSNA_LABELS).write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as a csv"):
        layouts.list_films(rsna)
    text = (nih / "labels.csv").read_text()
    (nih / "labels.csv").write_text(text.replace("pneumonia", "no finding"))
    (nih / "opacity_boxes_512.csv").unlink()
    with pytest.raises(ValueError, match="0 usable films with pneumonia and 6 without"):
        layouts.list_films(nih)
    with pytest.raises(FileNotFoundError, match="neither RSNA's layout nor"):
        layouts.list_films(nih / "images")


def test_where_the_films_are(rsna, tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    place = tmp_path / "data" / "pneumonia"
    assert layouts.find_data(place) == (tmp_path / "data" / "pneumonia-sample", None)
    shutil.copytree(rsna, place / "rsna-pneumonia-detection-challenge")
    with pytest.raises(FileNotFoundError, match="data/pneumonia holds none of the layouts.*move it away"):
        layouts.find_data(place)  # one folder too deep is not the same as nothing
    monkeypatch.setenv("CARDIAC_DATA", str(rsna))
    assert layouts.find_data(place) == (rsna, "rsna")
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"holds none of the layouts.*stage_2_train_labels\.csv"):
        layouts.find_data(place)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "no"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        layouts.find_data(place)


# ---------------------------------------------------------------- preparing


def test_prepared_films_are_those_of_the_files(tmp_path):
    """8 and 12 bits, either photometric interpretation: bone bright, divided to [0, 1], shrunk, in order."""
    folder = tmp_path / "rsna"
    (folder / layouts.RSNA_IMAGES).mkdir(parents=True)
    shown = {}
    for i, (name, photometric, bits) in enumerate(
        [("a", "MONOCHROME2", 8), ("b", "MONOCHROME1", 8), ("c", "MONOCHROME2", 12), ("d", "MONOCHROME1", 12)]
    ):
        path = folder / layouts.RSNA_IMAGES / f"{name}.dcm"
        shown[name] = write_dicom(path, i, "AP" if i else "PA", photometric, bits)
    write_rsna(folder, ["a,25,10,25,20,1", "b,,,,,0", "c,5,5,5,5,1", "d,,,,,0"])
    prepared = quiet(folder, tmp_path / "out", size=32, held_out=0.5, even=False)
    images = np.load(tmp_path / "out" / "images.npy", mmap_mode="r")
    assert (images.shape, images.dtype) == ((4, 32, 32), np.float16)
    for image, name in zip(images, "abcd", strict=True):
        expected = cv2.resize(shown[name].astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(image - expected).max() < 2e-3
    assert prepared.labels["view"].tolist() == ["PA", "AP", "AP", "AP"]
    assert prepared.boxes_of(0) == pytest.approx(np.array([[16, 8, 32, 24]]))  # 50 x 40 to 32 x 32
    mean, std = data.pixel_statistics(prepared.labels)
    assert (mean, std) == pytest.approx((images[:].astype(float).mean(), images[:].astype(float).std()), rel=1e-6)
    both = set(prepared.labels.loc[prepared.rows("train"), "target"])
    assert both == set(prepared.labels.loc[prepared.rows("held out"), "target"]) == {0, 1}
    evened = quiet(folder, tmp_path / "out", size=32, held_out=0.5)  # asked for otherwise, it is read anew
    assert (evened.stats["contrast"], prepared.stats.get("contrast")) == ("even", None)
    for image, name in zip(np.load(tmp_path / "out" / "images.npy"), "abcd", strict=True):
        expected = cv2.resize(shown[name].astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(image - normalize_contrast(expected)).max() < 5e-3


def test_training_films_are_z_normalised_by_the_training_films(rsna):
    prepared = quiet(rsna, rsna / "out", size=32, held_out=0.5)
    train, held = classifier.make_sides(prepared, "")
    pixels = torch.stack([train[i][0] for i in range(len(train))])
    assert pixels.mean().item() == pytest.approx(0, abs=1e-4)
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)
    assert held.statistics == train.statistics
    assert not set(train.rows) & set(held.rows)


def test_a_patient_is_on_one_side(nih):
    rng = np.random.default_rng(0)
    rows = ["file,nih_label"]
    for i in range(30):
        name = f"{i // 3:08d}_{i % 3:03d}.jpg"
        cv2.imwrite(str(nih / "images" / name), rng.integers(0, 256, (64, 64), dtype=np.uint8))
        rows.append(f"{name},{'pneumonia' if i % 2 else 'no finding'}")
    (nih / "labels.csv").write_text("\n".join(rows) + "\n")
    for seed in range(6):
        labels = quiet(nih, nih / "out", size=32, seed=seed, held_out=0.4).labels
        assert labels.groupby("patient")["split"].nunique().max() == 1
        assert (labels.groupby("split")["target"].nunique() == 2).all()


def test_a_side_with_one_answer_is_refused(nih):
    """Two patients have pneumonia in all of their films or none: whoever is held out leaves a side without it."""
    text = (nih / "labels.csv").read_text().replace("00000001_007.jpg,pneumonia", "00000001_007.jpg,no finding")
    (nih / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=r"of the \d films on the '(train|held out)' side have pneumonia; both"):
        quiet(nih, nih / "out", size=32)
    with pytest.raises(FileNotFoundError, match="run prepare first"):
        data.load_prepared(nih / "out")


def test_rsna_is_split_as_published():
    """24,000 to train on and 2,684 held out, where every image is its own patient."""
    labels = [1] * 6012 + [0] * 20672
    sides = data.split_by_patient(
        [str(i) for i in range(26684)], [str(one) for one in labels], 0, data.HELD_OUT["rsna"]
    )
    assert (sides.count("train"), sides.count("val")) == (24000, 2684)


def test_a_broken_dicom_and_a_box_outside_are_named_and_counted(rsna):
    broken = rsna / layouts.RSNA_IMAGES / "f.dcm"
    broken.write_bytes(broken.read_bytes()[:-500])
    write_rsna(rsna, ["a,45,4,10,20,1", *rsna_rows(rsna)[1:]])  # 45 + 10 of 50 columns
    prepared = quiet(rsna, rsna / "out", size=32)
    assert prepared.labels["name"].tolist() == list("abcdegh")
    assert len(np.load(rsna / "out" / "images.npy")) == 7
    found = prepared.problems.set_index("kind")
    assert found.loc["unreadable image", "name"] == "f"
    assert "f.dcm: the pixels are cut off" in found.loc["unreadable image", "reason"]
    assert found.loc["box", "name"] == "a"
    assert len(prepared.boxes_of(0)) == 0
    assert prepared.labels["target"].tolist() == [1, 1, 1, 1, 0, 0, 0]  # the label of a is used
    assert len(prepared.boxes_of(1)) == 2  # and the numbers of the boxes still fit
    summary = prepared.summary()
    assert "unreadable image: 1" in summary and "f.dcm" in summary and "box: 1" in summary


def test_a_box_over_the_border_by_rounding_is_clipped(rsna):
    write_rsna(rsna, ["a,40,4,10.2,20,1", *rsna_rows(rsna)[1:]])
    assert quiet(rsna, rsna / "out", size=32).boxes_of(0)[0, 2] == 32


def test_what_shows_nothing_is_no_film(nih):
    cv2.imwrite(str(nih / "images" / "00000003_000.jpg"), np.full((64, 64), 90, np.uint8))
    cv2.imwrite(str(nih / "images" / "00000002_001.jpg"), np.arange(16, dtype=np.uint8).reshape(4, 4) * 16)
    found = quiet(nih, nih / "out", size=32).problems.set_index("name")
    assert (found["kind"] == "unreadable image").all()
    assert "one even grey" in found.loc["00000003_000", "reason"]
    assert "4 x 4 pixels show no chest" in found.loc["00000002_001", "reason"]


def test_nothing_readable(rsna):
    for path in (rsna / layouts.RSNA_IMAGES).glob("[a-d].dcm"):
        path.write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"4 films can be read, and not both answers.*a: a\.dcm: this is no DICOM"):
        quiet(rsna, rsna / "out", size=32)
    with pytest.raises(FileNotFoundError, match="run prepare first"):
        data.load_prepared(rsna / "out")


def folder_bytes(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("torn", ["", "line", "image"])
def test_a_preparation_that_was_stopped_goes_on(rsna, tmp_path, monkeypatch, capsys, torn):
    (rsna / layouts.RSNA_IMAGES / "b.dcm").write_bytes(b"broken")  # a film without an image, on the way
    quiet(rsna, tmp_path / "whole", size=32)
    read, count = data._read_film, 0

    def stopped(task):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return read(task)

    monkeypatch.setattr(data, "_read_film", stopped)
    with pytest.raises(KeyboardInterrupt):
        quiet(rsna, tmp_path / "part", size=32)
    assert not (tmp_path / "part" / "stats.json").exists()
    assert not (tmp_path / "part" / "images.npy").exists()
    kept = 5
    if torn == "line":  # killed in the middle of writing the log
        log = tmp_path / "part" / data.LOG
        log.write_bytes(log.read_bytes()[:-7])
        kept = 4
    if torn == "image":  # a disk that lost the end of the images
        part = tmp_path / "part" / data.PART
        part.write_bytes(part.read_bytes()[:-100])
        kept = 4
    again = []
    monkeypatch.setattr(data, "_read_film", lambda task: again.append(task[0].name) or read(task))
    quiet(rsna, tmp_path / "part", size=32)
    assert again == list("abcdefgh")[kept:]
    assert f"{kept} of 8 films were read before" in capsys.readouterr().out
    assert folder_bytes(tmp_path / "part") == folder_bytes(tmp_path / "whole")


def test_a_finished_preparation_reads_nothing_again_until_something_changes(rsna, monkeypatch):
    first = quiet(rsna, rsna / "out", size=32)
    read, again = data._read_film, []
    monkeypatch.setattr(data, "_read_film", lambda task: again.append(task[0].name) or read(task))
    second = quiet(rsna, rsna / "out", size=32)
    assert again == []
    pd.testing.assert_frame_equal(first.labels, second.labels)
    write_rsna(rsna, [row for row in rsna_rows(rsna) if not row.startswith("a")] + ["a,,,,,0"])
    third = quiet(rsna, rsna / "out", size=32)
    assert len(again) == 8
    assert third.labels["target"].tolist()[0] == 0


def test_memory_does_not_grow_with_the_films(tmp_path):
    """Five times as many films, each of 200 kB once prepared: the peak stays where it was."""
    peaks = []
    for count in (8, 40):
        folder = tmp_path / str(count)
        (folder / "images").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i in range(count):
            cv2.imwrite(str(folder / "images" / f"{i:08d}_000.jpg"), rng.integers(0, 256, (64, 64), dtype=np.uint8))
        rows = [f"{i:08d}_000.jpg,{'pneumonia' if i % 2 else 'no finding'}" for i in range(count)]
        (folder / "labels.csv").write_text("\n".join(["file,nih_label", *rows]) + "\n")
        tracemalloc.start()
        quiet(folder, folder / "out", size=320)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 5 * 320 * 320 * 2


# ---------------------------------------------------------------- the sample


def test_the_sample_is_rsna_in_form_and_the_same_each_time(tmp_path):
    folder = write_sample(tmp_path / "one", count=6, size=64, processes=1, progress=False)
    write_sample(tmp_path / "two", count=6, size=64, processes=1, progress=False)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    assert layouts.recognise_layout(folder) == "sample"
    films, problems = layouts.list_films(folder)
    assert problems == []
    assert {film.target for film in films} == {0, 1}
    assert all(bool(film.boxes) == bool(film.target) for film in films)
    header = pydicom.dcmread(films[0].path)
    assert header.SOPInstanceUID == header.file_meta.MediaStorageSOPInstanceUID
    assert header.ViewPosition in ("AP", "PA")
    stamp = films[0].path.stat().st_mtime_ns
    write_sample(folder, count=6, size=64, processes=1, progress=False)
    assert films[0].path.stat().st_mtime_ns == stamp
    write_sample(folder, count=5, size=64, processes=1, progress=False)  # fewer are asked for than there are
    assert films[0].path.stat().st_mtime_ns == stamp
    write_sample(folder, count=2, seed=1, size=64, processes=1, progress=False)
    assert len(list((folder / layouts.RSNA_IMAGES).iterdir())) == 2


def test_an_opacity_brightens_its_box_and_little_else(tmp_path):
    from companions.pneumonia.sample import Opacities

    opacities = Opacities(np.random.default_rng(5))
    subject = sample_subject(0, 3)
    ill, healthy = render(subject, 256, opacities).image, render(subject, 256).image
    inside = np.zeros((256, 256), dtype=bool)
    for x_min, y_min, x_max, y_max in np.rint(np.array(opacities.boxes) * 256).astype(int):
        inside[y_min:y_max, x_min:x_max] = True
    change = ill - healthy
    assert change[inside].mean() > 0.04
    assert change[inside].mean() > 8 * np.abs(change[~inside]).mean()


# ---------------------------------------------------------------- figures


def test_figures_against_numbers_worked_by_hand():
    """Of 2 x 3 pairs of ill and healthy films 5 are in order; precisions at the two hits are 1 and 2/3."""
    targets, scores = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    figures = metrics.rank_figures(targets, scores, range(5))
    assert figures["auroc"] == pytest.approx(5 / 6)
    assert figures["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(metrics.auroc(np.ones(3), scores[:3]))


def test_the_area_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    for _ in range(5):
        targets, scores = rng.integers(0, 2, 50), rng.integers(0, 12, 50)  # with ties
        assert metrics.auroc(targets, scores) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


def test_calls_against_numbers_worked_by_hand():
    figures = metrics.call_figures(np.array([1, 1, 1, 0, 0, 0, 0, 0]), np.array([1, 1, 0, 1, 0, 0, 0, 0], dtype=bool))
    assert [figures[key] for key in ("hits", "misses", "false_alarms", "quiet")] == [2, 1, 1, 4]
    assert figures["accuracy"] == pytest.approx(6 / 8)
    assert figures["precision"] == pytest.approx(2 / 3)
    assert figures["recall"] == pytest.approx(2 / 3)
    assert figures["specificity"] == pytest.approx(4 / 5)
    nobody = metrics.call_figures(np.array([1, 0]), np.array([False, False]))
    assert math.isnan(nobody["precision"])
    assert nobody["recall"] == 0


def test_threshold_for_a_recall():
    targets = np.array([1] * 10 + [0] * 3)
    scores = np.array([*range(10, 20), 30, 0, 0], dtype=float)
    assert metrics.threshold_for_recall(targets, scores, 0.9) == 11  # nine of ten are at or above 11
    assert metrics.threshold_for_recall(targets, scores, 1.0) == 10
    with pytest.raises(ValueError, match="no film with pneumonia"):
        metrics.threshold_for_recall(np.zeros(3), np.zeros(3))


def test_a_threshold_is_never_chosen_on_the_films_it_is_used_on():
    targets = np.array([1, 0, 1, 0])
    scores = np.array([5.0, 1.0, 3.0, 4.0])
    called, thresholds = metrics.cross_fitted_calls(targets, scores, np.array([0, 0, 1, 1]), recall=1.0)
    assert thresholds.tolist() == [3, 5]  # that of part 0 is the score of the ill film in part 1, and the other way
    assert called.tolist() == [True, False, False, False]


def test_the_class_weight_is_taken_back():
    """A network that has learnt the prevalence of 1 in 4 perfectly, with the weight of 3: its logit is 0."""
    assert classifier.class_weight(np.array([1, 0, 0, 0])) == 3
    assert metrics.probabilities(np.array([0.0]), 3.0) == pytest.approx([0.25])
    targets = np.array([1, 0, 0, 0])
    assert metrics.brier_skill(targets, np.full(4, 0.25), 0.25) == pytest.approx(0)
    assert metrics.brier_skill(targets, targets.astype(float), 0.25) == pytest.approx(1)
    assert metrics.brier_skill(targets, np.full(4, 0.5), 0.25) == pytest.approx(1 - 0.25 / 0.1875)


def test_a_network_too_sure_of_itself_is_brought_back_to_what_is_so():
    """Logits ten times too large: the slope found on the other half undoes it, and what is said is the true share."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, 4000)
    targets = (rng.random(4000) < 1 / (1 + np.exp(-honest))).astype(int)
    parts = np.arange(4000) % 2
    said = metrics.cross_fitted_probabilities(targets, 10 * honest + 3, parts)
    assert np.abs(said - 1 / (1 + np.exp(-honest))).max() < 0.05
    assert np.array_equal(np.argsort(said[parts == 0]), np.argsort(honest[parts == 0]))
    # Of a part, only the other parts' labels count.
    changed = np.where(parts == 0, 1 - targets, targets)
    again = metrics.cross_fitted_probabilities(changed, 10 * honest + 3, parts)
    assert again[parts == 0] == pytest.approx(said[parts == 0])
    assert not np.allclose(again[parts == 1], said[parts == 1])


def test_few_films_that_are_told_apart_perfectly_do_not_get_certainty():
    targets, scores = np.array([0, 0, 1, 1] * 2), np.array([-9.0, -8.0, 8.0, 9.0] * 2)
    said = metrics.cross_fitted_probabilities(targets, scores, np.repeat([0, 1], 4))
    assert ((said > 0.1) & (said < 0.9)).all()
    assert ((said > 0.5) == (targets == 1)).all()


def test_the_interval_draws_patients_and_not_films():
    """Ten films of one patient are one draw: the interval is as wide as with one film of each patient."""
    rng = np.random.default_rng(0)
    patients = np.arange(40)
    values = rng.normal(0, 1, 40)
    narrow = metrics.bootstrap_interval(np.mean, patients, values)
    many = metrics.bootstrap_interval(np.mean, np.repeat(patients, 10), np.repeat(values, 10))
    fooled = metrics.bootstrap_interval(np.mean, np.arange(400), np.repeat(values, 10))
    assert many == pytest.approx(narrow)
    assert fooled[1] - fooled[0] < 0.5 * (many[1] - many[0])
    error = 1.96 * values.std() / math.sqrt(40)  # what theory says of a mean
    assert narrow == pytest.approx((values.mean() - error, values.mean() + error), abs=0.06)


def test_an_interval_of_what_is_never_defined():
    low, high = metrics.bootstrap_interval(metrics.auroc, [0, 1], np.ones(2), np.ones(2))
    assert math.isnan(low) and math.isnan(high)


def test_view_alone():
    views, targets = np.array(["AP", "AP", "PA", "PA", "PA", "PA"]), np.array([1, 1, 1, 0, 0, 0])
    answers = metrics.group_rates(views, targets, ["PA", "AP", ""])
    assert answers == pytest.approx([1 / 4, 1, 1 / 2])


def test_thumbnails_see_the_exposure():
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 2
    films = [np.full((32, 32), 0.4 + 0.1 * ill) + rng.normal(0, 0.02, (32, 32)) for ill in targets]
    small = metrics.thumbnails(films)
    assert small.shape == (60, 64)
    answers = metrics.fit_thumbnails(small[:40], targets[:40], small[40:])
    assert metrics.auroc(targets[40:], answers) == 1


# ---------------------------------------------------------------- evidence


def test_the_map_sums_to_the_logit():
    torch.manual_seed(0)
    model = classifier.build_classifier(64).eval()
    x = torch.randn(3, 1, 64, 64)
    maps, bias = class_activation_map(model, x)
    with torch.no_grad():
        logits = model(x)
    assert maps.shape == (3, 1, 2, 2)
    assert torch.allclose(maps.sum(dim=(2, 3)) + bias, logits, atol=1e-5)
    assert maps.min() < 0 < maps.max()
    whole = metrics.complete_maps(maps[:, 0].numpy(), logits[:, 0].numpy())
    assert whole.sum(axis=(1, 2)) == pytest.approx(logits[:, 0].numpy(), abs=1e-5)
    assert whole - maps[:, 0].numpy() == pytest.approx(np.full((3, 2, 2), bias.item() / 4), abs=1e-5)


def test_share_of_evidence_worked_by_hand():
    """A box over the left half and a quarter of the rest; overlapping boxes count once."""
    coverage = metrics.box_coverage(np.array([[0, 0, 32, 64], [0, 0, 48, 32]]), 64, 2)
    assert coverage == pytest.approx(np.array([[1, 0.5], [1, 0]]))
    evidence = np.array([[1.0, 2.0], [-5.0, 1.0]])
    assert metrics.evidence_share(evidence, coverage) == pytest.approx((1 + 1) / 4)
    assert math.isnan(metrics.evidence_share(-np.ones((2, 2)), coverage))


def test_chance_shares():
    """A shuffled map is worth the area; the maps of others are worth what they are."""
    rng = np.random.default_rng(0)
    coverages = np.stack([metrics.box_coverage(np.array([[0, 0, 32, 64]]), 64, 4)] * 3)
    maps = np.zeros((3, 4, 4))
    maps[0] = rng.uniform(0, 1, (4, 4))
    maps[1, :, 0], maps[2, :, 3] = 1, 1
    shuffled, others = metrics.chance_shares(maps, coverages, rounds=2000)
    assert shuffled == pytest.approx([0.5, 0.5, 0.5], abs=0.02)
    assert others[0] == pytest.approx(0.5)  # one map wholly inside, one wholly outside


# ---------------------------------------------------------------- learning


def test_the_weighted_loss_worked_by_hand():
    task = classifier.PneumoniaTask(classifier.RECIPES["published"], 3.0)

    class Zero(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 1)

    loss = task.loss(Zero(), (torch.zeros(4, 1, 8, 8), torch.tensor([1.0, 0, 0, 0])), 1, torch.device("cpu"))
    assert loss.item() == pytest.approx((3 + 1 + 1 + 1) * math.log(2) / 4)


def test_the_first_epochs_see_small_films():
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, x):
            seen.append(x.shape[-1])
            return x.mean(dim=(1, 2, 3))[:, None]

    recipe = dataclasses.replace(classifier.RECIPES["few films"], epochs=10, small_size=32, small_share=0.7)
    task = classifier.PneumoniaTask(recipe, 1.0)
    for epoch in (1, 7, 8):
        task.loss(Watch(), (torch.zeros(2, 1, 64, 64), torch.zeros(2)), epoch, torch.device("cpu"))
    assert seen == [32, 32, 64]


def test_it_learns_what_can_be_learnt_and_is_saved(nih, tmp_path):
    """Bright films are called ill: a few steps must be enough, and the saved network answers the same."""
    rng = np.random.default_rng(0)
    rows = ["file,nih_label"]
    for i in range(32):
        name = f"{i:08d}_000.jpg"
        noise = rng.integers(0, 90, (64, 64))
        cv2.imwrite(str(nih / "images" / name), (noise + 120 * (i % 2)).astype(np.uint8))
        rows.append(f"{name},{'pneumonia' if i % 2 else 'no finding'}")
    (nih / "labels.csv").write_text("\n".join(rows) + "\n")
    prepared = quiet(nih, tmp_path / "out", size=64, held_out=0.25, even=False)  # evened, all are equally bright
    train, held = classifier.make_sides(prepared, "published")
    recipe = classifier.PneumoniaRecipe(epochs=3, batch_size=8, learning_rate=1e-3)
    torch.manual_seed(0)
    model = classifier.build_classifier(64)
    history = fit(model, train, held, classifier.PneumoniaTask(recipe, 1.0), tmp_path / "run", progress=False)
    assert history["val_auroc"].iloc[-1] == 1
    classifier.save_classifier(tmp_path / "model.pt", model, train.statistics, layout="nih")
    again, config = classifier.load_classifier(tmp_path / "model.pt")
    assert config["layout"] == "nih"
    # Not to the last bit: the trained network keeps its weights in another order in memory.
    assert classifier.predict_logits(again, held) == pytest.approx(classifier.predict_logits(model, held), abs=1e-4)


def test_the_last_layer_alone(tmp_path):
    """On a trunk that is left as it is, it is the logistic regression: the same logits, standardisation included."""

    class Films(torch.utils.data.Dataset):
        targets = np.array([0, 1] * 20, dtype=np.float32)
        x = torch.randn(40, 1, 64, 64, generator=torch.Generator().manual_seed(0)) + torch.tensor(targets).view(
            -1, 1, 1, 1
        )

        def __len__(self):
            return 40

        def __getitem__(self, index):
            return self.x[index], self.targets[index]

    torch.manual_seed(0)
    model, films = classifier.build_classifier(64).eval(), Films()
    before = model.features[0].weight.clone()
    classifier.fit_last_layer(model, films)
    assert torch.equal(model.features[0].weight, before)
    with torch.no_grad():
        pooled = model.features(films.x).mean(dim=(2, 3)).numpy()
    expected = metrics.fit_logistic(pooled, films.targets).decision_function(pooled)
    assert classifier.predict_logits(model, films) == pytest.approx(expected, abs=1e-3)
    assert metrics.auroc(films.targets, expected) > 0.95


@pytest.mark.parametrize("head", ["edges", "regression"])
def test_it_can_start_from_the_trunk_of_a_heart_network(tmp_path, head):
    from heartbox.models.build import build_model

    torch.manual_seed(0)
    heart = build_model("resnet18", head, targets=("heart",), size=64)
    save_weights(tmp_path / "heart.pt", heart, {"mean": 0.5, "std": 0.2, "layout": "made"}, targets=["heart"])
    model = classifier.build_classifier(64, tmp_path / "heart.pt").eval()
    x = torch.randn(1, 1, 64, 64)
    heart.eval()
    with torch.no_grad():
        expected = x
        for layer in heart.levels if head == "edges" else [heart.features]:
            expected = layer(expected)
        assert torch.equal(model.features(x), expected)


# ---------------------------------------------------------------- real films


def test_the_real_folder(real_data, tmp_path):
    """The NIH films as they lie: 800 labels, 163 boxes on 104 films, three contradictions; a few of them prepared."""
    films, problems = layouts.list_films(real_data / "nih")
    # NIH found nothing in these, and RSNA's readers drew boxes.
    assert [(one.name, one.kind) for one in problems] == [
        (f"{name}.jpg", "contradiction") for name in ("00002649_008", "00003005_022", "00003369_013")
    ]
    assert len(films) == 797
    assert sum(film.target for film in films) == 398
    assert sum(len(film.boxes) for film in films) == 163 - 5
    assert len({film.patient for film in films}) == 580
    prepared = data.prepare(real_data / "nih", tmp_path, size=64, limit=40, processes=1, progress=False)
    assert len(prepared.labels) == 40
    assert len(prepared.problems) == 3
    assert np.load(tmp_path / "images.npy").astype(float).std() > 0.1


def test_real_rsna_files(real_data, tmp_path):
    """RSNA's own DICOM files under RSNA's own table: the view comes from the header."""
    folder = tmp_path / "rsna"
    (folder / layouts.RSNA_IMAGES).mkdir(parents=True)
    rows = []
    for i, path in enumerate(sorted((real_data / "dicom").glob("00*.dcm"))):
        (folder / layouts.RSNA_IMAGES / path.name).symlink_to(path)
        rows.append(f"{path.stem},264.0,152.0,213.0,379.0,1" if i % 2 else f"{path.stem},,,,,0")
    write_rsna(folder, rows)
    prepared = quiet(folder, tmp_path / "out", size=64)
    assert len(prepared.labels) == len(rows) >= 10
    assert set(prepared.labels["view"]) == {"AP", "PA"}
    assert len(prepared.problems) == 0
    assert prepared.labels["patient"].nunique() == len(rows)


# ---------------------------------------------------------------- the benchmark


def test_the_benchmark_reports_what_it_is_given(nih, tmp_path):
    """Made answers of a network that knows everything, over folds by patient, beside the shortcuts."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import companion_pneumonia

    rng = np.random.default_rng(0)
    rows = ["file,nih_label,rsna_class"]
    for i in range(48):
        name = f"{i // 2:08d}_{i % 2:03d}.jpg"
        cv2.imwrite(str(nih / "images" / name), rng.integers(0, 256, (64, 64), dtype=np.uint8))
        label = "pneumonia" if i % 4 < 2 else "no finding"
        rows.append(f"{name},{label},{'Lung Opacity' if i % 8 == 0 else 'Normal'}")
    (nih / "labels.csv").write_text("\n".join(rows) + "\n")
    (nih / "opacity_boxes_512.csv").write_text("file,x,y,width,height\n00000000_000.jpg,0,0,256,512\n"
                                               "00000004_000.jpg,0,0,256,512\n")  # fmt: skip
    prepared = quiet(nih, tmp_path / "out", size=64)
    parts = companion_pneumonia.make_parts(prepared, 3)
    assert set(parts) == {0, 1, 2}
    assert pd.Series(parts).groupby(prepared.labels["patient"]).nunique().max() == 1
    targets = prepared.labels["target"].to_numpy()
    half = np.full((2, 2, 2), -1.0)
    half[:, :, 0] = 2  # all evidence in the left half, where the boxes are
    known = {"rows": np.arange(48), "logits": 4.0 * targets - 2, "weight": np.ones(48), "boxed": np.array([0, 8])}
    text = companion_pneumonia.report(prepared, parts, {"fine-tuned": known | {"maps": half}})
    assert "*Fine-tuned*: " in text and "*From scratch*" not in text  # what is not there needs no explaining
    assert "| ResNet18, fine-tuned | 1.000 (1.000 to 1.000) | 1.000 (1.000 to 1.000) |" in text
    assert "| ResNet18, fine-tuned | 24 | 0 | 0 | 24 | 1.000 | 1.000 | 1.000 | 1.000 |" in text
    assert "| the more common answer | 24 | 0 | 24 | 0 | 0.500 | 0.500 | 1.000 | 0.000 |" in text
    assert "2 films with boxes: 100%; share of the area 50%" in text
    assert "view position of these films is not recorded" in text
    assert "| those labelled pneumonia | 6 / 18 | 0.500" in text


# ---------------------------------------------------------------- the notebook


def run_notebook(tmp_path, **variables) -> tuple[subprocess.CompletedProcess, str]:
    """Run a copy of the notebook in fast mode with no way to the network; return what it printed too."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CARDIAC_")}
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    folder = tmp_path / "project"
    for name in ("companions", "heartbox", "weights", "cardiac_dataset.py"):
        folder.mkdir(exist_ok=True)
        (folder / name).symlink_to(ROOT / name) if name != "companions" else copy_companion(folder)
    run = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", NOTEBOOK],
        cwd=folder / "companions",
        env=environment | {"CARDIAC_FAST": "1"} | offline | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    outputs = [out for cell in nbformat.read(folder / "companions" / NOTEBOOK, 4).cells
               for out in cell.get("outputs", [])]  # fmt: skip
    assert not [out for out in outputs if out.get("name") == "stderr"]
    text = "\n".join(out.get("text", "") or str(out.get("data", {}).get("text/plain", "")) for out in outputs)
    return run, text


def copy_companion(folder) -> None:
    (folder / "companions").mkdir()
    for path in [ROOT / "companions" / NOTEBOOK, *(ROOT / "companions").glob("pneumonia*.py")]:
        (folder / "companions" / path.name).write_bytes(path.read_bytes())


@pytest.mark.slow
def test_the_notebook_on_the_sample(tmp_path):
    run, text = run_notebook(tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "synthetic" in text
    metrics = json.loads((tmp_path / "project/artifacts/pneumonia/metrics.json").read_text())
    assert metrics["layout"] == "sample"
    assert 0 <= metrics["network"]["auroc_low"] <= metrics["network"]["auroc"] <= metrics["network"]["auroc_high"] <= 1
    assert {"view position", "8 x 8 thumbnail"} <= set(metrics["shortcuts"])


@pytest.mark.slow
def test_the_notebook_on_nih_films(tmp_path, real_data):
    run, text = run_notebook(tmp_path, CARDIAC_DATA=str(real_data / "nih"), CARDIAC_ARTIFACTS=str(tmp_path / "out"))
    assert run.returncode == 0, run.stderr[-3000:]
    assert "view position is not recorded" in text
    assert json.loads((tmp_path / "out/pneumonia/metrics.json").read_text())["layout"] == "nih"
    assert not (tmp_path / "project/data").exists()


@pytest.mark.slow
def test_the_notebook_refuses_a_wrong_folder(tmp_path):
    run, _ = run_notebook(tmp_path, CARDIAC_DATA=str(tmp_path))
    assert run.returncode != 0
    assert "holds none of the layouts known here" in run.stderr
