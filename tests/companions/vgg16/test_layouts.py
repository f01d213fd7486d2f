"""A folder of .npy images and boxes: its csv in every form, and with every fault."""

import functools
import shutil

import pandas as pd
import pytest
from helpers import change_first_row, write_npy_folder

from companions.vgg16.data import prepare_npy
from companions.vgg16.layouts import EXPECTED, list_images, recognise_layout
from companions.vgg16.sample import write_sample
from heartbox.data.layouts import find_source
from heartbox.data.tables import TableError

ROW, NO_LABEL = ("row 2 of boxes.csv", "label"), ("film0", "no label")
# What the first row of the csv is changed to; name and kind of each problem, and key words of the first.
BAD_LABELS = {
    "no image": ({"name": "film99"}, [("film99", "no image"), NO_LABEL], "row 2 of boxes.csv"),
    "outside": ({"x_max": 60}, [("film0", "box")], "48 x 40 px"),
    "inverted": ({"x_min": 30}, [("film0", "box")], "x_min 30"),
    "flat": ({"y_min": 32}, [("film0", "box")], "empty"),
    "empty": ({"x_min": ""}, [("film0", "box")], "missing"),
    "words": ({"x_min": "left"}, [("film0", "box")], "'left'"),
    "infinite": ({"x_max": "inf"}, [("film0", "box")], "not finite"),
    "beyond every image": ({"x_max": "1e308"}, [("film0", "box")], "larger than any image"),
    "fractions": ({"x_min": 0.1, "y_min": 0.1, "x_max": 0.4, "y_max": 0.5}, [("film0", "box")], "fractions"),
    "corner and size": ({"x0": 1, "y0": 2, "w": 9, "h": 9}, [("film0", "contradiction")], "size"),
    "without a name": ({"name": ""}, [ROW, NO_LABEL], "names no image"),
    "of another organ": ({"label": "lung"}, [("film0", "label")], "'lung'"),
    "a frame without size": ({"img_shape_x": 0, "img_shape_y": 40}, [("film0", "frame")], "0 x 40"),
}


@pytest.mark.parametrize("fault", list(BAD_LABELS))
def test_a_bad_label_is_named_and_left_out(tmp_path, fault):
    columns, problems, words = BAD_LABELS[fault]
    raw = write_npy_folder(tmp_path / "raw")
    if "img_shape_x" in columns:  # the other rows have a good frame
        pd.read_csv(raw / "boxes.csv").assign(img_shape_x=48, img_shape_y=40).to_csv(raw / "boxes.csv", index=False)
    change_first_row(raw, **columns)
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert len(done.labels) == 7
    assert list(done.skipped[["name", "kind"]].itertuples(index=False, name=None)) == problems
    assert words in done.skipped["reason"][0]


@pytest.mark.parametrize("same", [True, False])
def test_two_rows_for_one_image(tmp_path, same):
    raw = write_npy_folder(tmp_path / "raw")
    table = pd.read_csv(raw / "boxes.csv")
    second = table.iloc[[1]].assign(x_max=table["x_max"][1] + (0 if same else 2))
    pd.concat([table, second]).to_csv(raw / "boxes.csv", index=False)
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert len(done.labels) == 7 + same  # nobody can tell which of two different boxes is right
    kind = "duplicate" if same else "contradiction"
    assert done.skipped[["name", "kind"]].to_numpy().tolist() == [["film1", kind]]


def test_files_that_are_not_images(tmp_path):
    raw = write_npy_folder(tmp_path / "raw")
    (raw / "images" / "folder.npy").mkdir()
    (raw / "images" / "._film1.npy").write_bytes(b"written by macOS")
    (raw / "images" / "film0.npy").unlink()
    (raw / "images" / "film0.npy").symlink_to(tmp_path / "nowhere.npy")
    images, problems = list_images(raw)
    assert [image.name for image in images] == [f"film{i}" for i in range(1, 8)]
    assert [(problem.name, problem.kind) for problem in problems] == [("film0", "no image")]


def test_two_images_of_one_name(tmp_path):
    raw = write_npy_folder(tmp_path / "raw")
    (raw / "more").mkdir()
    shutil.copy(raw / "images" / "film1.npy", raw / "more" / "film0.npy")
    _, problems = list_images(raw)
    assert [(problem.name, problem.kind) for problem in problems] == [("film0", "duplicate")]
    assert "images/film0.npy, more/film0.npy" in problems[0].reason


def test_a_csv_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="csv of boxes.*x_min"):
        list_images(tmp_path)
    raw = write_npy_folder(tmp_path / "raw")
    text = (raw / "boxes.csv").read_text()
    (raw / "boxes.csv").write_text(text.replace(",", ";"))
    with pytest.raises(FileNotFoundError, match="boxes.csv begins with 'name;x_min.*commas"):
        list_images(raw)
    assert recognise_layout(raw) == "npy"  # so that the reader says what is wrong
    (raw / "boxes.csv").write_text(text + "film9,1,2,3,4,5,6,7,8,9\n")
    with pytest.raises(TableError, match=r"boxes\.csv"):
        list_images(raw)
    (raw / "boxes.csv").write_text(text.upper().replace("FILM", "film"))
    assert len(list_images(raw)[0]) == 8
    (raw / "boxes.csv").write_text(text)
    shutil.copy(raw / "boxes.csv", raw / "old.csv")
    with pytest.raises(ValueError, match=r"boxes\.csv, old\.csv"):
        list_images(raw)


def test_a_folder_without_usable_images(tmp_path):
    raw = write_npy_folder(tmp_path / "raw")
    shutil.rmtree(raw / "images")
    with pytest.raises(FileNotFoundError, match=r"\.npy"):
        list_images(raw)
    (raw / "film0.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="the first reason"):
        prepare_npy(raw, tmp_path / "out", 32)


def test_where_the_data_is(tmp_path, monkeypatch):
    arguments = recognise_layout, EXPECTED, tmp_path / "vgg16", functools.partial(write_sample, count=3, size=64)
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    source = find_source(*arguments)
    assert (source.folder, source.is_synthetic) == (tmp_path / "vgg16-sample", True)
    sample = source.folder
    write_npy_folder(tmp_path / "vgg16")
    source = find_source(*arguments)
    assert (source.folder, source.layout, source.is_synthetic) == (tmp_path / "vgg16", "npy", False)
    monkeypatch.setenv("CARDIAC_DATA", str(sample))
    assert find_source(*arguments).folder == sample
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"nowhere.*\.npy"):
        find_source(*arguments)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="columns.*stage_2_train_images"):
        find_source(*arguments)
