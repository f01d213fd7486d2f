"""Files that bend the encoding of DICOM: what is missing, what is cut off, what is deflated."""

import io

import numpy as np
import pydicom
import pytest
from films import RAMP, make
from helpers import encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from heartbox.xray import parse
from heartbox.xray.errors import XRayError
from heartbox.xray.reader import load_xray, read_xray


@pytest.mark.parametrize("implicit", [False, True])
def test_no_preamble_and_no_meta(tmp_path, implicit):
    ds = make(RAMP)
    del ds.file_meta
    path = tmp_path / "film"
    ds.save_as(path, implicit_vr=implicit, little_endian=True)
    film = load_xray(path)
    np.testing.assert_allclose(film.image, RAMP / 4095, atol=1e-6)
    kind = "Implicit" if implicit else "Explicit"
    assert film.notes == (f"The file names no transfer syntax; {kind} VR Little Endian was taken.",)


def test_deflate_bomb_is_refused(load, monkeypatch):
    monkeypatch.setattr(parse, "MAX_INFLATED_BYTES", 1_000_000)
    ds = make(np.zeros((1500, 1500), np.uint16))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(XRayError, match="film.dcm: the deflated file unpacks to more than"):
        load(ds)


def test_dicom_without_pixels(load):
    ds = make(RAMP)
    del ds.PixelData
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    with pytest.raises(XRayError, match=r"holds no pixels \(Basic Text SR Storage\)"):
        load(ds)


def test_a_preamble_that_looks_like_a_tiff(load, tmp_path):
    """Dual-personality files (PS3.10 7.1) carry a TIFF header before DICM."""
    path = tmp_path / "dual.dcm"
    make(RAMP).save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    path.write_bytes(b"II*\0" + bytes(124) + data[128:])
    np.testing.assert_array_equal(read_xray(path), load(make(RAMP)).image)


def test_every_prefix_of_a_film_is_refused(tmp_path):
    """Cutting a file anywhere gives an XRayError and nothing else."""
    path = tmp_path / "film.dcm"
    make(RAMP).save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(XRayError):
            load_xray(path)


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_damaged_headers_give_an_image_or_an_error(tmp_path_factory, damage):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged.dcm"
    make(RAMP, WindowCenter=2048, WindowWidth=1000, PixelSpacing=[0.1, 0.1]).save_as(path, enforce_file_format=True)
    data = bytearray(path.read_bytes())
    for at, value in damage:
        data[132 + at % (len(data) - 132)] = value
    path.write_bytes(data)
    try:
        image = load_xray(path).image
    except XRayError:
        return
    assert image.dtype == np.float32 and image.ndim == 2
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1


@pytest.mark.parametrize("true", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(
    "said", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_a_transfer_syntax_that_is_not_true(tmp_path, phantom_pixels, true, said):
    """The first element tells the byte order, and whether anything was deflated."""
    good = tmp_path / "good.dcm"
    good.write_bytes(encoded(phantom_pixels, true)[0])
    ds = pydicom.dcmread(good)
    dataset = good.read_bytes()[132 + 12 + ds.file_meta.FileMetaInformationGroupLength :]
    ds.file_meta.TransferSyntaxUID = said
    stream = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(stream, ds.file_meta)
    (tmp_path / "film.dcm").write_bytes(bytes(128) + b"DICM" + stream.getvalue() + dataset)
    if said == DeflatedExplicitVRLittleEndian and true == ImplicitVRLittleEndian:
        with pytest.raises(XRayError, match="film.dcm: "):
            load_xray(tmp_path / "film.dcm")
        return
    film = load_xray(tmp_path / "film.dcm")
    np.testing.assert_array_equal(film.image, load_xray(good).image)
    big = ExplicitVRBigEndian
    contradicts = said == DeflatedExplicitVRLittleEndian or (true == big) != (said == big)
    assert any("and is not" in note for note in film.notes) == contradicts


@pytest.mark.parametrize(
    ("keyword", "vr", "said"),
    [
        ("FloatPixelData", "OF", "floating-point numbers"),
        ("DoubleFloatPixelData", "OD", "floating-point numbers"),
        ("PixelDataProviderURL", "UR", "lie on a server"),
    ],
)
def test_pixels_that_are_elsewhere_are_named(load, phantom_pixels, keyword, vr, said):
    ds = make(phantom_pixels)
    del ds.PixelData
    ds.add_new(pydicom.datadict.tag_for_keyword(keyword), vr, "http://a/b" if vr == "UR" else bytes(800))
    with pytest.raises(XRayError, match=said):
        load(ds)
