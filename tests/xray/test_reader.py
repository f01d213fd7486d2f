"""Reading X-rays: every expected number here is worked by hand from the DICOM standard or the file's making."""

import os
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from heartbox.xray import decode, dicom, lut, picture
from heartbox.xray.errors import XRayError
from heartbox.xray.image import XRay, resize_xray
from heartbox.xray.reader import is_xray_file, load_xray, read_xray

RAMP = np.array([[0, 1000, 1548, 2048], [2548, 3000, 4000, 4095]], dtype=np.uint16)  # 12 bit


def make(pixels, bits=12, photometric="MONOCHROME2", **elements) -> Dataset:
    """Make a minimal computed-radiography dataset around an integer array."""
    pixels = np.asarray(pixels)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.Modality = "CR"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = photometric
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


@pytest.fixture
def load(tmp_path):
    """Write a dataset and load it again."""

    def write_and_load(ds, name="film.dcm", **options) -> XRay:
        path = tmp_path / name
        ds.save_as(path, **{"enforce_file_format": True, **options})
        return load_xray(path)

    return write_and_load


def table(entries, first=0, bits=16, packed=False) -> Dataset:
    """Make a LUT sequence item."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = np.asarray(entries, dtype="u1" if packed else "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


# ----------------------------------------------------------------------------------- window and polarity


def test_window_maps_onto_zero_to_one(load):
    film = load(make(RAMP, WindowCenter=2048, WindowWidth=1000))
    # LINEAR: ((x - 2047.5) / 999 + 0.5), clipped (PS3.3 C.11.2.1.2).
    expected = [[0, 0, 0, 0.5 / 999 + 0.5], [1, 1, 1, 1]]
    np.testing.assert_allclose(film.image, expected, atol=1e-6)
    assert film.image.dtype == np.float32
    assert film.notes == ()
    assert (film.photometric, film.bits_stored) == ("MONOCHROME2", 12)
    assert film.transfer_syntax == "Explicit VR Little Endian"


def test_monochrome1_is_inverted_once(load):
    bright = load(make(RAMP, WindowCenter=2048, WindowWidth=1000)).image
    dark = load(make(RAMP, photometric="MONOCHROME1", WindowCenter=2048, WindowWidth=1000))
    np.testing.assert_allclose(dark.image, 1 - bright, atol=1e-6)
    assert dark.photometric == "MONOCHROME1"


def test_presentation_inverse_is_the_same_inversion(load):
    options = {"photometric": "MONOCHROME1", "WindowCenter": 2048, "WindowWidth": 1000}
    plain = load(make(RAMP, **options))
    inverse = load(make(RAMP, PresentationLUTShape="INVERSE", **options))
    np.testing.assert_array_equal(inverse.image, plain.image)
    assert inverse.image[0, 0] == 1 and inverse.notes == ()


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")])
def test_contradicting_presentation_shape_is_noted(load, photometric, shape):
    film = load(make(RAMP, photometric=photometric, PresentationLUTShape=shape))
    assert film.image[0, 0] == (photometric == "MONOCHROME1")
    assert any(f"{photometric} was followed" in note for note in film.notes)


def test_linear_exact_and_sigmoid(load):
    window = {"WindowCenter": 2048, "WindowWidth": 1000}
    exact = load(make(RAMP, VOILUTFunction="LINEAR_EXACT", **window)).image
    np.testing.assert_allclose(exact, [[0, 0, 0, 0.5], [1, 1, 1, 1]], atol=1e-6)
    sigmoid = load(make(RAMP, VOILUTFunction="SIGMOID", **window)).image
    assert sigmoid[0, 3] == pytest.approx(0.5)
    assert sigmoid[1, 0] == pytest.approx(1 / (1 + np.exp(-4 * 500 / 1000)))
    assert sigmoid[0, 2] == pytest.approx(1 / (1 + np.exp(4 * 500 / 1000)))


@given(
    centre=st.floats(-3000, 5000),
    width=st.floats(1, 6000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    slope=st.sampled_from([1.0, 0.5, 3.0]),
    intercept=st.sampled_from([0.0, -1024.0]),
    signed=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_window_agrees_with_pydicom(centre, width, function, slope, intercept, signed):
    """The window here maps straight to [0, 1]; pydicom maps to the rescaled range of the bits stored."""
    ds = make(RAMP.astype(np.int16 if signed else np.uint16), bits=16 if signed else 12)
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = centre, width, function
    ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    low, high = (-32768, 32767) if signed else (0, 4095)
    values = RAMP * slope + intercept
    with np.errstate(over="ignore"):  # pydicom's sigmoid overflows far from its centre
        theirs = (apply_windowing(values, ds) - (low * slope + intercept)) / ((high - low) * slope)
    np.testing.assert_allclose(lut.window(values, centre, width, function), theirs, atol=1e-6)


def test_window_of_width_one_is_a_threshold():
    values = np.array([[9.0, 10.0, 11.0]])
    np.testing.assert_array_equal(lut.window(values, 10, 1, "LINEAR"), [[0, 1, 1]])


def test_first_of_several_windows(load):
    film = load(make(RAMP, WindowCenter=[2048, 100], WindowWidth=[1000, 10]))
    assert film.image[0, 3] == pytest.approx(0.5, abs=1e-3)
    assert film.notes == ("The first of 2 windows in the file was used.",)


@pytest.mark.parametrize(("centre", "width"), [(50_000, 100), (-500, 10), (1000, 20), (32_768, 65_536)])
def test_window_that_does_not_fit(load, centre, width):
    pixels = np.arange(2000, dtype=np.uint16).reshape(40, 50)
    film = load(make(pixels, WindowCenter=centre, WindowWidth=width))
    low, high = np.percentile(pixels, (0.5, 99.5))
    np.testing.assert_allclose(film.image, np.clip((pixels - low) / (high - low), 0, 1), atol=1e-6)
    assert film.notes == ("The window in the file does not fit its pixels; percentiles were used instead.",)


@pytest.mark.parametrize("width", [0, 0.5, -20])
def test_forbidden_window_width(load, width):
    film = load(make(RAMP, WindowCenter=2048, WindowWidth=width))
    np.testing.assert_allclose(film.image, RAMP / 4095, atol=1e-6)
    assert "not allowed" in film.notes[0]


def test_garbled_numbers_are_left_out(tmp_path):
    path = tmp_path / "film.dcm"
    make(RAMP, WindowCenter="7531", WindowWidth="7531").save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"7531", b"abcd"))
    film = load_xray(path)
    np.testing.assert_allclose(film.image, RAMP / 4095, atol=1e-6)
    assert film.notes == ()


# ------------------------------------------------------------------------------- no window, depth, sign


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
def test_full_range_without_window(load, bits):
    top = 2**bits - 1
    pixels = np.linspace(top // 5, top, 600).round().reshape(20, 30).astype(np.uint8 if bits == 8 else np.uint16)
    film = load(make(pixels, bits=bits))
    lowest = int(pixels.min())
    np.testing.assert_allclose(film.image, (pixels.astype(float) - lowest) / (top - lowest), atol=1e-6)
    assert film.bits_stored == bits and film.notes == ()


def test_signed_pixels(load):
    pixels = np.array([[-1000, 0], [500, 1000]], dtype=np.int16)
    np.testing.assert_allclose(load(make(pixels)).image, [[0, 0.5], [0.75, 1]], atol=1e-6)
    film = load(make(pixels, WindowCenter=0.5, WindowWidth=1001))
    np.testing.assert_allclose(film.image, [[0, 0.5], [1, 1]], atol=1e-6)


def test_dead_pixels_do_not_set_the_range(load):
    pixels = np.linspace(1000, 2000, 10_000).astype(np.uint16).reshape(100, 100)
    pixels[3, 4] = 65_535
    film = load(make(pixels, bits=16))
    assert film.image[50, 50] == pytest.approx(0.5, abs=0.02)
    assert film.image[3, 4] == 1
    assert "clipped" in film.notes[0]


def test_padding_stays_out_of_the_range(load):
    pixels = np.full((20, 20), -2000, dtype=np.int16)
    pixels[5:15, 5:15] = np.linspace(0, 1000, 100).reshape(10, 10)
    film = load(make(pixels, bits=16, PixelPaddingValue=-2000))
    assert film.image[5, 5] == 0 and film.image[14, 14] == 1 and film.image[0, 0] == 0
    assert film.image[9, 14] == pytest.approx(pixels[9, 14] / 1000)
    without = load(make(pixels, bits=16))
    assert without.image[5, 5] == pytest.approx(2 / 3)


def test_padding_range(load):
    pixels = np.concatenate([np.full(50, 4000), np.full(50, 4095), np.linspace(0, 1000, 300)])
    pixels = pixels.astype(np.uint16).reshape(20, 20)
    film = load(make(pixels, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095))
    np.testing.assert_allclose(film.image, np.clip(pixels / 1000, 0, 1), atol=1e-6)


def test_one_value_everywhere(load):
    film = load(make(np.full((5, 6), 77, np.uint16)))
    assert (film.image == 0).all() and film.notes == ("Every pixel has the same value.",)


# ------------------------------------------------------------------------------------- rescale and tables


def test_rescale_comes_before_the_window(load):
    film = load(make(RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3096.5, WindowWidth=2001))
    # 1548 -> 2096, 2048 -> 3096 (the centre less 0.5), 2548 -> 4096
    np.testing.assert_allclose(film.image, [[0, 0, 0, 0.5], [1, 1, 1, 1]], atol=1e-6)


def test_negative_slope_turns_the_grey_scale(load):
    film = load(make(RAMP, RescaleSlope=-1, RescaleIntercept=4095))
    np.testing.assert_allclose(film.image, 1 - RAMP / 4095, atol=1e-6)
    windowed = load(make(RAMP, RescaleSlope=-1, RescaleIntercept=0, WindowCenter=-2047.5, WindowWidth=1001))
    np.testing.assert_allclose(windowed.image, [[1, 1, 1, 0.5], [0, 0, 0, 0]], atol=1e-6)


def test_slope_of_zero_is_ignored(load):
    film = load(make(RAMP, RescaleSlope=0, RescaleIntercept=5))
    np.testing.assert_allclose(film.image, RAMP / 4095, atol=1e-6)
    assert "Rescale Slope is 0" in film.notes[0]


@pytest.mark.parametrize("implicit", [False, True])
def test_voi_table(load, implicit):
    pixels = np.array([[0, 100, 101], [102, 103, 4095]], dtype=np.uint16)
    ds = make(pixels, VOILUTSequence=[table([0, 16384, 49152, 65535], first=100)])
    ds.WindowCenter, ds.WindowWidth = 10, 10  # the table goes first
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    film = load(ds)
    grey = np.array([[0, 0, 16384], [49152, 65535, 65535]]) / 65535
    np.testing.assert_allclose(film.image, grey, atol=1e-6)
    assert film.notes == ()


@pytest.mark.parametrize("packed", [False, True])
def test_eight_bit_voi_table_over_twelve_bit_pixels(load, packed):
    """Such a table has 4096 entries of one byte each; indexing it with bytes would wrap around."""
    entries = np.arange(4096) // 16
    ds = make(RAMP, VOILUTSequence=[table(entries, bits=8, packed=packed), table(entries)])
    film = load(ds)
    np.testing.assert_allclose(film.image, (RAMP // 16) / 255, atol=1e-6)
    assert film.notes == ("The first of 2 VOI LUTs in the file was used.",)


def test_voi_table_with_fewer_bits_than_it_claims(load):
    film = load(make(RAMP, VOILUTSequence=[table(np.arange(4096), bits=16)]))
    np.testing.assert_allclose(film.image, RAMP / 4095, atol=1e-6)


def test_table_of_65536_entries(load):
    """The descriptor has 16 bits for the count, so 65536 is written as 0."""
    pixels = np.array([[0, 13_107], [52_428, 65_535]], dtype=np.uint16)
    film = load(make(pixels, bits=16, VOILUTSequence=[table(np.arange(65_536)[::-1])]))
    np.testing.assert_allclose(film.image, [[1, 0.8], [0.2, 0]], atol=1e-6)


def test_big_endian_table(load):
    item = table([0, 0])
    item.LUTDescriptor = [4, 0, 16]
    item.LUTData = np.array([0, 16384, 49152, 65535], ">u2").tobytes()
    ds = make(np.array([[0, 1], [2, 3]], dtype=">u2"), VOILUTSequence=[item])
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    film = load(ds, implicit_vr=False, little_endian=False)
    np.testing.assert_allclose(film.image, np.array([[0, 16384], [49152, 65535]]) / 65535, atol=1e-6)


def test_modality_table_then_window(load):
    pixels = np.array([[0, 1], [2, 3]], dtype=np.uint16)
    ds = make(pixels, ModalityLUTSequence=[table([0, 1000, 2000, 4000])], WindowCenter=2000.5, WindowWidth=4001)
    np.testing.assert_allclose(load(ds).image, [[0, 0.25], [0.5, 1]], atol=1e-6)


# --------------------------------------------------------------------------------- frames, colour, header


def test_first_frame_of_several(load):
    frames = np.stack([RAMP, RAMP[:, ::-1], RAMP * 0])
    ds = make(RAMP, NumberOfFrames=3, PixelData=frames.tobytes())
    film = load(ds)
    np.testing.assert_allclose(film.image, RAMP / 4095, atol=1e-6)
    assert film.notes == ("First frame of 3 read.",)


def test_colour_becomes_grey(load):
    rgb = np.zeros((1, 4, 3), np.uint8)
    rgb[0, :, :] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
    ds = make(rgb, bits=8, photometric="RGB", SamplesPerPixel=3, PlanarConfiguration=0)
    film = load(ds)
    np.testing.assert_allclose(film.image, [[0.299, 0.587, 0.114, 1]], atol=0.5 / 255)
    assert film.notes == ("The image is in colour; it was turned to grey.",)


def test_ybr_is_converted_first(load):
    ybr = np.array([[[76, 85, 255], [150, 44, 21]]], np.uint8)  # red and green (PS3.3 C.7.6.3.1.2)
    ds = make(ybr, bits=8, photometric="YBR_FULL", SamplesPerPixel=3, PlanarConfiguration=0)
    np.testing.assert_allclose(load(ds).image, [[0.299, 0.587]], atol=0.01)


def test_subsampled_ybr_needs_fewer_bytes(load):
    # Two pixels share their colour: Y Y Cb Cr (PS3.3 C.7.6.3.1.2); 128 is no colour.
    ds = make(np.zeros((1, 4, 2), np.uint8), bits=8, photometric="YBR_FULL_422", SamplesPerPixel=3)
    ds.PlanarConfiguration = 0
    ds.PixelData = bytes([0, 51, 128, 128, 102, 255, 128, 128])
    np.testing.assert_allclose(load(ds).image, [[0, 0.2, 0.4, 1]], atol=0.01)


def test_grey_stored_as_colour_is_taken_as_it_is(load):
    rgb = np.repeat(np.array([[0, 51, 255]], np.uint8)[:, :, None], 3, axis=2)
    film = load(make(rgb, bits=8, photometric="RGB", SamplesPerPixel=3, PlanarConfiguration=0))
    np.testing.assert_allclose(film.image, [[0, 0.2, 1]], atol=1e-6)
    assert film.notes == ()


def test_header_facts(load):
    film = load(make(RAMP, PatientID=" p7 ", ViewPosition="AP ", PixelSpacing=[0.14, 0.14]))
    assert (film.patient_id, film.view) == ("p7", "AP")
    assert film.pixel_spacing == (0.14, 0.14) and film.spacing_kind == "PixelSpacing"
    assert film.notes == ()
    bare = load(make(RAMP))
    assert (bare.patient_id, bare.view, bare.pixel_spacing, bare.spacing_kind) == ("", "", None, None)


def test_view_from_its_code(load):
    code = Dataset()
    code.CodeMeaning = "postero-anterior"
    assert load(make(RAMP, ViewCodeSequence=[code])).view == "PA"


def test_detector_spacing_is_noted(load):
    film = load(make(RAMP, ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.0, 0.0]))
    assert film.pixel_spacing == (0.2, 0.2) and film.spacing_kind == "ImagerPixelSpacing"
    assert any("measured at the detector" in note for note in film.notes)
    corrected = load(make(RAMP, ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.18, 0.18]))
    assert corrected.pixel_spacing == (0.18, 0.18) and corrected.notes == ()


@pytest.mark.parametrize("element", [{"PixelSpacing": [0.2, 0.1]}, {"PixelAspectRatio": [2, 1]}])
def test_pixels_that_are_not_square_are_noted(load, element):
    film = load(make(RAMP, **element))
    assert film.image.shape == RAMP.shape
    assert film.notes == ("Pixels are not square (height : width = 2); the image was not resampled.",)


def test_doubtful_kinds_are_noted(load):
    (note,) = load(make(RAMP, PresentationIntentType="FOR PROCESSING")).notes
    assert "raw" in note
    assert load(make(RAMP, Modality="CT")).modality == "CT"


@pytest.mark.parametrize(
    ("age", "child"), [("004Y", True), ("015Y", True), ("016Y", False), ("011M", True), ("", False), ("old", False)]
)
def test_a_child_is_noted(load, age, child):
    ds = make(RAMP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom does not like "old" either
        ds.PatientAge = age
        notes = load(ds).notes
    assert any("child" in note for note in notes) == child


def test_orientation_and_maker(load):
    film = load(make(RAMP, PatientOrientation=["R", "F"], Manufacturer="Maker"))
    assert (film.orientation, film.manufacturer) == ("R\\F", "Maker")
    assert load(make(RAMP)).orientation == ""


def test_a_preamble_that_looks_like_a_tiff(load, tmp_path):
    """Dual-personality files (PS3.10 7.1) carry a TIFF header before DICM."""
    path = tmp_path / "dual.dcm"
    make(RAMP).save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    path.write_bytes(b"II*\0" + bytes(124) + data[128:])
    np.testing.assert_array_equal(read_xray(path), load(make(RAMP)).image)


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cv2.imwrite(str(tmp_path / "film.png"), np.zeros((9, 9), np.uint8))
    assert read_xray("~/film.png").shape == (9, 9)


# ----------------------------------------------------------------------------------------- file formats


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_packed_transfer_syntaxes(load, syntax):
    pixels = (np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)) % 4096
    ds = make(pixels)
    if syntax.is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    film = load(ds)
    np.testing.assert_allclose(film.image, pixels / pixels.max(), atol=1e-6)
    assert film.transfer_syntax == syntax.name


def jpeg_film(change=lambda frame: frame) -> tuple[Dataset, np.ndarray]:
    smooth = np.add.outer(np.arange(64), 2 * np.arange(48)).astype(np.uint8)
    frame = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    ds = make(smooth, bits=8)
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([change(frame)])
    ds["PixelData"].VR = "OB"
    return ds, smooth


def test_jpeg_in_dicom(load):
    ds, smooth = jpeg_film()
    np.testing.assert_allclose(load(ds).image, smooth / smooth.max(), atol=0.03)


def test_jpeg_that_is_cut_off_inside_dicom(load):
    with pytest.raises(XRayError, match="cut off"):
        load(jpeg_film(lambda frame: frame[: len(frame) * 2 // 3])[0])


def test_jpeg_with_a_forged_size_is_refused_before_decoding(load, monkeypatch):
    def forge(frame):
        at = frame.index(b"\xff\xc0")
        return frame[: at + 5] + struct.pack(">2H", 60_000, 60_000) + frame[at + 9 :]

    monkeypatch.setattr(decode, "pixel_array", lambda *_, **__: pytest.fail("was decoded"))
    with pytest.raises(XRayError, match="60000 x 60000 where the header says 64 x 48"):
        load(jpeg_film(forge)[0])


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


def test_contents_decide_not_the_ending(tmp_path):
    path = tmp_path / "wrong.dcm"
    path.write_bytes(cv2.imencode(".png", np.array([[0, 51, 255]], np.uint8))[1].tobytes())
    np.testing.assert_allclose(read_xray(path), [[0, 0.2, 1]], atol=1e-6)


def test_no_decoder_names_the_package(load, monkeypatch):
    class Missing:
        is_available = False

    monkeypatch.setattr(decode, "get_decoder", lambda _: Missing)
    with pytest.raises(XRayError, match=r'JPEG Baseline.*pip install "python-gdcm"'):
        load(jpeg_film()[0])
    ds = make(np.zeros((32, 32), np.uint16))
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    with pytest.raises(XRayError, match=r'JPEG 2000.*pip install "pylibjpeg\[openjpeg\]"'):
        load(ds)


def test_unknown_transfer_syntax(load):
    ds = make(RAMP)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    ds.PixelData = encapsulate([b"\0" * 20])
    ds["PixelData"].VR = "OB"
    with pytest.raises(XRayError, match="MPEG2.*cannot be decoded.*Convert"):
        load(ds)


# ------------------------------------------------------------------------------------------- bad files


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


def test_cut_off_pictures_are_refused_whatever_opencv_makes_of_them(tmp_path, monkeypatch):
    path = bad_files(tmp_path)["jpeg cut"]
    monkeypatch.setattr(picture.cv2, "imdecode", lambda *_: np.full((90, 90), 128, np.uint8))
    with pytest.raises(XRayError, match="cut off or damaged"):
        load_xray(path)


def test_cut_off_pixels_are_counted(tmp_path):
    with pytest.raises(XRayError, match=r"cut off \(\d+ of 8000 bytes\)"):
        load_xray(bad_files(tmp_path)["half"])


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


def test_huge_claims_are_refused_before_decoding(load, monkeypatch):
    monkeypatch.setattr(decode, "pixel_array", lambda *_, **__: pytest.fail("was decoded"))
    with pytest.raises(XRayError, match="60000 x 60000 pixels are more than"):
        load(make(RAMP, Rows=60_000, Columns=60_000))
    with pytest.raises(XRayError, match=r"cut off \(16 of 50000000 bytes\)"):
        load(make(RAMP, Rows=5000, Columns=5000))
    with pytest.raises(XRayError, match="no usable image size"):
        load(make(RAMP, Rows=0))


def test_picture_bomb_is_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (12_000, 12_000)).save(path)
    monkeypatch.setattr(picture.cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    assert path.stat().st_size < 100_000
    with pytest.raises(XRayError, match="12000 x 12000"):
        load_xray(path)


def test_deflate_bomb_is_refused(load, monkeypatch):
    monkeypatch.setattr(dicom, "MAX_INFLATED_BYTES", 1_000_000)
    ds = make(np.zeros((1500, 1500), np.uint16))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(XRayError, match="too large when unpacked"):
        load(ds)


def test_dicom_without_pixels(load):
    ds = make(RAMP)
    del ds.PixelData
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    with pytest.raises(XRayError, match=r"holds no pixels \(Basic Text SR Storage\)"):
        load(ds)


def test_reading_is_silent(tmp_path):
    """Neither warnings nor pydicom's log reach a user, however bent the file is."""
    ds = make(RAMP, WindowCenter=2048, WindowWidth=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.PatientID, ds.ViewPosition = "x" * 100, "not a code string " * 3
        ds.StudyDate = "yesterday"
        ds.save_as(tmp_path / "bent.dcm", enforce_file_format=True)
    code = f"from heartbox.xray import load_xray; load_xray({str(tmp_path / 'bent.dcm')!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout == run.stderr == ""


def test_reading_in_threads_gives_standard_error_back(tmp_path, capfd):
    paths = []
    for i in range(40):
        paths.append(tmp_path / f"{i}.dcm")
        (jpeg_film(lambda frame: frame[:500] + b"\xff\xd9")[0] if i % 2 else make(RAMP)).save_as(
            paths[-1], enforce_file_format=True
        )

    def read(path):
        try:
            return load_xray(path).image.shape
        except XRayError as error:
            return "damaged" in str(error)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(read, paths))
    assert answers == [RAMP.shape, True] * 20
    assert capfd.readouterr().err == ""
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


# --------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize(("peak", "bits"), [(200, 8), (1000, 10), (4095, 12), (9000, 14), (60_000, 16)])
def test_sixteen_bit_pictures_use_the_bits_they_have(tmp_path, ending, peak, bits):
    path = tmp_path / f"Röntgen-胸部{ending}"
    path.write_bytes(cv2.imencode(ending, np.array([[0, peak // 2, peak]], np.uint16))[1].tobytes())
    film = load_xray(path)
    np.testing.assert_allclose(film.image, np.array([[0, peak // 2, peak]]) / (2**bits - 1), atol=1e-6)
    assert film.bits_stored == bits
    assert bool(film.notes) == (bits < 16)


def test_eight_bit_pictures(tmp_path):
    grey = np.array([[0, 51, 102]], np.uint8)
    for name, pixels in {
        "grey": grey,
        "alpha": np.dstack([grey, grey, grey, grey // 2]),
        "three": np.dstack([grey] * 3),
    }.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        film = load_xray(path)
        np.testing.assert_allclose(film.image, [[0, 0.2, 0.4]], atol=1e-6)
        assert film.notes == () and film.transfer_syntax == "PNG" and film.photometric == ""


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_colour_pictures(tmp_path, mode):
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    Image.fromarray(colour).convert(mode).save(tmp_path / "colour.png")
    film = load_xray(tmp_path / "colour.png")
    np.testing.assert_allclose(film.image, [[0.299, 0.587, 0.114]], atol=0.5 / 255)
    assert "colour" in film.notes[0]


def test_grey_with_alpha_and_one_bit(tmp_path):
    Image.fromarray(np.array([[0, 51, 255]], np.uint8)).convert("LA").save(tmp_path / "la.png")
    np.testing.assert_allclose(read_xray(tmp_path / "la.png"), [[0, 0.2, 1]], atol=1e-6)
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "one.png")
    np.testing.assert_allclose(read_xray(tmp_path / "one.png"), [[0, 1]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_tiff(tmp_path, dtype):
    stored = np.array([[0, 40_000, 65_535]]) // (1 if dtype == np.uint16 else 257)
    stored = stored.astype(dtype)
    path = tmp_path / "film.tif"
    # Written by hand, so that no writer's idea of inversion comes between.
    kind = {"u1": 8, "u2": 16}[stored.dtype.str[1:]]
    tags = [(256, 3), (257, 1), (258, kind), (259, 1), (262, 0), (273, 8), (277, 1), (278, 1), (279, stored.nbytes)]
    body = stored.tobytes() + b"\0" * (-stored.nbytes % 4)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + b"\0\0\0\0")
    np.testing.assert_allclose(read_xray(path), 1 - stored / np.iinfo(dtype).max, atol=1e-6)


def test_pages_rotation_and_floats_are_noted(tmp_path):
    grey = Image.fromarray(np.array([[0, 51, 255]], np.uint8))
    grey.save(tmp_path / "pages.tif", save_all=True, append_images=[grey, grey])
    assert load_xray(tmp_path / "pages.tif").notes == ("First page of 3 read.",)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.save(tmp_path / "turned.jpg", exif=exif)
    turned = load_xray(tmp_path / "turned.jpg")
    assert turned.image.shape == (1, 3) and "EXIF" in turned.notes[0]
    Image.fromarray(np.array([[0.0, 0.25, 1.0]], np.float32)).save(tmp_path / "float.tif")
    np.testing.assert_allclose(read_xray(tmp_path / "float.tif"), [[0, 0.25, 1]])
    Image.fromarray(np.array([[-100.0, 0.0, 300.0]], np.float32)).save(tmp_path / "float.tif")
    np.testing.assert_allclose(read_xray(tmp_path / "float.tif"), [[0, 0.25, 1]])
    Image.fromarray(np.array([[np.nan, 0.0, 1.0]], np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(XRayError, match="no numbers"):
        read_xray(tmp_path / "float.tif")


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


# ---------------------------------------------------------------------------------------------- resizing


def box_edges(image):
    """Sub-pixel box edges of a bright box on black: its mass and centroid along each axis, not a threshold."""
    edges = []
    for axis in (0, 1):
        profile = image.sum(axis=axis) / image.sum(axis=axis).max()
        centre = (profile * (np.arange(profile.size) + 0.5)).sum() / profile.sum()
        edges.append((centre - profile.sum() / 2, centre + profile.sum() / 2))
    (x_min, x_max), (y_min, y_max) = edges
    return np.array([x_min, y_min, x_max, y_max])


@pytest.mark.parametrize(
    ("rows", "columns", "size"),
    [
        (1000, 700, 224),
        (700, 1000, 224),
        (224, 224, 224),
        (120, 90, 224),
        (90, 500, 224),
        (500, 90, 224),
        (333, 517, 64),
    ],
)
@given(corner=st.tuples(*[st.floats(0.2, 0.45)] * 2), span=st.tuples(*[st.floats(0.2, 0.4)] * 2))
@settings(max_examples=20, deadline=None)
def test_boxes_land_where_scaling_says(rows, columns, size, corner, span):
    x_min, y_min = int(corner[0] * columns), int(corner[1] * rows)
    x_max, y_max = x_min + int(span[0] * columns), y_min + int(span[1] * rows)
    image = np.zeros((rows, columns), np.float32)
    image[y_min:y_max, x_min:x_max] = 1
    expected = np.array([x_min, y_min, x_max, y_max]) * size / np.array([columns, rows, columns, rows])
    small = resize_xray(image, size)
    assert small.shape == (size, size) and small.dtype == np.float32
    assert small.min() >= 0 and small.max() <= 1
    # A half-pixel shift would show as 0.28 and more here.
    np.testing.assert_allclose(box_edges(small), expected, atol=0.06)


@pytest.mark.parametrize(("rows", "columns"), [(1024, 800), (100, 150), (60, 900)])
def test_no_half_pixel_shift(rows, columns):
    """A linear ramp stays itself: the value at every output centre is the ramp's value there."""
    across = (np.arange(columns) + 0.5) / columns
    down = (np.arange(rows) + 0.5) / rows
    image = np.add.outer(down, across) / 2
    centres = (np.arange(224) + 0.5) / 224
    margin = slice(4, -4)  # interpolation has nothing to lean on beyond the border
    expected = (np.add.outer(centres, centres) / 2)[margin, margin]
    np.testing.assert_allclose(resize_xray(image, 224)[margin, margin], expected, atol=2e-4)


def test_shrinking_averages_all_pixels():
    checker = np.indices((448, 448)).sum(axis=0) % 2
    np.testing.assert_allclose(resize_xray(checker, 224), 0.5, atol=1e-6)
    stripes = np.tile(np.arange(900) % 2, (60, 1))  # shrinks across, grows down
    assert np.ptp(resize_xray(stripes, 225)) < 1e-6


def test_resize_refuses_what_is_no_image():
    for image, size in ((np.zeros((4, 4, 3)), 8), (np.zeros((0, 4)), 8), (np.zeros((4, 4)), 0)):
        with pytest.raises(ValueError, match="resize_xray wants"):
            resize_xray(image, size)


# --------------------------------------------------------------------------------------------- real files


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


# ----------------------------------------------------------------------------------- words and their bits


def test_values_that_do_not_lie_where_the_header_says(load):
    """Decoders cut off what is above Bits Stored, and a film comes out as noise."""
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    with pytest.raises(XRayError, match=r"75% of the pixels use bits above the 10 of Bits Stored \(High Bit is 9\)"):
        load(make(deep, bits=10))
    with pytest.raises(XRayError, match="High Bit is 15"):
        load(make(deep << 4, HighBit=15))
    assert load(make(deep, HighBit=15)).notes == load(make(deep)).notes  # said wrongly, but all in its place


def test_what_may_stand_in_spare_bits(load):
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    plain = load(make(deep)).image
    stray = deep.copy()
    stray[0, 1] |= 0x8000
    film = load(make(stray))
    assert "1 pixels use bits above Bits Stored; these bits were left out." in film.notes
    np.testing.assert_array_equal(film.image, plain)
    padded = deep.copy()
    padded[:20] = 0xFFFF
    assert not any("bits" in note for note in load(make(padded, PixelPaddingValue=0xFFFF)).notes)
    overlay = make(deep | 0x1000)
    overlay.add_new(0x60000102, "US", 12)
    np.testing.assert_array_equal(load(overlay).image, plain)
    signed = (deep.astype(np.int16) - 2048).reshape(64, 64)  # a sign fills the spare bits
    assert not any("bits" in note for note in load(make(signed)).notes)


@pytest.mark.parametrize(
    ("meaning", "view"),
    [
        ("postero-anterior", "PA"),
        ("Antero-posterior projection", "AP"),
        ("left lateral", "LEFT LATERAL"),
        ("antero-posterior oblique", "ANTERO-POSTERIOR OBLIQUE"),
    ],
)
def test_the_view_may_stand_in_a_code(load, meaning, view):
    code = Dataset()
    code.CodeMeaning = meaning
    assert load(make(RAMP, ViewCodeSequence=[code])).view == view
