"""Images of .npy files: read, refused, resized with their boxes, split, and written out again."""

import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import change_first_row, write_npy_folder

from cardiac_dataset import CardiacDataset
from companions.vgg16 import data
from companions.vgg16.data import export_npy, prepare_npy, read_npy
from companions.vgg16.layouts import recognise_layout
from heartbox.data.prepare import prepare


@pytest.mark.parametrize("columns", ["corners", "sizes"])
def test_images_and_boxes_are_resized_together(tmp_path, columns):
    done = prepare_npy(write_npy_folder(tmp_path / "raw", columns=columns), tmp_path / "out", size=96)
    assert list(done.labels["name"]) == [f"film{i}" for i in range(8)]
    assert len(done.skipped) == 0
    # 48 columns become 96 and 40 rows become 96
    first = done.labels.filter(like="heart_").iloc[0].to_numpy()
    assert first == pytest.approx([8, 8 * 2.4, 48, 32 * 2.4])
    assert sorted(done.labels["split"].unique()) == ["train", "val"]
    x, box = CardiacDataset(tmp_path / "out", "train")[0]
    assert x.shape == (1, 96, 96)
    assert torch.isfinite(x).all()
    assert box.shape == (4,)


def test_folders_say_the_split(tmp_path):
    done = prepare_npy(write_npy_folder(tmp_path / "raw", subfolders=("train", "train", "val")), tmp_path / "out", 32)
    assert list(done.labels["split"]) == ["train", "train", "val"] * 2 + ["train", "train"]
    assert done.stats.split.startswith("given")


def test_folders_say_the_split_one_deeper_too(tmp_path):
    raw = write_npy_folder(tmp_path / "raw", subfolders=("train/images", "train/images", "val/images"))
    change_first_row(raw, name="train/film0.npy")  # a name with its folder means that file
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert len(done.skipped) == 0
    assert list(done.labels["split"]) == ["train", "train", "val"] * 2 + ["train", "train"]


def test_one_split_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="only one of train/ and val/"):
        prepare_npy(write_npy_folder(tmp_path / "raw", subfolders=("train",)), tmp_path / "out", 32)


def test_a_patient_in_both_splits_leaves_training(tmp_path):
    raw = write_npy_folder(tmp_path / "raw", subfolders=("train", "train", "val"))
    table = pd.read_csv(raw / "boxes.csv").assign(patient=list("abacdefg"))  # films 0 (train) and 2 (val) are of a
    table.to_csv(raw / "boxes.csv", index=False)
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert list(done.labels["split"]) == ["unused", "train", "val", "train", "train", "val", "train", "train"]


def test_images_of_a_patient_share_a_split(tmp_path):
    raw = write_npy_folder(tmp_path / "raw")
    pd.read_csv(raw / "boxes.csv").assign(patient=list("aabbccdd")).to_csv(raw / "boxes.csv", index=False)
    split = prepare_npy(raw, tmp_path / "out", 32).labels["split"].to_numpy().reshape(4, 2)
    assert (split[:, 0] == split[:, 1]).all()


def test_the_frame_of_the_boxes_counts(tmp_path):
    """Boxes drawn at 96 x 80 over images of 48 x 40, as the exercise's csv says it with two columns."""
    raw = write_npy_folder(tmp_path / "raw")
    pd.read_csv(raw / "boxes.csv").assign(img_shape_x=96, img_shape_y=80).to_csv(raw / "boxes.csv", index=False)
    first = prepare_npy(raw, tmp_path / "out", 48).labels.filter(like="heart_").iloc[0].to_numpy()
    assert first == pytest.approx([2, 8 * 0.6, 12, 32 * 0.6])


def test_the_same_input_gives_the_same_bytes(tmp_path):
    raw = write_npy_folder(tmp_path / "raw")
    for out in ("a", "b"):
        prepare_npy(raw, tmp_path / out, 32)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_processed_folder_goes_out_and_comes_back(processed, tmp_path):
    export_npy(processed_with_patients(processed, tmp_path / "from"), tmp_path / "npy")
    assert recognise_layout(tmp_path / "npy") == "npy"
    done = prepare_npy(tmp_path / "npy", tmp_path / "back", 64)
    assert np.array_equal(np.load(tmp_path / "back" / "images.npy"), np.load(processed / "images.npy"))
    before = pd.read_csv(processed / "labels.csv")
    assert np.allclose(done.labels.filter(like="heart_"), before.filter(like="heart_"), atol=1e-4)
    assert list(done.labels["split"]) == list(before["split"])


def processed_with_patients(processed, out):
    shutil.copytree(processed, out)
    names = pd.read_csv(out / "labels.csv")["name"]
    pd.DataFrame({"name": names, "patient": range(len(names))}).to_csv(out / "patients.csv", index=False)
    return out


class Trap:
    """Leaves a trace if anybody unpickles it."""

    trace = "unpickled"

    def __reduce__(self):
        return (os.mkdir, (self.trace,))


def pickled_array(path):
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)


def plain_pickle(path):
    path.write_bytes(pickle.dumps(Trap()))


def archive(path):
    with path.open("wb") as stream:
        np.savez(stream, image=np.zeros((40, 48)))


def cut_off(path):
    np.save(path, np.zeros((40, 48)))
    path.write_bytes(path.read_bytes()[:500])


def claims_too_much(path):
    with path.open("wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(stream, header)


def with_nan(path):
    image = np.zeros((40, 48), dtype=np.float32)
    image[3, 3] = np.nan
    np.save(path, image)


# How the file is spoilt; kind and key word of the problem.
BAD_IMAGES = {
    "pickled array": (pickled_array, "pickled", "can run code"),
    "plain pickle": (plain_pickle, "pickled", "can run code"),
    "archive": (archive, "unreadable", "npz"),
    "cut off": (cut_off, "unreadable", "damaged"),
    "claims too much": (claims_too_much, "unreadable", "damaged"),
    "empty file": (lambda path: path.write_bytes(b""), "unreadable", "damaged"),
    "text": (lambda path: path.write_text("not an image"), "unreadable", "not a .npy file"),
    "colour": (lambda path: np.save(path, np.zeros((40, 48, 3))), "pixels", "(40, 48, 3)"),
    "a vector": (lambda path: np.save(path, np.zeros(40)), "pixels", "(40,)"),
    "tiny": (lambda path: np.save(path, np.zeros((4, 4))), "pixels", "(4, 4)"),
    "not finite": (with_nan, "pixels", "NaN"),
    "normalised already": (lambda path: np.save(path, np.full((40, 48), -1.5)), "pixels", "[0, 1]"),
    "complex": (lambda path: np.save(path, np.zeros((40, 48), dtype=complex)), "pixels", "complex"),
    "one grey": (lambda path: np.save(path, np.zeros((40, 48))), "pixels", "grey"),
}


@pytest.mark.parametrize("fault", list(BAD_IMAGES))
def test_a_bad_image_is_named_and_left_out(tmp_path, monkeypatch, fault):
    spoil, kind, words = BAD_IMAGES[fault]
    monkeypatch.chdir(tmp_path)
    raw = write_npy_folder(tmp_path / "raw")
    spoil(raw / "images" / "film0.npy")
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert len(done.labels) == 7
    assert done.skipped[["name", "kind"]].to_numpy().tolist() == [["film0", kind]]
    assert words in done.skipped["reason"][0]
    assert "1 skipped" in done.summary()
    assert "film0" in done.summary()
    assert not (tmp_path / Trap.trace).exists()


def test_an_exception_nobody_expected_costs_one_image(tmp_path, monkeypatch):
    def resize(image, size):
        if image[0, 0] == marked:
            raise ZeroDivisionError("a bug")
        return resize_xray(image, size)

    raw, resize_xray = write_npy_folder(tmp_path / "raw"), data.resize_xray
    marked = read_npy(raw / "images" / "film3.npy")[0, 0]
    monkeypatch.setattr(data, "resize_xray", resize)
    done = prepare_npy(raw, tmp_path / "out", 32, log=tmp_path / "log.txt")
    assert len(done.labels) == 7
    assert done.skipped[["name", "kind"]].to_numpy().tolist() == [["film3", "error"]]
    assert done.skipped["reason"][0] == "ZeroDivisionError: a bug; see log.txt"
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_slightly_over_the_border_is_rounding(tmp_path):
    raw = write_npy_folder(tmp_path / "raw")
    change_first_row(raw, x_max=48.3)
    done = prepare_npy(raw, tmp_path / "out", 48)
    assert len(done.skipped) == 0
    assert done.labels["heart_x_max"][0] == 48


def test_the_raw_folder_is_not_written_to(tmp_path):
    raw = write_npy_folder(tmp_path / "raw")
    with pytest.raises(ValueError, match="where the raw files lie"):
        prepare_npy(raw, raw, 32)


def test_dtypes_and_axes(tmp_path):
    path = tmp_path / "image.npy"
    steps = np.repeat([[51], [102]], 20, axis=0) * np.ones((40, 48))
    for stored in (steps.astype(np.uint8)[None], steps[:, :, None] / 255, (steps / 255).astype(np.float16)):
        np.save(path, stored)
        image = read_npy(path)
        assert image.shape == (40, 48)
        assert image.dtype == np.float32
        assert np.allclose(image, steps / 255, atol=2e-4)


def test_real_x_rays_become_npy(tmp_path, real_data):
    prepare(real_data / "ctr", tmp_path / "prepared", limit=12, progress=False)
    labels = pd.read_csv(tmp_path / "prepared" / "labels.csv")
    done = prepare_npy(export_npy(tmp_path / "prepared", tmp_path / "npy"), tmp_path / "out", 112)
    used = labels[labels["split"] != "unused"].sort_values("name")
    assert len(done.skipped) == 0
    assert len(done.labels) == len(used)
    mine = done.labels.assign(name=done.labels["name"].str.split("-", n=1).str[1]).sort_values("name")
    assert np.allclose(mine.filter(like="heart_"), used.filter(like="heart_") / 2, atol=1e-3)
    assert list(mine["split"]) == list(used["split"])
