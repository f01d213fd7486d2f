"""Raw folders: which layout lies in one, where data is looked for, and which labels and images are listed."""

import shutil
from pathlib import Path

import cv2
import pandas as pd
import pytest
from raw_folders import write_ctr, write_rsna

from heartbox.data.layouts import RSNA_CSV, find_data, find_source, list_xrays, recognise_layout
from heartbox.phantom import write_phantoms


def test_layouts_are_recognised(tmp_path):
    assert recognise_layout(tmp_path) is None
    write_rsna(tmp_path / "rsna", 2)
    write_ctr(tmp_path / "ctr", 2)
    write_phantoms(tmp_path / "phantom", count=2, size=128, progress=False)
    assert [recognise_layout(tmp_path / kind) for kind in ("rsna", "ctr", "phantom")] == ["rsna", "ctr", "phantom"]


def test_real_films_with_chest_boxes_are_no_phantoms(tmp_path):
    write_rsna(tmp_path, 2)
    table = pd.read_csv(tmp_path / RSNA_CSV).assign(thorax_x0=1.0, thorax_y0=2.0, thorax_w=90.0, thorax_h=80.0)
    table.to_csv(tmp_path / RSNA_CSV, index=False)
    assert recognise_layout(tmp_path) == "rsna"
    films, _ = list_xrays(tmp_path)
    assert [film.thorax for film in films] == [(1, 2, 91, 82)] * 2


def test_without_data_phantoms_are_made(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    source = find_data(count=2)
    assert (source.folder, source.layout, source.is_synthetic) == (Path("data/phantom"), "phantom", True)
    assert "2 synthetic" in source.message
    assert recognise_layout(source.folder) == "phantom"


def test_real_data_goes_before_phantoms(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write_phantoms("data/a-phantom", count=1, size=128, progress=False)
    write_ctr(Path("data/ctr"), 2)
    source = find_data(count=1)
    assert (source.folder, source.layout, source.is_synthetic) == (Path("data/ctr"), "ctr", False)


def test_a_wrong_path_is_no_reason_for_phantoms(tmp_path, monkeypatch):
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_data()
    (tmp_path / "file").touch()
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match="is a file, not a folder"):
        find_data()
    (tmp_path / "file").unlink()
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="none of the"):
        find_data()
    with pytest.raises(FileNotFoundError, match="none of the"):
        list_xrays(tmp_path)


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ("rsna_heart_detection.csv", "stage_2_train_images/"),
        ("stage_2_train_images/", "rsna_heart_detection.csv"),
        ("jsrt/mask/", "jsrt/png/"),
    ],
)
def test_half_of_a_data_set_is_no_reason_for_phantoms_either(tmp_path, monkeypatch, there, missing):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    folder = tmp_path / "data" / "heart"
    if there.endswith("/"):
        (folder / there).mkdir(parents=True)
    else:
        folder.mkdir(parents=True)
        (folder / there).touch()
    said = f"{there} is there, {missing} is not"
    with pytest.raises(FileNotFoundError, match=f"data/heart holds half of a data set: {said}"):
        find_data(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=said):
        list_xrays(folder)
    monkeypatch.setenv("CARDIAC_DATA", str(folder))
    with pytest.raises(FileNotFoundError, match=said):
        find_data(tmp_path / "data")


def test_phantoms_that_were_not_finished_are_made_again(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    (tmp_path / "data" / "phantom" / "stage_2_train_images").mkdir(parents=True)
    assert find_data(tmp_path / "data", count=2).is_synthetic


def test_the_message_names_no_folder_of_the_machine(tmp_path, monkeypatch):
    write_ctr(tmp_path, 2)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    assert str(tmp_path) not in find_data().message


def test_a_csv_without_its_columns(tmp_path):
    write_rsna(tmp_path, 2).drop(columns="w").to_csv(tmp_path / "rsna_heart_detection.csv", index=False)
    with pytest.raises(ValueError, match="column w is missing"):
        list_xrays(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b"label;x0;y0;w;h\nheart;1;2;3;4\n"])
def test_a_csv_that_is_none_is_named(tmp_path, content):
    write_rsna(tmp_path, 2)
    (tmp_path / "rsna_heart_detection.csv").write_bytes(content)
    with pytest.raises(ValueError, match="rsna_heart_detection.csv: .*(csv|commas)"):
        list_xrays(tmp_path)


def test_the_real_csv_without_its_images(real_data, tmp_path):
    (tmp_path / "stage_2_train_images").mkdir()
    shutil.copy(real_data / "rsna" / "rsna_heart_detection.csv", tmp_path)
    with pytest.raises(ValueError, match="no labelled X-ray can be used.*there is no stage_2_train_images/"):
        list_xrays(tmp_path)


def test_films_that_are_left_out_contradict_themselves(real_data):
    """Films left out for masks that overlap have a lung over a good part of the heart, and no other film has."""
    films, _ = list_xrays(real_data / "ctr")
    overlaps = {}
    for film in films:
        heart, *lungs = (cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) > 127 for mask in film.masks)
        overlaps[film.name] = (heart & (lungs[0] | lungs[1])).sum() / heart.sum(), film.excluded
    assert all((share > 0.15) == ("lung's mask" in reason) for share, reason in overlaps.values())
    by_picture = [name for name, (share, reason) in overlaps.items() if reason and share <= 0.15]
    assert len(by_picture) == 3  # masks that only the picture contradicts
    assert sum(bool(reason) for _, reason in overlaps.values()) == 15


# ---------------------------------------------------------------- for the companions


def recognise(folder: Path) -> str | None:
    return next((layout for layout in ("real", "made") if (folder / layout).is_file()), None)


def find(folder: Path, made: list | None = None):
    def make_sample(sample: Path) -> None:
        sample.mkdir(exist_ok=True)
        (sample / "made").touch()
        if made is not None:
            made.append(sample)

    return find_source(recognise, "a file real", folder, make_sample, what="3 synthetic films", synthetic=("made",))


def test_without_data_the_sample_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    made = []
    source = find(tmp_path / "topic", made)
    assert (source.folder, source.layout, source.is_synthetic) == (tmp_path / "topic-sample", "made", True)
    assert made == [tmp_path / "topic-sample"]
    assert "3 synthetic films" in source.message
    assert str(tmp_path) not in source.message


def test_data_in_its_place_and_data_that_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    for name, layout in (("topic", "real"), ("elsewhere", "real"), ("sample", "made")):
        (tmp_path / name).mkdir()
        (tmp_path / name / layout).touch()
    source = find(tmp_path / "topic")
    assert (source.folder, source.layout, source.is_synthetic) == (tmp_path / "topic", "real", False)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "elsewhere"))
    assert find(tmp_path / "topic").folder == tmp_path / "elsewhere"
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "sample"))
    assert find(tmp_path / "topic").is_synthetic


def test_something_else_is_never_silently_replaced_by_a_sample(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    (tmp_path / "topic" / "too deep").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="topic holds none of the layouts.*a file real.*move it away"):
        find(tmp_path / "topic")
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist.*a file real.*unset CARDIAC_DATA"):
        find(tmp_path / "topic")
