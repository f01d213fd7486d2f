"""PNG, JPEG and TIFF -> an X-ray, bone taken to be bright.

Knows picture formats; no DICOM.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from heartbox.xray.errors import XRayError, one_line
from heartbox.xray.image import XRay, check_size
from heartbox.xray.lut import stretch


def read_picture(path: Path, data: bytes) -> XRay:
    """Read a PNG, JPEG or TIFF; 8 bit, 16 bit or float, grey or colour, bone taken to be bright."""
    notes = []
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as header:
            kind = "JPEG" if header.format == "MPO" else header.format
            check_size(path, header.height, header.width)
            frames = getattr(header, "n_frames", 1)
            turned = header.getexif().get(0x0112, 1) not in (0, 1)
            white_is_zero = kind == "TIFF" and header.tag_v2.get(262) == 0
            # OpenCV 4 fills what a cut-off JPEG lacks with grey and says nothing; Pillow refuses it.
            header.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise XRayError(
            f"{path}: the picture is cut off or damaged ({one_line(error)}). Fetch or export it again."
        ) from error
    except Image.DecompressionBombError as error:
        raise XRayError(f"{path}: the picture claims too many pixels ({one_line(error)}). Shrink it.") from error
    # OpenCV keeps 16 bits of colour where Pillow drops to 8; decoding from memory takes any file name.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise XRayError(
            f"{path}: this {kind} cannot be decoded: it is cut off or damaged (fetch it again), or of a kind that is "
            "not known here (save it as an 8- or 16-bit PNG)."
        )
    if frames > 1:
        notes.append(f"First page of {frames} read.")
    if turned:
        notes.append("The picture carries a rotation mark (EXIF), which was not applied: pixels are read as stored.")
    if pixels.ndim == 3:  # OpenCV's order is blue, green, red, alpha
        pixels, coloured = to_grey(pixels[:, :, 2::-1]) if pixels.shape[2] > 2 else (pixels[:, :, 0], False)
        if coloured:
            notes.append("The picture is in colour; it was turned to grey.")
    bits = 8 * pixels.dtype.itemsize
    peak = float(pixels.max())
    if pixels.dtype == np.uint8:
        image = pixels / np.float32(255)
    elif pixels.dtype == np.uint16:
        # A 12-bit film saved in 16 bits would come out black if it were divided by 65535.
        bits = next(bits for bits in (8, 10, 12, 14, 16) if peak < 2**bits)
        if bits < 16:
            notes.append(f"The 16-bit picture uses {bits} bits only and was scaled by them.")
        image = pixels / np.float32(2**bits - 1)
    else:
        if not np.isfinite(pixels).all():
            raise XRayError(f"{path}: the picture holds values that are no numbers. Save it as a 16-bit PNG.")
        image = pixels.astype(np.float32)
        if pixels.min() < 0 or peak > 1:
            image = stretch(pixels.astype(np.float64), pixels, notes)
    if white_is_zero and pixels.dtype != np.uint8:
        image = 1 - image  # the 8-bit decoder has turned it already
    return XRay(
        image=np.ascontiguousarray(image, dtype=np.float32),
        path=path,
        bits_stored=bits,
        transfer_syntax=kind,
        notes=tuple(notes),
    )


def to_grey(rgb: np.ndarray) -> tuple[np.ndarray, bool]:
    """Turn (rows, columns, 3) RGB to grey in the same type, and tell whether there was colour at all."""
    if (rgb[:, :, 0] == rgb[:, :, 1]).all() and (rgb[:, :, 0] == rgb[:, :, 2]).all():
        return rgb[:, :, 0], False
    grey = rgb @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    return (np.rint(grey) if rgb.dtype.kind in "ui" else grey).astype(rgb.dtype), True
