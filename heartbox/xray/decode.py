"""One frame's codestream -> the values it stores, by decoders that cannot end the process.

imagecodecs (libjpeg-turbo, CharLS, OpenJPEG) is asked directly, with nothing but the codestream; RLE is in
:mod:`heartbox.xray.rle`. GDCM, which pydicom would ask, believes the header instead and throws in C++ where the two
contradict each other: the whole process ends. Which transfer syntax holds which kind of codestream is in
:mod:`heartbox.xray.stored` (``KINDS``). Knows codestreams; no headers and no grey levels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np

from heartbox.xray.codestream import CUT_OFF, Codestream
from heartbox.xray.damage import SURPLUS_FOUND, has_surplus, is_cut_off
from heartbox.xray.errors import XRayError
from heartbox.xray.rle import decode_rle


def decode(stream: Codestream, is_size_disputed: bool = False) -> tuple[np.ndarray, str]:
    """Decode a codestream whose size has been checked.

    Parameters
    ----------
    stream : Codestream
        With rows and columns, also for RLE.
    is_size_disputed : bool
        Whether the header gives another size: then the codestream has to hold exactly as many pixels as it states.

    Returns
    -------
    pixels : ndarray
        (rows, columns) or (rows, columns, 3), integers. Components are as stored: YBR is not converted, except where
        JPEG 2000 has its own transform.
    damage : str
        A sign of damage that may have cost no pixel; "" where there is none.

    Raises
    ------
    XRayError
        If the pixels are cut off or damaged, or no decoder is installed.
    """
    if stream.kind == "RLE":
        return decode_rle(stream), ""
    decoder = _decoder(stream)
    try:
        pixels = decoder(stream.data)
    except RuntimeError as error:
        if stream.is_complete:
            raise
        raise XRayError(CUT_OFF) from error
    if pixels.shape[:1] == (3,) and pixels.shape[1:] == (stream.rows, stream.columns):
        pixels = np.moveaxis(pixels, 0, -1)  # JPEG-LS may keep each component apart
    expected = (stream.rows, stream.columns) + ((3,) if stream.components == 3 else ())
    if pixels.shape != expected:
        raise XRayError(f"the compressed pixels decode to {pixels.shape}, not {expected}. Export the file again.")
    damage = _damage(stream, pixels, decoder, is_size_disputed)
    if damage and is_size_disputed:
        raise XRayError("the compressed pixels are damaged: their size is not what they say. Export the file again.")
    return pixels, damage


def _decoder(stream: Codestream) -> Callable[[bytes], np.ndarray]:
    try:
        import imagecodecs
    except ImportError:
        raise XRayError(f"no decoder for {stream.kind} is installed. Run: pip install imagecodecs") from None
    if stream.kind == "JPEG-LS":
        return imagecodecs.jpegls_decode
    if stream.kind == "JPEG 2000":
        return imagecodecs.jpeg2k_decode
    # Colour is given out as it is stored: the first component is the grey wanted here.
    colours = "GRAY" if stream.components == 1 else "RGB"
    return functools.partial(imagecodecs.jpeg8_decode, colorspace=colours, outcolorspace=colours)


def _damage(
    stream: Codestream, pixels: np.ndarray, decoder: Callable[[bytes], np.ndarray], is_size_disputed: bool
) -> str:
    """Look for what a JPEG's decoder does not raise; the others do."""
    if stream.kind not in ("JPEG", "JPEG Lossless"):
        return ""
    if stream.kind == "JPEG" and stream.precision == 8:
        # OpenCV's decoder says on standard error what it had to make up, see damage.decoder_messages.
        cv2.imdecode(np.frombuffer(stream.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if not is_size_disputed:
            return ""
    if is_cut_off(stream.data, pixels, decoder):
        raise XRayError(CUT_OFF)
    return SURPLUS_FOUND if has_surplus(stream.data, pixels, decoder) else ""
