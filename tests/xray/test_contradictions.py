"""Headers that contradict their pixels, elements that are missing, files that end too early or too late.

Each film is a phantom, damaged in a way that real files are. The right answer is the whole film, equal to the
undamaged one, or a refusal that names the contradiction; never another film, and never the end of the process.
"""

import dataclasses
import io
import struct

import imagecodecs
import numpy as np
import pydicom
import pytest
from films import COMPRESSED, compressed, frame_of, make, notes_about, table
from helpers import ENCODERS, encoded
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from heartbox.xray.codestream import read_codestream
from heartbox.xray.errors import XRayError
from heartbox.xray.parse import PIXEL_DATA

names = pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)


# ----------------------------------------------------------------------- one element of the header is wrong


@names
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "CMYK", "HSV", "nonsense", ""])
def test_one_component_is_grey_whatever_the_header_calls_it(film, load, syntax, photometric):
    ds = film(syntax)
    good = load(ds)
    ds.PhotometricInterpretation = photometric
    read = load(ds)
    np.testing.assert_array_equal(read.image, good.image)
    assert read.photometric == "MONOCHROME2"
    assert notes_about(read, "MONOCHROME2 was taken")


def test_the_presentation_shape_is_a_second_witness(load, phantom_pixels):
    good = load(make(phantom_pixels, photometric="MONOCHROME1", PresentationLUTShape="INVERSE"))
    read = load(make(phantom_pixels, photometric="RGB", PresentationLUTShape="INVERSE"))
    np.testing.assert_array_equal(read.image, good.image)


@names
@pytest.mark.parametrize("allocated", [1, 8, 16, 32, 64, 0, 12])
def test_compressed_pixels_say_their_own_width(film, load, syntax, allocated):
    ds = film(syntax)
    good = load(ds)
    ds.BitsAllocated = allocated
    np.testing.assert_array_equal(load(ds).image, good.image)


@names
@pytest.mark.parametrize("stored", [1, 5, 7, 10, 0])
def test_bits_stored_below_the_codestream(film, load, syntax, stored):
    """Cut to fewer bits, the film would come out as noise."""
    ds = film(syntax)
    good = load(ds)
    ds.BitsStored, ds.HighBit = stored, max(stored - 1, 0)
    read = load(ds)
    if stored and stored >= good.bits_stored:
        return
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, "Bits Stored is")


@pytest.mark.parametrize("stored", [12, 16])
def test_eight_bits_in_sixteen(film, load, stored):
    ds = film(JPEGBaseline8Bit)
    good = load(ds)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, stored, stored - 1
    read = load(ds)
    np.testing.assert_array_equal(read.image, good.image)
    assert read.bits_stored == 8


@names
def test_what_a_codestream_says_may_be_missing_in_the_header(film, load, syntax):
    ds = film(syntax)
    good = load(ds)
    for keyword in ("BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation"):
        del ds[keyword]
    del ds.PhotometricInterpretation
    np.testing.assert_array_equal(load(ds).image, good.image)


def test_two_and_four_components_are_refused_by_name(load):
    for components in (2, 4):
        pixels = np.random.default_rng(0).integers(0, 255, (32, 32, components), np.uint8)
        frame = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k")
        with pytest.raises(XRayError, match=f"film.dcm: the compressed image has {components} components"):
            load(compressed(pixels[:, :, 0], frame, JPEG2000Lossless, bits=8))


@pytest.mark.parametrize("encode", ["jpeg", "jpeg2k", "jpegls"])
def test_three_components_labelled_grey(load, encode):
    rgb = np.stack(np.mgrid[0:200:40j, 0:200:50j], -1)
    rgb = np.dstack([rgb, rgb[:, :, :1] / 2]).astype(np.uint8)
    options = {"jpeg": {"level": 100}, "jpeg2k": {"level": 0, "codecformat": "j2k"}, "jpegls": {}}[encode]
    frame = getattr(imagecodecs, f"{encode}_encode")(rgb, **options)
    syntax = {"jpeg": JPEGBaseline8Bit, "jpeg2k": JPEG2000Lossless, "jpegls": JPEGLSLossless}[encode]
    read = load(compressed(rgb[:, :, 0], frame, syntax, bits=8))
    grey = rgb @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(read.image, grey, atol=0.012)
    assert notes_about(read, "was taken")
    inverse = compressed(rgb[:, :, 0], frame, syntax, bits=8, PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(XRayError, match="Photometric Interpretation is MONOCHROME1, but a pixel has 3 components"):
        load(inverse)


def test_uncompressed_words_tell_their_width_by_their_number(load, phantom_pixels):
    good = load(make(phantom_pixels))
    for allocated in (1, 8, 32, 64, 0):
        read = load(make(phantom_pixels, BitsAllocated=allocated))
        np.testing.assert_array_equal(read.image, good.image)
        assert notes_about(read, "by the length of the pixel data")
    for elements in ({"SamplesPerPixel": 3}, {"PhotometricInterpretation": "RGB"}):
        np.testing.assert_array_equal(load(make(phantom_pixels, **elements)).image, good.image)
    for wrong in ({"SamplesPerPixel": 2}, {"SamplesPerPixel": 4}):
        np.testing.assert_array_equal(load(make(phantom_pixels, **wrong)).image, good.image)


def test_a_sheared_film_is_refused(load, phantom_pixels):
    with pytest.raises(XRayError, match="the size in the header is wrong"):
        load(make(phantom_pixels, Columns=phantom_pixels.shape[1] - 7))


def test_eight_bit_words_are_checked_too(load, phantom_pixels):
    with pytest.raises(XRayError, match="use bits above the 7 of Bits Stored"):
        load(make((phantom_pixels >> 4).astype(np.uint8), bits=7))


# -------------------------------------------------------------------------------- how compressed pixels are stored


def written(ds, tmp_path, change) -> object:
    """Write a film, change its bytes, and read it."""
    from heartbox.xray import load_xray

    ds.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    data = (tmp_path / "film.dcm").read_bytes()
    (tmp_path / "film.dcm").write_bytes(change(data))
    return load_xray(tmp_path / "film.dcm")


DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


@names
@pytest.mark.parametrize("ending", [b"", bytes(8), bytes(600), b"junk" * 4, DELIMITER[:5]], ids=range(5))
def test_no_delimiter_at_the_end(film, load, tmp_path, syntax, ending):
    ds = film(syntax)
    good = load(ds)
    read = written(ds, tmp_path, lambda data: data.removesuffix(DELIMITER) + ending)
    np.testing.assert_array_equal(read.image, good.image)


@names
@pytest.mark.parametrize("padding", [b"\0", b"\0" * 300, b"\xff" * 64, b"\0\xff" * 5000])
def test_padding_after_the_end_marker(film, load, syntax, padding):
    ds = film(syntax)
    good = load(ds)
    ds.PixelData = encapsulate([frame_of(ds) + padding])
    np.testing.assert_array_equal(load(ds).image, good.image)


@names
@pytest.mark.parametrize("offsets", [[], [4], [0, 999], [0, 0, 0], [2**31]])
def test_offset_tables_are_not_believed(film, load, syntax, offsets):
    ds = film(syntax)
    good = load(ds)
    if offsets and offsets[0]:  # RLE's own header begins with a small number, as a table of one wrong offset does
        offsets = [0, *offsets]
    table_ = struct.pack(f"<{len(offsets)}I", *offsets)
    items = b"".join(b"\xfe\xff\0\xe0" + struct.pack("<I", len(item)) + item for item in (table_, frame_of(ds)))
    ds.PixelData = items + DELIMITER
    np.testing.assert_array_equal(load(ds).image, good.image)


@names
def test_no_offset_table_at_all(film, load, syntax):
    ds = film(syntax)
    good = load(ds)
    frame = frame_of(ds)
    ds.PixelData = b"\xfe\xff\0\xe0" + struct.pack("<I", len(frame)) + frame + DELIMITER
    np.testing.assert_array_equal(load(ds).image, good.image)


@names
def test_one_frame_in_many_fragments_and_the_first_of_several_frames(film, load, syntax):
    ds = film(syntax)
    good = load(ds)
    frame = frame_of(ds)
    ds.PixelData = encapsulate([frame], fragments_per_frame=5)
    np.testing.assert_array_equal(load(ds).image, good.image)
    ds.PixelData, ds.NumberOfFrames = encapsulate([frame, frame, frame]), 3
    read = load(ds)
    np.testing.assert_array_equal(read.image, good.image)
    assert "First frame of 3 read. To have the others answered, save each as a file of its own." in read.notes


@names
@pytest.mark.parametrize("claimed", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90", "1.2.3.4"])
def test_compressed_under_another_syntax(film, load, tmp_path, syntax, claimed):
    ds = film(syntax)
    good = load(ds)
    if claimed == "1.2.840.10008.1.2":
        pytest.skip("pydicom writes no fragments into an implicit file")

    def relabel(data: bytes) -> bytes:
        at = data.index(syntax.encode())
        length = int.from_bytes(data[at - 2 : at], "little")
        uid = claimed.encode().ljust(length, b"\0")
        return data[:at] + uid + data[at + length :]

    if len(claimed) > len(syntax):
        pytest.skip("does not fit into the place of the other")
    read = written(ds, tmp_path, relabel)
    np.testing.assert_array_equal(read.image, good.image)
    if claimed not in syntax and not (syntax == HTJ2KLossless and claimed == JPEG2000Lossless):
        assert notes_about(read, "though the header names")


@pytest.mark.parametrize("claimed", [JPEGBaseline8Bit, RLELossless])
def test_uncompressed_under_a_compressed_syntax(load, tmp_path, phantom_pixels, claimed):
    good = load(make(phantom_pixels))

    def relabel(data: bytes) -> bytes:
        at = data.index(b"1.2.840.10008.1.2.1\0", 132)
        longer = data[:at] + claimed.encode() + b"\0" * (len(claimed) % 2) + data[at + 20 :]
        grown = len(longer) - len(data)
        length = int.from_bytes(data[at - 2 : at], "little") + grown
        group = int.from_bytes(longer[140:144], "little") + grown
        longer = longer[: at - 2] + struct.pack("<H", length) + longer[at:]
        return longer[:140] + struct.pack("<I", group) + longer[144:]

    read = written(make(phantom_pixels), tmp_path, relabel)
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, "are not compressed")


# ----------------------------------------------------------------------- elements that are missing or wrong


@pytest.mark.parametrize(
    "keyword", ["BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation", "PhotometricInterpretation"]
)
def test_missing_elements_are_assumed_as_viewers_do(load, phantom_pixels, keyword):
    window = {"WindowCenter": 2047.5, "WindowWidth": 4095, "VOILUTFunction": "LINEAR_EXACT"}
    good = load(make(phantom_pixels, **window))
    ds = make(phantom_pixels, **window)
    del ds[keyword]
    np.testing.assert_array_equal(load(ds).image, good.image)


def test_missing_planar_configuration(load):
    rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    elements = {"bits": 8, "photometric": "RGB", "SamplesPerPixel": 3}
    good = load(make(rgb, PlanarConfiguration=0, **elements))
    read = load(make(rgb, **elements))
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, "Planar Configuration is missing")


@pytest.mark.parametrize("where", ["missing", "empty", "blank"])
def test_no_transfer_syntax(load, tmp_path, phantom_pixels, where):
    good = load(make(phantom_pixels))

    def blank(data: bytes) -> bytes:
        at = data.index(b"1.2.840.10008.1.2.1\0", 132)
        if where == "blank":
            return data[:at] + b" " * 20 + data[at + 20 :]
        start = at - 8 if where == "missing" else at - 2
        shorter = data[:start] + (b"\0\0" if where == "empty" else b"") + data[at + 20 :]
        group = int.from_bytes(data[140:144], "little") + len(shorter) - len(data)
        return shorter[:140] + struct.pack("<I", group) + shorter[144:]

    read = written(make(phantom_pixels), tmp_path, blank)
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, "names no transfer syntax")


def test_dicm_at_the_very_start(load, tmp_path, phantom_pixels):
    good = load(make(phantom_pixels))
    np.testing.assert_array_equal(written(make(phantom_pixels), tmp_path, lambda data: data[128:]).image, good.image)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("window", [True, False])
def test_a_voi_table_shorter_than_it_says(load, phantom_pixels, bits, window):
    short = table(np.linspace(0, 2**bits - 1, 2048), bits=bits)
    short.LUTDescriptor = [4096, 0, bits]
    elements = {"WindowCenter": 2047.5, "WindowWidth": 4095} if window else {}
    good = load(make(phantom_pixels, **elements))
    read = load(make(phantom_pixels, VOILUTSequence=[short], **elements))
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, "VOI LUT has 2048 entries where it says 4096")


@pytest.mark.parametrize(
    ("kind", "value", "vr"),
    [("i2", 32768, "US"), ("i2", -32768, "SS"), ("u2", -1, "SS"), ("u2", 65535, "US")],
)
def test_padding_written_with_the_other_sign(load, tmp_path, phantom_pixels, kind, value, vr):
    """Padding stays out of the range, whichever way its value is written."""
    pixels = phantom_pixels.astype(kind)
    inner = (slice(20, -20), slice(20, -20))
    good = load(make(np.ascontiguousarray(pixels[inner]), bits=16)).image
    pixels[:20] = pixels[-20:] = -32768 if kind == "i2" else 65535
    pixels[:, :20] = pixels[:, -20:] = -32768 if kind == "i2" else 65535
    ds = make(pixels, bits=16)
    ds.add_new("PixelPaddingValue", vr, value)
    np.testing.assert_allclose(load(ds).image[inner], good, atol=1e-6)


@pytest.mark.parametrize(
    ("slope", "intercept"), [("1e308", "0"), ("-1e306", "1e308"), ("1e307", "0"), ("-1e308", "-1e308")]
)
def test_rescaling_beyond_all_numbers_is_refused(load, phantom_pixels, slope, intercept):
    with pytest.raises(XRayError, match="film.dcm: .*Rescale Slope"):
        load(make(phantom_pixels, RescaleSlope=slope, RescaleIntercept=intercept))


def test_codestreams_say_what_was_encoded(phantom_pixels):
    kinds = {"4.50": "JPEG", "4.51": "JPEG", "4.57": "JPEG Lossless", "4.70": "JPEG Lossless", "4.81": "JPEG-LS"}
    for syntax in ENCODERS:
        data, bits, _ = encoded(phantom_pixels, syntax)
        stream = read_codestream(frame_of(pydicom.dcmread(io.BytesIO(data))))
        assert stream.kind == kinds.get(syntax.removeprefix("1.2.840.10008.1.2."), "JPEG 2000"), syntax.name
        assert (stream.rows, stream.columns, stream.components) == (*phantom_pixels.shape, 1)
        assert stream.precision in (bits, 16)
        assert dataclasses.replace(stream, data=b"").is_complete


def test_pixel_tags_are_found_in_either_order():
    assert PIXEL_DATA == (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")
