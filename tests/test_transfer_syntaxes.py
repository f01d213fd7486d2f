"""Every transfer syntax that a chest X-ray comes in gives the same image as the uncompressed film.

The films are encoded here: by pydicom and its plugins where these can, by imagecodecs where they only decode.
"""

import functools
import io
import sys

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from heartbox.phantom import write_phantoms
from heartbox.xray import XRayError, load_xray

UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
BY_PYDICOM = (RLELossless, JPEGLSLossless, JPEG2000Lossless)
# What may differ in the image, in [0, 1]: nothing for what is lossless.
ENCODERS = {
    JPEGBaseline8Bit: (8, functools.partial(imagecodecs.jpeg_encode, level=95), 0.03),
    JPEGExtended12Bit: (12, functools.partial(imagecodecs.jpeg_encode, level=95, bitspersample=12), 0.03),
    JPEGLossless: (12, functools.partial(imagecodecs.jpeg_encode, lossless=True, predictor=4, bitspersample=12), 0),
    JPEGLosslessSV1: (12, functools.partial(imagecodecs.jpeg_encode, lossless=True, predictor=1, bitspersample=12), 0),
    JPEGLSNearLossless: (12, functools.partial(imagecodecs.jpegls_encode, level=4), 0.003),
    JPEG2000: (12, functools.partial(imagecodecs.jpeg2k_encode, level=60, codecformat="j2k", bitspersample=12), 0.03),
    HTJ2K: (16, functools.partial(imagecodecs.htj2k_encode, level=0.005, reversible=False), 0.03),
    HTJ2KLossless: (16, functools.partial(imagecodecs.htj2k_encode, reversible=True), 0),
    HTJ2KLosslessRPCL: (16, functools.partial(imagecodecs.htj2k_encode, reversible=True), 0),
}


@pytest.fixture(scope="session")
def phantom_pixels(tmp_path_factory) -> np.ndarray:
    """Return the stored values of one phantom film, 12 bit, (rows, columns) and not square."""
    folder = tmp_path_factory.mktemp("syntaxes")
    row = write_phantoms(folder, count=1, size=256, progress=False).iloc[0]
    film = pydicom.dcmread(folder / "stage_2_train_images" / f"{row['name']}.dcm")
    pixels = film.pixel_array.astype(np.float64)[:, 8:-8]
    pixels -= pixels.min()
    return np.rint(pixels / pixels.max() * 4095).astype(np.uint16)


def at_depth(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Return 12-bit values as values of 8, 12 or 16 bits."""
    return {8: (pixels >> 4).astype(np.uint8), 12: pixels, 16: pixels << 4}[bits]


def film_of(pixels: np.ndarray, bits: int) -> pydicom.Dataset:
    film = pydicom.Dataset()
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = film.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    film.Modality, film.PhotometricInterpretation, film.SamplesPerPixel = "DX", "MONOCHROME2", 1
    film.Rows, film.Columns = pixels.shape
    film.BitsAllocated, film.BitsStored, film.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    film.PixelRepresentation = 0
    film.PixelData = pixels.tobytes()
    film["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    # A window over the whole range, so that a lossy extreme does not stretch the others.
    film.WindowCenter, film.WindowWidth, film.VOILUTFunction = (2**bits - 1) / 2, 2**bits - 1, "LINEAR_EXACT"
    return film


def encoded(pixels: np.ndarray, syntax: pydicom.uid.UID) -> tuple[bytes, int, float]:
    """Return a file in that transfer syntax, the bits of its samples and how far the image may be off."""
    bits, encode, tolerance = ENCODERS.get(syntax, (12, None, 0))
    stored = at_depth(pixels, bits)
    film = film_of(stored, bits)
    if syntax in BY_PYDICOM:
        film.compress(syntax, generate_instance_uid=False)
    elif encode:
        film.PixelData = encapsulate([encode(stored)])
        film["PixelData"].VR = "OB"
        film.file_meta.TransferSyntaxUID = syntax
    else:
        film.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            film.PixelData = stored.astype(">u2").tobytes()
    stream = io.BytesIO()
    film.save_as(stream, enforce_file_format=True)
    return stream.getvalue(), bits, tolerance


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *BY_PYDICOM, *ENCODERS], ids=lambda syntax: syntax.name)
def test_the_image_is_that_of_the_uncompressed_film(phantom_pixels, tmp_path, syntax):
    data, bits, tolerance = encoded(phantom_pixels, syntax)
    (tmp_path / "film.dcm").write_bytes(data)
    film = load_xray(tmp_path / "film.dcm")
    assert film.transfer_syntax == syntax.name
    assert film.bits_stored == bits
    expected = at_depth(phantom_pixels, bits) / (2**bits - 1)
    assert film.image.shape == expected.shape
    difference = np.abs(film.image - expected).max()
    assert difference <= max(tolerance, 1e-6)
    if tolerance:
        assert difference > 1e-4  # really lossy: the file is what its syntax says


def test_without_the_decoder_of_twelve_bits_its_package_is_named(phantom_pixels, tmp_path, monkeypatch):
    (tmp_path / "film.dcm").write_bytes(encoded(phantom_pixels, JPEGExtended12Bit)[0])
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(XRayError, match=r"film.dcm: no decoder for JPEG Extended.*pip install imagecodecs"):
        load_xray(tmp_path / "film.dcm")
