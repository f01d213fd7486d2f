"""Windows, tables and rescaling: every expected number is worked by hand from the DICOM standard."""

import numpy as np
import pytest
from films import RAMP, make, table
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels import apply_windowing
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from heartbox.xray import lut
from heartbox.xray.reader import load_xray


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


@pytest.mark.parametrize("scale", [1, 1_000_000])
@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_words_of_32_bits_are_mapped_in_a_table_or_one_by_one(load, dtype, scale):
    pixels = (RAMP.astype(dtype) - (2000 if dtype == np.int32 else 0)) * dtype(scale)
    film = load(make(np.tile(pixels, (8, 8)), bits=32))
    low, high = float(pixels.min()), float(pixels.max())
    np.testing.assert_allclose(film.image[:2, :4], (pixels.astype(float) - low) / (high - low), atol=1e-6)
