"""Any file: an image, or one sentence that names the file and the fault."""

import errno
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from films import make
from PIL import Image

from heartbox.xray.errors import XRayError, printable
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import as_xray, is_xray_file, load_xray, read_xray


def bad_files(folder: Path) -> dict[str, Path]:
    good = folder / "good.dcm"
    make(np.arange(4000, dtype=np.uint16).reshape(50, 80)).save_as(good, enforce_file_format=True)
    data = good.read_bytes()
    files = {
        "empty": b"",
        "text": b"dear doctor, please find enclosed " * 20,
        "preamble only": b"\0" * 128 + b"DICM",
        "noise after DICM": b"\0" * 128 + b"DICM" + np.random.default_rng(0).bytes(3000),
        "noise that looks bare": b"\x08\0" + np.random.default_rng(1).bytes(3000),
        "half": data[: len(data) // 2],
        "header cut": data[:300],
        "png cut": cv2.imencode(".png", np.random.default_rng(2).integers(0, 255, (90, 90), np.uint8))[1].tobytes()[
            :4000
        ],
        "jpeg cut": cv2.imencode(".jpg", np.random.default_rng(3).integers(0, 255, (90, 90), np.uint8))[1].tobytes()[
            :3000
        ],
        "tiff magic": b"II*\0" + b"\xff" * 40,
    }
    paths = {}
    for name, content in files.items():
        paths[name] = folder / f"{name}.dcm"
        paths[name].write_bytes(content)
    return paths


BAD = ["empty", "text", "preamble only", "noise after DICM", "noise that looks bare", "half", "header cut"]


@pytest.mark.parametrize("name", [*BAD, "png cut", "jpeg cut", "tiff magic"])
def test_bad_files_are_refused_with_their_name(tmp_path, name):
    path = bad_files(tmp_path)[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(XRayError) as caught:
            load_xray(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.count(".") >= 2 and "\n" not in message


def test_cut_off_pixels_are_counted(tmp_path):
    with pytest.raises(XRayError, match=r"cut off \(\d+ of 8000 bytes\)"):
        load_xray(bad_files(tmp_path)["half"])


def test_no_file_at_all(tmp_path):
    for path, words in ((tmp_path / "gone.dcm", "no such file"), (tmp_path, "folder"), ("a\0b", "cannot be opened")):
        with pytest.raises(XRayError, match=words):
            load_xray(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    with pytest.raises(XRayError, match="not a regular file"):
        load_xray(tmp_path / "pipe.dcm")
    assert is_xray_file(tmp_path / "pipe.dcm")  # its error is worth showing
    os.mkfifo(tmp_path / "pipe")
    assert not is_xray_file(tmp_path / "pipe")  # and it is not opened to look


def test_contents_decide_not_the_ending(tmp_path):
    path = tmp_path / "wrong.dcm"
    path.write_bytes(cv2.imencode(".png", np.array([[0, 51, 255]], np.uint8))[1].tobytes())
    np.testing.assert_allclose(read_xray(path), [[0, 0.2, 1]], atol=1e-6)


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cv2.imwrite(str(tmp_path / "film.png"), np.arange(81, dtype=np.uint8).reshape(9, 9))
    assert read_xray("~/film.png").shape == (9, 9)


def test_is_xray_file(tmp_path):
    for name in ("a.dcm", "b.DICOM", "c.Png", "d.jpg", "e.JPEG", "f.tif", "g.tiff"):
        (tmp_path / name).write_bytes(b"")
        assert is_xray_file(tmp_path / name), name
    (tmp_path / "bare").write_bytes(b"\0" * 128 + b"DICM")
    assert is_xray_file(tmp_path / "bare") and is_xray_file(str(tmp_path / "bare"))
    for name in ("notes.txt", "._a.dcm", "labels.csv", "short"):
        (tmp_path / name).write_bytes(b"DICM")
        assert not is_xray_file(tmp_path / name), name
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "DICOMDIR", tmp_path / "folder.png", tmp_path / "gone.png", "a\0.png", None):
        assert not is_xray_file(path)


@pytest.fixture
def real() -> Path:
    folder = os.environ.get("CARDIAC_TEST_DATA")
    if not folder:
        pytest.skip("set CARDIAC_TEST_DATA to the folder that holds dicom/, ctr/ and nih/ to read real films")
    return Path(folder)


def bone_bright(image) -> bool:
    """In a chest film with bone bright, the spine (middle) is brighter than the lungs beside it."""
    small = resize_xray(image, 100)[30:55]
    middle, sides = small[:, 44:56].mean(), (small[:, 24:36].mean() + small[:, 64:76].mean()) / 2
    return middle > sides


def test_real_dicom_files_are_bone_bright(real):
    paths = sorted((real / "dicom").glob("*.dcm"))
    assert len(paths) == 16
    for path in paths:
        film = load_xray(path)
        assert film.image.dtype == np.float32 and film.image.ndim == 2, path.name
        assert 0 <= film.image.min() < 0.15 and 0.9 < film.image.max() <= 1, path.name
        assert film.image.std() > 0.1, path.name
        if "dog" not in path.name:
            # One file says MONOCHROME1 of pixels that are not; its header alone cannot be seen through.
            assert bone_bright(film.image) == ("relabelled" not in path.name), path.name


def test_what_real_headers_say(real):
    films = {path.name: load_xray(path) for path in (real / "dicom").glob("*.dcm")}
    jpeg2000 = films["RG1-J2K-MONOCHROME1-15bit.dcm"]
    assert jpeg2000.image.shape == (1955, 1841) and jpeg2000.bits_stored == 15
    assert jpeg2000.pixel_spacing is None  # the file says 0.000
    assert "no transfer syntax" in films["CR-MONOCHROME1-10bit-no-file-meta.dcm"].notes[0]
    dog = films["not-a-human-dog.dcm"]
    stored = pydicom.dcmread(dog.path).pixel_array
    np.testing.assert_allclose(dog.image, 1 - stored / 255, atol=1e-6)  # window 128 / 256 is the identity
    assert films["00322d4d-1c29-4943-afc9-b6754be640eb.dcm"].view == "AP"
    plain, relabelled = films["rsna-16d7f894.dcm"], films["rsna-16d7f894-relabelled-MONOCHROME1.dcm"]
    np.testing.assert_allclose(relabelled.image, 1 - plain.image, atol=1e-6)


def test_real_pictures(real):
    paths = [*sorted(real.glob("ctr/*/png/*.png"))[::80], *sorted(real.glob("nih/images/*.jpg"))[::160]]
    assert len(paths) >= 10
    for path in paths:
        film = load_xray(path)
        assert film.image.shape == (512, 512) and film.bits_stored == 8
        assert film.image.std() > 0.03 and film.image.max() > 0.5, path.name
        assert bone_bright(film.image), path.name


@pytest.mark.parametrize(("value", "grey"), [(0, "black"), (77, "black"), (4095, "black")])
def test_an_empty_dicom_image_is_refused(load, value, grey):
    """Whatever its single value: without a window, the range of one value is nothing."""
    with pytest.raises(XRayError, match=rf"film.dcm: the image is one even grey \({grey}\)"):
        load(make(np.full((50, 60), value, np.uint16)))


@pytest.mark.parametrize(("value", "grey"), [(0, "black"), (128, "50% of white"), (255, "white")])
def test_empty_pictures_and_arrays_are_refused(tmp_path, value, grey):
    pixels = np.full((50, 60), value, np.uint8)
    pixels[0, 0] ^= 0xFF  # a few pixels of another grey show nothing either
    Image.fromarray(pixels).save(tmp_path / "empty.png")
    with pytest.raises(XRayError, match=rf"empty.png: the image is one even grey \({grey}\)"):
        load_xray(tmp_path / "empty.png")
    with pytest.raises(XRayError, match=rf"array: the image is one even grey \({grey}\)"):
        as_xray(pixels)


def test_an_empty_image_in_monochrome1_and_through_a_window(load):
    with pytest.raises(XRayError, match="one even grey .white"):
        load(make(np.full((50, 60), 5, np.uint16), photometric="MONOCHROME1", WindowCenter=2048, WindowWidth=100))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\x0ab"),
        ("a\udce9", r"a\xe9"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("gnp.\u202emcd", r"gnp.\u202emcd"),  # would be shown as gnp.dcm
        ("Ünïcödé 胸部 😀", "Ünïcödé 胸部 😀"),
    ],
)
def test_names_are_shown_in_one_line_and_in_their_order(name, shown):
    assert printable(name) == shown
    assert str(XRayError(name)) == shown


def test_a_path_stands_once_in_an_error(tmp_path):
    (tmp_path / "loop.dcm").symlink_to("loop.dcm")
    with pytest.raises(XRayError) as caught:
        load_xray(tmp_path / "loop.dcm")
    why = os.strerror(errno.ELOOP)
    assert str(caught.value) == f"{tmp_path / 'loop.dcm'}: this path cannot be opened ({why}). Check it."
