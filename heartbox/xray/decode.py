"""One frame's codestream -> the values it stores, by decoders that cannot end the process.

imagecodecs (libjpeg-turbo, CharLS, OpenJPEG) is asked directly, with nothing but the codestream, and pydicom for RLE,
which it decodes in Python. GDCM, which pydicom would ask, believes the header instead and throws in C++ where the two
contradict each other: the whole process ends. Which transfer syntax holds which kind of codestream is in
:mod:`heartbox.xray.stored` (``KINDS``). Knows codestreams; no headers and no grey levels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import RLELossless

from heartbox.xray.codestream import Codestream
from heartbox.xray.damage import SURPLUS_FOUND, has_surplus, is_cut_off
from heartbox.xray.errors import XRayError

CUT_OFF = "the compressed pixels are cut off. Fetch the file again."


def decode(stream: Codestream) -> tuple[np.ndarray, str]:
    """Decode a codestream whose size has been checked.

    Parameters
    ----------
    stream : Codestream
        Its rows and columns are the header's, also for RLE.

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
        return _rle(stream), ""
    decoder = _decoder(stream)
    pixels = decoder(stream.data)
    if pixels.shape[:1] == (3,) and pixels.shape[1:] == (stream.rows, stream.columns):
        pixels = np.moveaxis(pixels, 0, -1)  # JPEG-LS may keep each component apart
    expected = (stream.rows, stream.columns) + ((3,) if stream.components == 3 else ())
    if pixels.shape != expected:
        raise XRayError(f"the compressed pixels decode to {pixels.shape}, not {expected}. Export the file again.")
    return pixels, _damage(stream, pixels, decoder)


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


def _damage(stream: Codestream, pixels: np.ndarray, decoder: Callable[[bytes], np.ndarray]) -> str:
    """Look for what a JPEG's decoder does not raise; the others do."""
    if stream.kind not in ("JPEG", "JPEG Lossless"):
        return ""
    if stream.kind == "JPEG" and stream.precision == 8:
        # OpenCV's decoder says on standard error what it had to make up, see damage.decoder_messages.
        cv2.imdecode(np.frombuffer(stream.data, np.uint8), cv2.IMREAD_UNCHANGED)
        return ""
    if is_cut_off(stream.data, pixels, decoder):
        raise XRayError(CUT_OFF)
    return SURPLUS_FOUND if has_surplus(stream.data, pixels, decoder) else ""


def _rle(stream: Codestream) -> np.ndarray:
    """Decode RLE by what its header of segments says (PS3.5 G)."""
    colour = stream.components == 3
    pixels, _ = get_decoder(RLELossless).as_array(
        encapsulate([stream.data]),
        index=0,
        raw=True,
        transfer_syntax_uid=RLELossless,
        rows=stream.rows,
        columns=stream.columns,
        number_of_frames=1,
        samples_per_pixel=stream.components,
        photometric_interpretation="RGB" if colour else "MONOCHROME2",
        bits_allocated=stream.precision,
        bits_stored=stream.precision,
        pixel_representation=0,
        planar_configuration=1 if colour else 0,
        pixel_keyword="PixelData",
    )
    return pixels
