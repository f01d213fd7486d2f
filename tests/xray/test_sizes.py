"""How large a film is: where header and codestream differ, where pixels end too early, where frames are not counted.

The codestream is followed where a wrong size of its own would be noticed; otherwise the film is refused by name.
"""

import struct

import imagecodecs
import numpy as np
import pytest
from films import COMPRESSED, compressed, frame_of, make, notes_about
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from heartbox.xray import codestream, rle
from heartbox.xray.codestream import read_codestream
from heartbox.xray.errors import XRayError

names = pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
EOI = b"\xff\xd9"


def restated(frame: bytes, rows: int, columns: int) -> bytes:
    """Return a codestream that states another size and is the same otherwise."""
    if frame.startswith(codestream.SOC_SIZ):
        return frame[:8] + struct.pack(">2I", columns, rows) + frame[16:]
    at = 2
    while frame[at + 1] not in codestream.FRAME_MARKERS:
        at += 2 + struct.unpack(">H", frame[at + 2 : at + 4])[0]
    return frame[: at + 5] + struct.pack(">2H", rows, columns) + frame[at + 9 :]


# ------------------------------------------------------------------------------------- Rows and Columns are wrong


@names
@pytest.mark.parametrize(
    "change", [(1, 0), (-1, 0), (7, 0), (-7, 0), (0, 1), (0, -7), (0, 7), (5, -3), "swapped", "half", "twice"]
)
def test_the_codestream_knows_its_size(film, load, syntax, change):
    ds = film(syntax)
    good = load(ds)
    rows, columns = good.image.shape
    assert rows != columns
    if syntax == RLELossless and change == (5, -3):
        pytest.skip("RLE does not state its size: one of the two must be right")
    ds.Rows, ds.Columns = {
        "swapped": (columns, rows),
        "half": (rows // 2, columns),
        "twice": (rows, 2 * columns),
    }.get(change) or (rows + change[0], columns + change[1])
    read = load(ds)
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, f"the compressed image is {rows} x {columns}; this was taken")


@names
@pytest.mark.parametrize("missing", ["Rows", "Columns"])
def test_a_missing_size_is_taken_from_the_codestream(film, load, syntax, missing):
    ds = film(syntax)
    good = load(ds)
    del ds[missing]
    read = load(ds)
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, "no usable size")


def test_rle_without_any_size_is_refused(film, load):
    ds = film(RLELossless)
    del ds.Rows, ds.Columns
    with pytest.raises(XRayError, match=r"film.dcm: the compressed image has \d+ pixels.* its size cannot be told"):
        load(ds)


@pytest.mark.parametrize("syntax", COMPRESSED[:-1], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("change", [(8, 0), (-16, 0), (0, 16), (0, -24), (64, 64)])
def test_a_codestream_whose_own_size_is_wrong_is_not_believed(film, load, syntax, change):
    ds = film(syntax)
    rows, columns = ds.Rows + change[0], ds.Columns + change[1]
    ds.PixelData = encapsulate([restated(frame_of(ds), rows, columns)])
    with pytest.raises(XRayError, match="film.dcm: "):
        load(ds)


def test_a_lossless_size_with_a_few_rows_too_few_is_not_believed(film, load):
    """The decoder leaves what it does not need, and what it gives looks like a film."""
    ds = film(JPEGLosslessSV1)
    ds.PixelData = encapsulate([restated(frame_of(ds), ds.Rows - 1, ds.Columns)])
    with pytest.raises(XRayError, match="their size is not what they say"):
        load(ds)


@pytest.mark.parametrize("colour", [False, True])
def test_rle_of_eight_bits_and_of_colour(load, phantom_pixels, colour):
    grey = (phantom_pixels >> 4).astype(np.uint8)
    pixels = np.stack([grey, grey // 2, grey], -1) if colour else grey
    elements = {"SamplesPerPixel": 3, "PlanarConfiguration": 0} if colour else {}
    ds = make(pixels, bits=8, photometric="RGB" if colour else "MONOCHROME2", **elements)
    good = load(ds)
    ds.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(load(ds).image, good.image)
    ds.Columns -= 7
    np.testing.assert_array_equal(load(ds).image, good.image)
    ds.Columns += 7
    ds.PixelData = encapsulate([frame_of(ds) + b"\0\xff" * 500])  # padding that reads as pixels
    assert load(ds).image.shape == grey.shape


def test_rle_that_is_not_packed_row_by_row(load, phantom_pixels):
    """Some encoders let runs cross rows, which the standard forbids: their header has to be believed."""
    flat = make(phantom_pixels.reshape(1, -1))
    flat.compress(RLELossless, generate_instance_uid=False)
    rows, columns = phantom_pixels.shape
    frame = frame_of(flat)
    good = load(make(phantom_pixels))
    read = load(compressed(phantom_pixels, frame, RLELossless))
    np.testing.assert_array_equal(read.image, good.image)
    with pytest.raises(XRayError, match="its size cannot be told"):
        load(compressed(phantom_pixels, frame, RLELossless, Rows=rows - 1))


def test_rle_claims_are_bounded(load, phantom_pixels, monkeypatch):
    """128 pixels of two bytes: a small file could claim gigabytes."""
    monkeypatch.setattr(rle, "MAX_PIXELS", 10_000)
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x07" * 100
    with pytest.raises(XRayError, match="film.dcm: the compressed pixels are cut off or damaged"):
        load(compressed(phantom_pixels[:100, :128], frame, RLELossless, bits=8, BitsAllocated=8))


# ---------------------------------------------------------------------------------------------- pixels end too early


@names
@pytest.mark.parametrize("padding", [0, 1, 2, 64])
def test_a_codestream_without_its_end_marker_is_read_if_nothing_is_missing(film, load, syntax, padding):
    if syntax == RLELossless:
        pytest.skip("RLE has no end marker")
    ds = film(syntax)
    good = load(ds)
    frame = frame_of(ds)
    ds.PixelData = encapsulate([frame[: read_codestream(frame).data.rfind(EOI)] + bytes(padding)])
    read = load(ds)
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, "no end marker")


@names
@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("ending", [b"", EOI], ids=["cut", "closed"])
def test_a_codestream_that_is_cut_off_is_refused(film, load, syntax, share, ending):
    ds = film(syntax)
    frame = frame_of(ds)
    ds.PixelData = encapsulate([frame[: int(share * len(frame))] + ending])
    with pytest.raises(XRayError, match="film.dcm: "):
        load(ds)


def tiled(pixels: np.ndarray) -> bytes:
    """Return JPEG 2000 of two tiles, one above the other: two films' tile-parts in one codestream."""
    half = pixels.shape[0] // 2
    parts = [imagecodecs.jpeg2k_encode(part, level=0, codecformat="j2k") for part in (pixels[:half], pixels[half:])]
    starts = [part.index(codestream.SOT) for part in parts]
    head = parts[0][:12] + struct.pack(">I", pixels.shape[0]) + parts[0][16 : starts[0]]
    second = bytearray(parts[1][starts[1] : -2])
    second[4:6] = struct.pack(">H", 1)
    return head + parts[0][starts[0] : -2] + bytes(second) + EOI


def test_a_missing_tile_is_not_black(load, phantom_pixels):
    """The decoder leaves tiles that are not there black, and says nothing."""
    frame = tiled(phantom_pixels)
    good = load(make(phantom_pixels))
    ds = compressed(phantom_pixels, frame, JPEG2000Lossless)
    np.testing.assert_array_equal(load(ds).image, good.image)
    ds.Rows += 3
    np.testing.assert_array_equal(load(ds).image, good.image)
    second = frame.index(codestream.SOT, frame.index(codestream.SOT) + 2)
    for ending in (b"", EOI):
        with pytest.raises(XRayError, match="1 of 2 tiles are there"):
            load(compressed(phantom_pixels, frame[:second] + ending, JPEG2000Lossless))


# -------------------------------------------------------------------------------------- frames are not counted right


@names
@pytest.mark.parametrize("said", [None, 1, 0, 2, 5])
def test_compressed_frames_are_counted(film, load, syntax, said):
    ds = film(syntax)
    good = load(ds)
    frame = frame_of(ds)
    ds.PixelData = encapsulate([frame, frame, frame])
    if said is not None:
        ds.NumberOfFrames = said
    read = load(ds)
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, "First frame of 3 read (Number of Frames is")


def test_uncompressed_frames_that_are_not_announced_are_refused(load, phantom_pixels):
    """They look the same as the rest of a film whose header is wrong, which would be cut or sheared."""
    rows, columns = phantom_pixels.shape
    three = np.stack([phantom_pixels] * 3)
    good = load(make(phantom_pixels))
    announced = make(phantom_pixels, PixelData=three.tobytes(), NumberOfFrames=3)
    np.testing.assert_array_equal(load(announced).image, good.image)
    wrong = [
        make(phantom_pixels, PixelData=three.tobytes()),
        make(phantom_pixels, Rows=rows // 2),
        make(phantom_pixels, Columns=columns // 2),
        make(phantom_pixels, BitsAllocated=8, BitsStored=8, HighBit=7),
        make(np.repeat(phantom_pixels[:, :, None], 3, -1).astype(np.uint8), bits=8),
    ]
    for ds in wrong:
        with pytest.raises(XRayError, match="Number of Frames is missing: which of them is wrong cannot be told"):
            load(ds)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless])
def test_samples_that_contradict_the_codestream_are_noted(film, load, syntax):
    ds = film(syntax)
    good = load(ds)
    ds.SamplesPerPixel = 3
    read = load(ds)
    np.testing.assert_array_equal(read.image, good.image)
    assert notes_about(read, "Samples per Pixel is 3, but the compressed image has 1")
