"""Pixel data of a DICOM file -> stored values, and what decoders say while they are at it.

Used by xray; knows datasets, and nothing of grey levels.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
from pydicom.uid import UID, JPEGExtended12Bit

from heartbox.xray.errors import XRayError
from heartbox.xray.header import integer, text

JPEG_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 ... SOF15, JPEG-LS
# What libjpeg, which decodes for GDCM, Pillow and OpenCV, says of data it could only guess at; and OpenJPEG.
DAMAGE = re.compile(
    "Corrupt JPEG data|Premature end|Unsupported marker|Bogus|Stream too short|Failed to decode|inconsistent"
)
MOST_ODD = 0.005  # of the pixels: stray ones, markers burnt in; a film read wrongly has far more
SURPLUS = re.compile(r"Corrupt JPEG data: \d{1,2} extraneous bytes before marker 0xd9")


# A process has one standard error, so one thread at a time listens to it.
_LISTENING = threading.Lock()


@contextlib.contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Catch what decoders written in C print on standard error, where Python cannot see it.

    They report damage there and nowhere else: the image that they return has grey or noise where data is missing.

    Yields
    ------
    list of str
        The lines about damage, filled in when the block is left. All others are dropped: remarks on colour profiles
        and the like.
    """
    with _LISTENING:
        yield from _listen()


def _listen() -> Iterator[list[str]]:
    lines: list[str] = []
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # a program without a standard error
        yield lines
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            said = caught.read().decode("utf-8", "replace").splitlines()
            lines += [line.strip() for line in said if DAMAGE.search(line)]


def decode(path: Path, header: Dataset, rows: int, columns: int, notes: list[str]) -> np.ndarray:
    """Return the first frame's stored values.

    Parameters
    ----------
    path : Path
        For messages.
    header : Dataset
        With its pixel data and transfer syntax.
    rows, columns : int
        As the header says.
    notes : list of str
        What was decided is added here.

    Returns
    -------
    ndarray
        (rows, columns), or (rows, columns, 3) as RGB.

    Raises
    ------
    XRayError
        If no decoder knows the transfer syntax, or the pixels are cut off or contradict the header.
    """
    syntax = UID(header.file_meta.TransferSyntaxUID)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise XRayError(
            f"{path}: the transfer syntax {syntax.name} ({syntax}) cannot be decoded. "
            "Convert the file to Explicit VR Little Endian with a DICOM toolkit."
        ) from None
    if not decoder.is_available:
        package = "pylibjpeg[openjpeg]" if "2000" in syntax.name or "2K" in syntax.name else "python-gdcm"
        raise XRayError(f'{path}: no decoder for {syntax.name} is installed. Run: pip install "{package}"')
    if not syntax.is_encapsulated:
        samples = integer(header, "SamplesPerPixel") or 1
        expected = math.ceil(rows * columns * samples * integer(header, "BitsAllocated") / 8)
        if text(header, "PhotometricInterpretation") == "YBR_FULL_422":
            expected = expected * 2 // 3
        if len(header.PixelData) < expected:
            raise XRayError(
                f"{path}: the pixels are cut off ({len(header.PixelData)} of {expected} bytes). Fetch the file again."
            )
        _check_spare_bits(path, header, rows, columns, notes)
    else:
        _check_codestream(path, header, rows, columns)
    if syntax == JPEGExtended12Bit and integer(header, "BitsStored") > 8:
        pixels = _decode_twelve_bits(path, header)
    else:
        pixels = pixel_array(header, index=0)
    if text(header, "PhotometricInterpretation") == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, header)[:, :, :3]
    if pixels.shape not in ((rows, columns), (rows, columns, 3)):
        raise XRayError(f"{path}: {pixels.shape} pixels where the header says {rows} x {columns}. Export it again.")
    frames = integer(header, "NumberOfFrames")
    if frames > 1:
        notes.append(f"First frame of {frames} read.")
    return pixels


def _check_spare_bits(path: Path, header: Dataset, rows: int, columns: int, notes: list[str]) -> None:
    """Refuse words whose values do not lie where the header says: decoders cut off what is above Bits Stored.

    A film stored with Bits Stored 10 that uses 12, or in the upper bits of its words (High Bit, as old files have it),
    comes out as noise. Overlays may lie in the spare bits (PS3.3 C.9.2, retired), a negative value has its sign in
    them, and padding may be any value: those are no fault.
    """
    allocated, stored = integer(header, "BitsAllocated"), integer(header, "BitsStored")
    if allocated != 16 or not 0 < stored < 16 or (integer(header, "SamplesPerPixel") or 1) != 1:
        return
    order = "<" if UID(header.file_meta.TransferSyntaxUID).is_little_endian else ">"
    words = np.frombuffer(header.PixelData, f"{order}u2", count=rows * columns)
    spare = words >> stored
    for group in range(0x6000, 0x6020, 2):
        place = header.get((group, 0x0102))
        if place is not None and isinstance(place.value, int) and stored <= place.value < 16:
            spare = spare & ~np.uint16(1 << (place.value - stored))
    odd = spare != 0
    if integer(header, "PixelRepresentation") == 1:
        odd &= spare != (1 << (16 - stored)) - 1
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in header:
            odd &= words != np.uint16(integer(header, keyword) & 0xFFFF)
    share = float(odd.mean())
    if share > MOST_ODD:
        raise XRayError(
            f"{path}: {share:.0%} of the pixels use bits above the {stored} of Bits Stored (High Bit is "
            f"{integer(header, 'HighBit')}): their grey values lie elsewhere than the header says. Export the file "
            "again, or mend Bits Stored and High Bit with a DICOM editor."
        )
    if odd.any():
        notes.append(f"{int(odd.sum())} pixels use bits above Bits Stored; these bits were left out.")


def _decode_twelve_bits(path: Path, header: Dataset) -> np.ndarray:
    """Decode the first frame of a JPEG with 12 bits, which those who decode for pydicom leave to a GPL library."""
    try:
        import imagecodecs
    except ImportError:
        raise XRayError(
            f"{path}: no decoder for JPEG Extended with 12 bits is installed. Run: pip install imagecodecs"
        ) from None
    frames = max(integer(header, "NumberOfFrames"), 1)
    return imagecodecs.jpeg_decode(next(generate_frames(header.PixelData, number_of_frames=frames)))


def _check_codestream(path: Path, header: Dataset, rows: int, columns: int) -> None:
    """Refuse compressed pixels that are cut off or contradict the header, which decoders do late or not at all.

    A JPEG decoder paints what is missing black and reports success, and one that meets a forged size
    allocates it first (ITU-T T.81 B.2 for the frame header, T.800 A.5 for JPEG 2000).
    """
    frames = max(integer(header, "NumberOfFrames"), 1)
    frame = next(generate_frames(header.PixelData, number_of_frames=frames), b"")
    size = None
    if frame.startswith(b"\xff\x4f\xff\x51"):
        x_end, y_end, x_start, y_start = struct.unpack(">4I", frame[8:24])
        size = y_end - y_start, x_end - x_start
    elif frame.startswith(b"\xff\xd8"):
        at = 2
        while at + 9 <= len(frame) and frame[at] == 0xFF and size is None:
            if frame[at + 1] in JPEG_FRAME_MARKERS:
                size = struct.unpack(">2H", frame[at + 5 : at + 9])
            # A marker may be preceded by fill bytes of 0xFF; else its segment's length follows it.
            at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        if b"\xff\xd9" not in frame[-64:]:
            raise XRayError(f"{path}: the compressed pixels are cut off. Fetch the file again.")
    if size not in (None, (rows, columns)):
        raise XRayError(
            f"{path}: the compressed image is {size[0]} x {size[1]} where the header says {rows} x {columns}. "
            "Export the file again."
        )
