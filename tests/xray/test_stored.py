"""Header and pixels held against each other: bits, signs, components, sizes and compression."""

import struct
import sys

import numpy as np
import pytest
from films import RAMP, jpeg_film, make
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from heartbox.xray import stored
from heartbox.xray.errors import XRayError


def test_first_frame_of_several(load):
    frames = np.stack([RAMP, RAMP[:, ::-1], RAMP * 0])
    ds = make(RAMP, NumberOfFrames=3, PixelData=frames.tobytes())
    film = load(ds)
    np.testing.assert_allclose(film.image, RAMP / 4095, atol=1e-6)
    assert film.notes == ("First frame of 3 read. To have the others answered, save each as a file of its own.",)


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


def test_unknown_transfer_syntax(load):
    ds = make(RAMP)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    ds.PixelData = encapsulate([b"\0" * 20])
    ds["PixelData"].VR = "OB"
    with pytest.raises(XRayError, match="MPEG2.*cannot be decoded.*Convert"):
        load(ds)


def test_jpeg_with_a_forged_size_is_refused_before_decoding(load, monkeypatch):
    def forge(frame):
        at = frame.index(b"\xff\xc0")
        return frame[: at + 5] + struct.pack(">2H", 60_000, 60_000) + frame[at + 9 :]

    monkeypatch.setattr(stored, "decode", lambda _: pytest.fail("was decoded"))
    with pytest.raises(XRayError, match="60000 x 60000 where the header says 64 x 48"):
        load(jpeg_film(forge)[0])


def test_huge_claims_are_refused_before_decoding(load, monkeypatch):
    monkeypatch.setattr(stored, "decode", lambda _: pytest.fail("was decoded"))
    with pytest.raises(XRayError, match="60000 x 60000 pixels are more than"):
        load(make(RAMP, Rows=60_000, Columns=60_000))
    with pytest.raises(XRayError, match=r"cut off \(16 of 50000000 bytes\)"):
        load(make(RAMP, Rows=5000, Columns=5000))
    with pytest.raises(XRayError, match="no usable image size"):
        load(make(RAMP, Rows=0))


def test_no_decoder_names_the_package(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(XRayError, match="film.dcm: no decoder for JPEG is installed. Run: pip install imagecodecs"):
        load(jpeg_film()[0])


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


def test_jpeg_in_dicom(load):
    ds, smooth = jpeg_film()
    np.testing.assert_allclose(load(ds).image, smooth / smooth.max(), atol=0.03)
