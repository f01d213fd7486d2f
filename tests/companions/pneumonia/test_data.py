"""Preparing films for the pneumonia companion: what is read, what is left out, interruptions, splits."""

import itertools
import tracemalloc

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from pneumonia_films import prepare_quietly, rsna_rows, write_dicom, write_nih, write_rsna

from companions.pneumonia import data, layouts
from companions.pneumonia.data import VALIDATION_SHARE, load_prepared, make_datasets, pixel_statistics
from heartbox.data.splits import split_by_patient
from heartbox.xray.contrast import normalize_contrast


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
    prepared = prepare_quietly(folder, tmp_path / "out", size=32, validation_share=0.5, even=False)
    images = np.load(tmp_path / "out" / "images.npy", mmap_mode="r")
    assert (images.shape, images.dtype) == ((4, 32, 32), np.float16)
    for image, name in zip(images, "abcd", strict=True):
        expected = cv2.resize(shown[name].astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(image - expected).max() < 2e-3
    assert prepared.labels["view"].tolist() == ["PA", "AP", "AP", "AP"]
    assert prepared.boxes_of(0) == pytest.approx(np.array([[16, 8, 32, 24]]))  # 50 x 40 to 32 x 32
    mean, std = pixel_statistics(prepared.labels)
    assert (mean, std) == pytest.approx((images[:].astype(float).mean(), images[:].astype(float).std()), rel=1e-6)
    both = set(prepared.labels.loc[prepared.rows("train"), "target"])
    assert both == set(prepared.labels.loc[prepared.rows("val"), "target"]) == {0, 1}
    normalised = prepare_quietly(folder, tmp_path / "out", size=32, validation_share=0.5)
    assert (normalised.stats["contrast"], prepared.stats.get("contrast")) == ("even", None)
    for image, name in zip(np.load(tmp_path / "out" / "images.npy"), "abcd", strict=True):
        expected = cv2.resize(shown[name].astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(image - normalize_contrast(expected)).max() < 5e-3


def test_training_films_are_z_normalised_by_the_training_films(rsna):
    prepared = prepare_quietly(rsna, rsna / "out", size=32, validation_share=0.5)
    train, val = make_datasets(prepared, "")
    pixels = torch.stack([train[i][0] for i in range(len(train))])
    assert pixels.mean().item() == pytest.approx(0, abs=1e-4)
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)
    assert val.statistics == train.statistics
    assert not set(train.rows) & set(val.rows)


def test_a_patient_is_in_one_split(nih):
    names = [f"{i // 3:08d}_{i % 3:03d}.jpg" for i in range(30)]
    write_nih(nih, [(name, "pneumonia" if i % 2 else "no finding") for i, name in enumerate(names)])
    for seed in range(6):
        labels = prepare_quietly(nih, nih / "out", size=32, seed=seed, validation_share=0.4).labels
        assert labels.groupby("patient")["split"].nunique().max() == 1
        assert (labels.groupby("split")["target"].nunique() == 2).all()


def test_a_split_with_one_class_is_refused(nih):
    """Two patients have pneumonia in all of their films or none: one split has no pneumonia, whoever validates."""
    text = (nih / "labels.csv").read_text().replace("00000001_007.jpg,pneumonia", "00000001_007.jpg,no finding")
    (nih / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=r"of the \d films in the split '(train|val)' have pneumonia"):
        prepare_quietly(nih, nih / "out", size=32)
    with pytest.raises(FileNotFoundError, match="run prepare first"):
        load_prepared(nih / "out")


def test_rsna_is_split_as_published():
    """24,000 films to train on and 2,684 to validate, if every image is its own patient."""
    labels = [1] * 6012 + [0] * 20672
    splits = split_by_patient([str(i) for i in range(26684)], [str(one) for one in labels], 0, VALIDATION_SHARE["rsna"])
    assert (splits.count("train"), splits.count("val")) == (24000, 2684)


def test_the_raw_folder_is_not_written_to(nih):
    before = (nih / "labels.csv").read_bytes()
    with pytest.raises(ValueError, match="where the raw files lie"):
        prepare_quietly(nih, nih, size=32)
    assert (nih / "labels.csv").read_bytes() == before


def test_damaged_statistics_are_made_anew(rsna):
    prepare_quietly(rsna, rsna / "out", size=32)
    (rsna / "out" / "stats.json").write_text("{")
    assert len(prepare_quietly(rsna, rsna / "out", size=32).labels) == 8


def test_a_broken_dicom_and_a_box_outside_are_named_and_counted(rsna):
    broken = rsna / layouts.RSNA_IMAGES / "f.dcm"
    broken.write_bytes(broken.read_bytes()[:-500])
    write_rsna(rsna, ["a,45,4,10,20,1", *rsna_rows(rsna)[1:]])  # 45 + 10 of 50 columns
    prepared = prepare_quietly(rsna, rsna / "out", size=32)
    assert prepared.labels["name"].tolist() == list("abcdegh")
    assert len(np.load(rsna / "out" / "images.npy")) == 7
    found = prepared.problems.set_index("kind")
    assert found.loc["unreadable", "name"] == "f"
    assert "f.dcm" in found.loc["unreadable", "reason"]
    assert found.loc["box", "name"] == "a"
    assert len(prepared.boxes_of(0)) == 0
    assert prepared.labels["target"].tolist() == [1, 1, 1, 1, 0, 0, 0]  # the label of a is used
    assert len(prepared.boxes_of(1)) == 2  # and the numbers of the boxes still fit
    summary = prepared.summary()
    assert "unreadable: 1" in summary and "f.dcm" in summary and "box: 1" in summary


def test_any_exception_of_a_film_stays_its_problem(rsna, monkeypatch):
    """Not only errors that are expected: the others are read, and the folder is finished."""
    read_film = data._read_film

    def failing(film, size, even):
        if film.name == "c":
            raise MemoryError("a film of 10 GB")
        return read_film(film, size, even)

    monkeypatch.setattr(data, "_read_film", failing)
    prepared = prepare_quietly(rsna, rsna / "out", size=32, log=rsna / "log.txt")
    assert prepared.labels["name"].tolist() == list("abdefgh")
    (problem,) = prepared.problems.itertuples(index=False)
    assert (problem.name, problem.kind) == ("c", "error")
    assert "a film of 10 GB" in problem.reason
    assert "Traceback" in (rsna / "log.txt").read_text()


def test_a_box_over_the_border_by_rounding_is_clipped(rsna):
    write_rsna(rsna, ["a,40,4,10.2,20,1", *rsna_rows(rsna)[1:]])
    assert prepare_quietly(rsna, rsna / "out", size=32).boxes_of(0)[0, 2] == 32


def test_an_empty_image_is_not_a_film(nih):
    cv2.imwrite(str(nih / "images" / "00000003_000.jpg"), np.full((64, 64), 90, np.uint8))
    cv2.imwrite(str(nih / "images" / "00000002_001.jpg"), np.arange(16, dtype=np.uint8).reshape(4, 4) * 16)
    found = prepare_quietly(nih, nih / "out", size=32).problems.set_index("name")
    assert (found["kind"] == "unreadable").all()
    assert "one even grey" in found.loc["00000003_000", "reason"]
    assert "4 x 4 pixels are too few for a chest" in found.loc["00000002_001", "reason"]


def test_nothing_readable(rsna):
    for path in (rsna / layouts.RSNA_IMAGES).glob("[a-d].dcm"):
        path.write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"4 films can be read, and they do not hold both classes.*a: a\.dcm"):
        prepare_quietly(rsna, rsna / "out", size=32)
    with pytest.raises(FileNotFoundError, match="run prepare first"):
        load_prepared(rsna / "out")


def folder_bytes(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def watch_reading(monkeypatch, read_each) -> list[str]:
    """Return a list that gets the name of each film that is read from now on."""
    names = []

    def watched(read, films, *arguments, **options):
        names.extend(film.name for film in films)
        return read_each(read, films, *arguments, **options)

    monkeypatch.setattr(data, "read_each", watched)
    return names


@pytest.mark.parametrize("torn", ["", "line", "image"])
def test_an_interrupted_preparation_continues(rsna, tmp_path, monkeypatch, capsys, torn):
    (rsna / layouts.RSNA_IMAGES / "b.dcm").write_bytes(b"broken")  # a film without an image, on the way
    prepare_quietly(rsna, tmp_path / "whole", size=32)
    read_each = data.read_each

    def interrupted(*arguments, **options):
        yield from itertools.islice(read_each(*arguments, **options), 5)
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "read_each", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_quietly(rsna, tmp_path / "part", size=32)
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
    again = watch_reading(monkeypatch, read_each)
    prepare_quietly(rsna, tmp_path / "part", size=32)
    assert again == list("abcdefgh")[kept:]
    assert f"{kept} of 8 films were read before" in capsys.readouterr().out
    assert folder_bytes(tmp_path / "part") == folder_bytes(tmp_path / "whole")


def test_a_finished_preparation_reads_nothing_again_until_something_changes(rsna, monkeypatch):
    first = prepare_quietly(rsna, rsna / "out", size=32)
    again = watch_reading(monkeypatch, data.read_each)
    second = prepare_quietly(rsna, rsna / "out", size=32)
    assert again == []
    pd.testing.assert_frame_equal(first.labels, second.labels)
    write_rsna(rsna, [row for row in rsna_rows(rsna) if not row.startswith("a")] + ["a,,,,,0"])
    third = prepare_quietly(rsna, rsna / "out", size=32)
    assert len(again) == 8
    assert third.labels["target"].tolist()[0] == 0


def test_memory_does_not_grow_with_the_films(tmp_path):
    """Five times as many films, each of 200 kB once prepared: the peak stays where it was."""
    peaks = []
    for count in (8, 40):
        folder = tmp_path / str(count)
        write_nih(folder, [(f"{i:08d}_000.jpg", "pneumonia" if i % 2 else "no finding") for i in range(count)])
        tracemalloc.start()
        prepare_quietly(folder, folder / "out", size=320)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 5 * 320 * 320 * 2


def test_real_nih_files(real_data, tmp_path):
    prepared = data.prepare(real_data / "nih", tmp_path, size=64, limit=40, processes=1, progress=False)
    assert len(prepared.labels) == 40
    assert len(prepared.problems) == 3
    assert prepared.images[:].astype(float).std() > 0.1


def test_real_rsna_files(real_data, tmp_path):
    """RSNA's own DICOM files under RSNA's own table: the view comes from the header."""
    folder = tmp_path / "rsna"
    (folder / layouts.RSNA_IMAGES).mkdir(parents=True)
    rows = []
    for i, path in enumerate(sorted((real_data / "dicom").glob("00*.dcm"))):
        (folder / layouts.RSNA_IMAGES / path.name).symlink_to(path)
        rows.append(f"{path.stem},264.0,152.0,213.0,379.0,1" if i % 2 else f"{path.stem},,,,,0")
    write_rsna(folder, rows)
    prepared = prepare_quietly(folder, tmp_path / "out", size=64)
    assert len(prepared.labels) == len(rows) >= 10
    assert set(prepared.labels["view"]) == {"AP", "PA"}
    assert len(prepared.problems) == 0
    assert prepared.labels["patient"].nunique() == len(rows)
