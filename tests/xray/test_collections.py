"""The public collections that docs/data.md lists: a phantom in the form of each is read as the film that it is."""

import cv2
import imagecodecs
import numpy as np
import pytest
from films import compressed, make
from helpers import ROOT
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from heartbox.xray import find_xrays, load_xray


@pytest.fixture(scope="module")
def eight(phantom_pixels):
    return (phantom_pixels >> 4).astype(np.uint8)


def read_from(folder, name: str):
    """Read a film as it is found in its folder, so that its ending counts too."""
    (source,) = find_xrays([folder])
    assert source.path.name == name.rpartition("/")[2]
    return load_xray(source.path)


def test_rsna(tmp_path, eight):
    ds = compressed(eight, imagecodecs.jpeg_encode(eight, level=95), JPEGBaseline8Bit, bits=8, ViewPosition="AP")
    ds.PixelSpacing = [0.143, 0.143]
    ds.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    film = read_from(tmp_path, "film.dcm")
    low, high = float(eight.min()), float(eight.max())
    np.testing.assert_allclose(film.image, (eight - low) / (high - low), atol=0.05)
    assert (film.view, film.pixel_spacing, film.notes) == ("AP", (0.143, 0.143), ())


@pytest.mark.parametrize("mode", ["L", "RGBA", "RGB"])
def test_nih_and_shenzhen(tmp_path, eight, mode):
    Image.fromarray(eight).convert(mode).save(tmp_path / "00000001_000.png")
    film = read_from(tmp_path, "00000001_000.png")
    np.testing.assert_allclose(film.image, eight / 255, atol=1e-6)
    assert film.notes == () and film.view == ""


def test_padchest(tmp_path, phantom_pixels):
    pixels = phantom_pixels.copy()
    pixels[3:6, 3:6] = 65535
    (tmp_path / "1_2-3.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    film = read_from(tmp_path, "1_2-3.png")
    np.testing.assert_allclose(film.image[7:], phantom_pixels[7:] / 4095, atol=1e-6)
    assert any("12 bits" in note for note in film.notes)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_vindr(tmp_path, phantom_pixels, is_compressed):
    stored = 4095 - phantom_pixels
    ds = make(stored, photometric="MONOCHROME1")
    if is_compressed:
        frame = imagecodecs.jpeg2k_encode(stored, level=0, codecformat="j2k", bitspersample=12)
        ds = compressed(stored, frame, JPEG2000Lossless, PhotometricInterpretation="MONOCHROME1")
    ds.save_as(tmp_path / "0a1b.dicom", enforce_file_format=True)
    film = read_from(tmp_path, "0a1b.dicom")
    np.testing.assert_allclose(film.image, phantom_pixels / 4095, atol=1e-6)


def test_chexpert_and_mimic_as_jpeg(tmp_path, eight):
    folder = tmp_path / "patient00001" / "study1"
    folder.mkdir(parents=True)
    Image.fromarray(eight).save(folder / "view1_frontal.jpg", quality=95)
    film = read_from(tmp_path, "view1_frontal.jpg")
    np.testing.assert_allclose(film.image, eight / 255, atol=0.05)


def test_mimic(tmp_path, phantom_pixels):
    folder = tmp_path / "p10" / "p10000032" / "s50414267"
    folder.mkdir(parents=True)
    ds = make(phantom_pixels, ViewPosition="LATERAL", WindowCenter=2048, WindowWidth=4096)
    ds.save_as(folder / "02aa804e.dcm", enforce_file_format=True)
    film = read_from(tmp_path, "02aa804e.dcm")
    np.testing.assert_allclose(film.image, phantom_pixels / 4095, atol=1e-3)
    assert film.view == "LATERAL"


def test_montgomery_size(tmp_path, eight):
    large = cv2.resize(eight, (4892, 4020))
    Image.fromarray(large).save(tmp_path / "MCUCXR_0001_0.png", compress_level=1)
    assert read_from(tmp_path, "MCUCXR_0001_0.png").image.shape == (4020, 4892)


def test_jsrt(tmp_path, phantom_pixels):
    bone_bright = cv2.resize(phantom_pixels, (2048, 2048))
    (tmp_path / "JPCNN001.IMG").write_bytes((4095 - bone_bright).astype(">u2").tobytes())
    film = read_from(tmp_path, "JPCNN001.IMG")
    np.testing.assert_allclose(film.image, bone_bright / 4095, atol=1e-6)


def test_the_page_lists_each():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Public collections")[2]
    for name in ("RSNA", "NIH", "PadChest", "VinDr", "CheXpert", "MIMIC", "Montgomery", "Shenzhen", "JSRT"):
        assert f"| {name}" in page, name
