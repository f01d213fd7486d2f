"""Raw folders -> processed folder: boxes, images, bytes, and which films are skipped with which reason."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from helpers import ROOT
from jobs import Page, read_page
from raw_folders import nearly_plain, run, write_ctr, write_dicom, write_rsna

from heartbox.boxes import box_from_mask, scale_boxes
from heartbox.data.layouts import RSNA_COLUMNS, RSNA_CSV, fault_of_frame, list_xrays
from heartbox.data.prepare import prepare, read_film
from heartbox.data.reading import read_each
from heartbox.data.store import Statistics
from heartbox.data.tables import ItemError
from heartbox.phantom import write_phantoms
from heartbox.xray.borders import Window
from heartbox.xray.reader import load_xray


def test_rsna_boxes(tmp_path):
    write_rsna(tmp_path / "raw", shape=(80, 40))
    prepared = run(tmp_path / "raw", tmp_path / "out")
    first = prepared.labels.iloc[0]
    assert first[["heart_x_min", "heart_y_min", "heart_x_max", "heart_y_max"]].tolist() == [60, 70, 140, 160]
    assert first[[c for c in prepared.labels if c.startswith("thorax")]].isna().all()
    assert (first["rows"], first["columns"], first["source"]) == (80, 40, "rsna")


def test_rsna_boxes_scale_with_the_size(tmp_path):
    write_rsna(tmp_path / "raw")
    labels = run(tmp_path / "raw", tmp_path / "out", size=112).labels
    assert labels.loc[0, "heart_x_max"] == 70


def test_ctr_boxes_come_from_the_masks_by_hand(tmp_path):
    # 100 rows x 50 columns -> 224: y by 2.24, x by 4.48
    write_ctr(tmp_path / "raw")
    labels = run(tmp_path / "raw", tmp_path / "out").labels
    heart = labels.loc[0, ["heart_x_min", "heart_y_min", "heart_x_max", "heart_y_max"]].tolist()
    thorax = labels.loc[0, ["thorax_x_min", "thorax_y_min", "thorax_x_max", "thorax_y_max"]].tolist()
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["split"].startswith("by film")  # PNG: no patient
    assert heart == pytest.approx([89.6, 89.6, 156.8, 156.8])
    assert thorax == pytest.approx([22.4, 22.4, 201.6, 179.2])


@pytest.mark.parametrize("grey", [0, 255, 120])
def test_a_border_is_cropped_with_its_boxes_and_masks(tmp_path, grey):
    """A padded film gives the same arrays and the same row as the film before the padding."""
    write_ctr(tmp_path / "plain", count=2, shape=(150, 90))
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "plain").rglob("png/*.png")):
        cv2.imwrite(str(path), rng.integers(0, 256, (150, 90), dtype=np.uint8))
    shutil.copytree(tmp_path / "plain", tmp_path / "padded")
    for path in (tmp_path / "padded").rglob("*.png"):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        value = grey if path.parent.name == "png" else 0
        cv2.imwrite(str(path), np.pad(image, ((40, 0), (30, 20)), constant_values=value))
    plain, padded = (run(tmp_path / name, tmp_path / "out" / name) for name in ("plain", "padded"))
    pd.testing.assert_frame_equal(plain.labels, padded.labels)
    for name in ("images.npy", "outlines.npy", "masks.npy"):
        np.testing.assert_array_equal(*(np.load(tmp_path / "out" / one / name) for one in ("plain", "padded")))
    assert plain.stats.cropped == {}
    assert padded.stats.cropped == dict.fromkeys(padded.labels["name"], [40, 190, 30, 120])
    assert Statistics.load(tmp_path / "out" / "padded") == padded.stats
    assert "4 of them had a plain border, which was cropped" in padded.summary()


def test_boxes_in_a_frame_move_with_the_border(tmp_path):
    """A box is drawn in a frame of 224 px over the whole file, 320 x 400 pixels; the film is 160 x 200 of them."""
    pixels = np.full((320, 400), 255)
    pixels[80:240, 100:300] = np.random.default_rng(0).integers(0, 250, (160, 200))
    write_rsna(tmp_path / "raw", 3)
    for number in range(3):
        write_dicom(tmp_path / f"raw/stage_2_train_images/film-{number}.dcm", pixels)
    labels = run(tmp_path / "raw", tmp_path / "out").labels
    assert labels.loc[0, ["rows", "columns"]].tolist() == [160, 200]
    # 60 to 140 of 224 columns are 107.1 to 250 of 400, so 7.1 to 150 of the film's 200, so 8 to 168 of 224.
    heart = labels.loc[0, ["heart_x_min", "heart_y_min", "heart_x_max", "heart_y_max"]].tolist()
    assert heart == pytest.approx([8, 28, 168, 208])


def test_phantom_boxes_are_the_exact_ones(tmp_path):
    table = write_phantoms(tmp_path / "raw", count=6, size=256, progress=False)
    prepared = run(tmp_path / "raw", tmp_path / "out")
    labels, cropped = prepared.labels.set_index("name"), prepared.stats.cropped
    assert 0 < len(cropped) < 6  # some phantoms are collimated; their boxes moved into the part that is left
    for row in table.itertuples():
        heart = labels.loc[row.name, ["heart_x_min", "heart_y_min", "heart_x_max", "heart_y_max"]].tolist()
        top, bottom, left, right = cropped.get(row.name, [0, 256, 0, 256])
        assert (labels.loc[row.name, "rows"], labels.loc[row.name, "columns"]) == (bottom - top, right - left)
        edges = np.array([row.x0, row.y0, row.x0 + row.w, row.y0 + row.h]) * 256 / 224 - [left, top, left, top]
        height, width = 224 / (bottom - top), 224 / (right - left)
        assert heart == pytest.approx(edges * [width, height, width, height], abs=1e-3)
    assert labels["thorax_x_min"].notna().all()


def test_images_are_as_read_and_resized(tmp_path):
    write_rsna(tmp_path / "raw", 3)
    prepared = run(tmp_path / "raw", tmp_path / "out", size=32, normalize=False)
    images = np.load(tmp_path / "out" / "images.npy", mmap_mode="r")
    assert (images.shape, images.dtype) == ((3, 32, 32), np.float16)
    # the window 128 / 256 maps 10 to about 10 / 255
    assert images[0, 5, 5] == pytest.approx(10 / 255, abs=2e-3)
    assert prepared.labels["name"].tolist() == ["film-0", "film-1", "film-2"]


def test_pixel_spacing_is_kept(tmp_path):
    write_rsna(tmp_path / "raw", 3)
    write_dicom(tmp_path / "raw/stage_2_train_images/film-1.dcm", nearly_plain(9), PixelSpacing=[0.143, 0.2])
    labels = run(tmp_path / "raw", tmp_path / "out").labels
    assert labels.loc[1, "pixel_spacing"] == "0.143\\0.2"
    assert pd.isna(labels.loc[0, "pixel_spacing"])


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    write_rsna(tmp_path / "raw", 40)
    for out, processes in (("one", 1), ("two", 2)):
        prepare(tmp_path / "raw", tmp_path / out, size=32, processes=processes, progress=False)
    for name in ("images.npy", "labels.csv", "stats.json", "skipped.csv", "patients.csv"):
        digests = [hashlib.sha256((tmp_path / out / name).read_bytes()).hexdigest() for out in ("one", "two")]
        assert digests[0] == digests[1], name
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "images.npy", "labels.csv", "patients.csv", "skipped.csv", "stats.json"
    ]  # fmt: skip
    assert json.loads((tmp_path / "one" / "stats.json").read_text())["layout"] == "rsna"


def test_bad_films_are_skipped_with_their_reason(tmp_path):
    table = write_rsna(tmp_path / "raw", 14)
    folder = tmp_path / "raw" / "stage_2_train_images"
    (folder / "film-1.dcm").write_bytes((folder / "film-1.dcm").read_bytes()[:600])  # cut off
    (folder / "film-2.dcm").write_text("not a film")
    (folder / "film-3.dcm").unlink()
    table.loc[4, ["x0", "y0", "w", "h"]] = [300, 10, 20, 20]
    table.loc[5, "w"] = 0
    table = table.astype(dict.fromkeys(("x0", "y0", "w", "h"), float))
    table.loc[0, ["x0", "y0", "w", "h"]] = [0.1, 0.2, 0.3, 0.4]
    table.loc[6, "x0"] = np.nan
    table.loc[7, "label"] = "lung"
    table = table.astype({"img_shape_x": object})
    table.loc[8, "img_shape_x"] = "wide"
    table.loc[9, "w"] = 900
    table.loc[10, "name"] = "film-10.dcm"  # a name with its ending is understood
    table = pd.concat([table, table[11:12], table[10:11].assign(w=33)])
    table.to_csv(tmp_path / "raw" / "rsna_heart_detection.csv", index=False)
    prepared = run(tmp_path / "raw", tmp_path / "out")
    reasons = dict(zip(prepared.skipped["name"], prepared.skipped["reason"], strict=True))
    assert set(reasons) == {f"film-{i}" for i in range(12)}
    assert reasons["film-1"].startswith("film-1.dcm")  # named without the folders of this machine
    assert "row 9 of the csv: the label is 'lung'" in reasons["film-7"]
    assert "row 10 of the csv: a box is four numbers" in reasons["film-8"]
    assert "reaches outside the image" in reasons["film-9"]
    assert "no stage_2_train_images/film-3.dcm" in reasons["film-3"]
    assert "outside the image" in reasons["film-4"]
    assert "empty" in reasons["film-5"]
    assert reasons["film-11"] == "a second row for the same image; the first is used"
    assert reasons["film-10"].endswith("a second row for the same image, with another box; neither is used")
    assert "less than a pixel" in reasons["film-0"]
    assert prepared.stats.counts["skipped"] == 12
    assert "12 skipped" in prepared.summary()
    assert len(np.load(tmp_path / "out" / "images.npy")) == len(prepared.labels) == 3
    assert pd.read_csv(tmp_path / "out" / "skipped.csv").equals(prepared.skipped)
    kinds = dict(zip(prepared.skipped["name"], prepared.skipped["kind"], strict=True))
    assert [kinds[f"film-{i}"] for i in (1, 3, 5, 7, 9, 11)] == [
        "unreadable", "no image", "box", "label", "box", "duplicate"
    ]  # fmt: skip


def test_bad_masks_are_skipped_with_their_reason(tmp_path):
    write_ctr(tmp_path / "raw")
    masks = tmp_path / "raw" / "jsrt" / "mask"
    (masks / "left_lung" / "jsrt-0.png").unlink()
    cv2.imwrite(str(masks / "heart" / "jsrt-1.png"), np.zeros((100, 50), np.uint8))
    cv2.imwrite(str(masks / "heart" / "jsrt-2.png"), np.eye(50, dtype=np.uint8) * 255)
    problems = run(tmp_path / "raw", tmp_path / "out").skipped.set_index("name")
    skipped = problems["reason"]
    assert set(problems["kind"]) == {"mask"}
    assert "no mask of left_lung" in skipped["jsrt-0"]
    assert "heart is empty" in skipped["jsrt-1"]
    assert "(50, 50)" in skipped["jsrt-2"]


def test_nothing_readable_leaves_nothing_behind(tmp_path):
    write_rsna(tmp_path / "raw", 3)
    for path in (tmp_path / "raw" / "stage_2_train_images").iterdir():
        path.write_text("not a film")
    with pytest.raises(ValueError, match="not one X-ray"):
        run(tmp_path / "raw", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_masks_of_zeros_and_ones(tmp_path):
    write_ctr(tmp_path / "raw", 2)
    for path in (tmp_path / "raw").rglob("mask/*/*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255)
    labels = run(tmp_path / "raw", tmp_path / "out").labels
    assert labels["heart_x_min"].tolist() == pytest.approx([89.6] * 4)


def test_films_without_contrast_are_counted(tmp_path):
    write_rsna(tmp_path / "raw", 4)
    with pytest.raises(ValueError, match="where the raw files lie"):
        prepare(tmp_path / "raw", tmp_path / "raw")
    prepared = run(tmp_path / "raw", tmp_path / "out")
    assert prepared.stats.counts["low_contrast"] == 4
    assert prepared.low_contrast == ["film-0", "film-1", "film-2", "film-3"]
    assert "4 of them have very low contrast" in prepared.summary()


def test_limit_takes_films_from_the_whole_list(tmp_path):
    write_rsna(tmp_path / "raw", 20)
    assert run(tmp_path / "raw", tmp_path / "out", limit=3).labels["name"].tolist() == ["film-0", "film-9", "film-19"]


def test_real_ctr_films(real_data, tmp_path):
    prepared = run(real_data / "ctr", tmp_path, limit=24)
    assert prepared.stats.layout == "ctr"
    assert len(prepared.skipped) == 0
    assert set(prepared.labels["source"]) == {"jsrt", "wingspan"}
    name = prepared.labels.loc[0, "name"]
    mask = cv2.imread(str(real_data / "ctr/jsrt/mask/heart" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) > 127
    part = Window(*prepared.stats.cropped.get(name, [0, 512, 0, 512]))
    expected = scale_boxes(box_from_mask(part.of(mask)), part.shape, (224, 224))
    found = prepared.labels.loc[0, ["heart_x_min", "heart_y_min", "heart_x_max", "heart_y_max"]].tolist()
    assert found == pytest.approx(expected.tolist(), abs=1e-3)


def test_real_rsna_files(real_data, tmp_path):
    """Any ten of the real files in the RSNA layout, with made-up rows."""
    (tmp_path / "raw" / "stage_2_train_images").mkdir(parents=True)
    rows = []
    for path in sorted((real_data / "dicom").glob("0*.dcm"))[:10]:
        copy = tmp_path / "raw" / "stage_2_train_images" / path.name
        copy.write_bytes(path.read_bytes())
        rows.append(["heart", 91, 71, 77, 102, path.stem, 224, 224])
    pd.DataFrame(rows, columns=RSNA_COLUMNS).to_csv(tmp_path / "raw" / "rsna_heart_detection.csv", index=False)
    prepared = run(tmp_path / "raw", tmp_path / "out")
    assert prepared.stats.counts == {"train": 8, "val": 2, "skipped": 0, "low_contrast": 0}
    assert prepared.labels["pixel_spacing"].notna().all()
    assert pydicom.dcmread(copy, stop_before_pixels=True).Rows == prepared.labels["rows"].iloc[-1]
    images = np.load(tmp_path / "out" / "images.npy").astype(float)
    assert (images.std(axis=(1, 2)) > 0.1).all()  # each has contrast


def test_left_out_films_are_used_for_nothing(real_data, tmp_path):
    films, _ = list_xrays(real_data / "ctr")
    names = [film.name for film in films if film.excluded][:2] + [f.name for f in films if not f.excluded][:4]
    for film in films:
        if film.name in names:
            for path in (film.path, *film.masks):
                target = tmp_path / "ctr" / path.relative_to(real_data / "ctr")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    prepared = prepare(tmp_path / "ctr", tmp_path / "out", progress=False)
    unused = prepared.labels["split"] == "unused"
    assert set(prepared.labels["name"][unused]) == set(names[:2])
    assert "2 are excluded from both splits" in prepared.summary()


def test_patients_are_numbers(tmp_path):
    """Whose film each is can be told apart, and nobody can be told."""
    write_rsna(tmp_path / "raw", 9, patients=3)
    prepared = prepare(tmp_path / "raw", tmp_path / "out", size=64, progress=False)
    patients = pd.read_csv(tmp_path / "out" / "patients.csv")
    assert patients["name"].tolist() == prepared.labels["name"].tolist()
    assert patients["patient"].tolist() == [0, 1, 2] * 3
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"patient-" not in written


# ---------------------------------------------------------------- one film's fault stays that film's


def test_a_frame_with_width_and_height_swapped(tmp_path):
    table = write_rsna(tmp_path / "raw", 6, shape=(60, 80))
    table.loc[[0, 1], ["img_shape_x", "img_shape_y"]] = [168, 224]  # swapped: the films are wider than high
    table.loc[2, ["img_shape_x", "img_shape_y"]] = [224, 168]
    table.to_csv(tmp_path / "raw" / RSNA_CSV, index=False)
    films, problems = list_xrays(tmp_path / "raw")
    assert [film.name for film in films] == ["film-2", "film-3", "film-4", "film-5"]
    assert [(one.name, one.kind) for one in problems] == [("film-0", "frame"), ("film-1", "frame")]
    skipped = run(tmp_path / "raw", tmp_path / "out").skipped
    assert skipped[["name", "kind"]].to_numpy().tolist() == [["film-0", "frame"], ["film-1", "frame"]]
    assert "swapped?" in skipped["reason"][0]


@pytest.mark.parametrize(
    ("frame", "shape", "fits"),
    [
        ((224, 224), (1024, 1024), True),
        ((224, 224), (2048, 2500), True),  # drawn on a film squeezed into a square, as published
        ((400, 512), (400, 512), True),
        ((401, 512), (800, 1024), True),  # rounded
        ((512, 400), (400, 512), False),
        ((400, 512), (512, 512), False),
        ((0, 224), (512, 512), False),
    ],
)
def test_frames(frame, shape, fits):
    assert (fault_of_frame(frame, shape) == "") == fits


def test_a_frame_is_called_swapped_only_where_that_would_mend_it():
    assert "are img_shape_x and img_shape_y swapped?" in fault_of_frame((512, 400), (400, 512))
    assert fault_of_frame((300, 400), (160, 144)).endswith("the image has 144 x 160; is it another one?")


def test_values_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    """The reader refuses such a file too; that one film made all statistics NaN must not depend on it."""
    write_rsna(tmp_path / "raw", 1)
    film = list_xrays(tmp_path / "raw")[0][0]
    xray = load_xray(film.path)
    xray.image[3, 4] = np.nan
    monkeypatch.setattr(sys.modules["heartbox.data.prepare"], "load_xray", lambda path: xray)
    with pytest.raises(ItemError, match="NaN") as caught:
        read_film(film, 64)
    assert caught.value.kind == "unreadable"


def test_every_exception_of_one_item_becomes_its_problem(tmp_path):
    names = ["good", "abort", "bug", "bad", "odd", "last"]
    pages = [Page(name, tmp_path / "films" / f"{name}.dcm") for name in names]
    log = tmp_path / "log.txt"
    results = list(read_each(read_page, pages, "read", progress=False, log=log))
    assert [results[0], results[-1]] == ["read", "read"]
    problems = results[1:-1]
    assert [(one.name, one.kind) for one in problems] == [
        ("abort", "crash"), ("bug", "error"), ("bad", "unreadable"), ("odd", "frame")
    ]  # fmt: skip
    assert problems[2].reason == "bad.dcm: not a film"  # without the folders of this machine
    assert not [one for one in problems if str(tmp_path) in one.reason]
    assert "ZeroDivisionError" in log.read_text()
    assert "log.txt" in problems[1].reason


def test_prepare_goes_on_after_a_film_that_nobody_expected(tmp_path, monkeypatch):
    """Here a file that vanishes between the listing and the reading."""
    write_rsna(tmp_path / "raw", 6)
    listed = list_xrays(tmp_path / "raw")
    (tmp_path / "raw" / "stage_2_train_images" / "film-2.dcm").unlink()
    monkeypatch.setattr(sys.modules["heartbox.data.prepare"], "list_xrays", lambda folder: listed)
    prepared = run(tmp_path / "raw", tmp_path / "out")
    assert prepared.skipped["name"].tolist() == ["film-2"]
    assert len(prepared.labels) == 5


def test_a_script_without_a_main_guard(tmp_path):
    """On the standard library's processes such a script ran itself again in each of them, and died."""
    write_rsna(tmp_path / "raw", 30)
    script = (
        "from heartbox.data import prepare\nprint(len(prepare('raw', 'out', processes=2, progress=False).labels))\n"
    )
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for arguments in (["script.py"], ["-"]):
        done = subprocess.run(
            [sys.executable, *arguments], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == ("30\n", "")
