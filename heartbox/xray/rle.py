"""DICOM's RLE (PS3.5 G): segments of packed bytes -> values, and the size that the runs in them tell.

The codestream does not state its size. But each row is packed by itself (PS3.5 G.3.1), so a run ends where a row does:
a header that gives another size is found out, and often the right one can be told. Knows segments; no headers and no
grey levels.
"""

from __future__ import annotations

import contextlib
import struct

import numpy as np

from heartbox.xray.codestream import CUT_OFF, Codestream
from heartbox.xray.errors import XRayError
from heartbox.xray.image import MAX_PIXELS


def decode_rle(stream: Codestream) -> np.ndarray:
    """Return the values of RLE whose size is known, see `rle_size`.

    Returns
    -------
    ndarray of unsigned integers, shape (rows, columns) or (rows, columns, 3)

    Raises
    ------
    XRayError
        If the pixels are cut off or damaged, or no decoder is installed.
    """
    pixels = stream.rows * stream.columns
    planes = [_unpack(segment)[:pixels] for segment in _segments(stream.data)]
    if any(len(plane) < pixels for plane in planes):
        raise XRayError(CUT_OFF)
    # The first segment of a component holds the highest byte of each value (PS3.5 G.2).
    words = np.stack(planes, axis=-1).view(f">u{len(planes) // stream.components}")
    words = words.astype(words.dtype.newbyteorder("="))
    shape = (stream.rows, stream.columns) + ((stream.components,) if stream.components > 1 else ())
    return words.reshape(shape)


def rle_size(data: bytes, rows: int, columns: int) -> tuple[int, int]:
    """Return the size of an image in RLE: the header's, unless its runs show another.

    Parameters
    ----------
    data : bytes
        The codestream.
    rows, columns : int
        As the header says; 0 where it says nothing.

    Raises
    ------
    XRayError
        If the header's size is wrong, and the right one cannot be told.
    """
    segments = _segments(data)
    planes = [_unpack(segment) for segment in segments]
    lengths = {len(plane) for plane in planes[:-1]} or {len(planes[-1])}
    # What follows the last segment is padding, and may read as a run.
    if len(lengths) > 1 or len(planes[-1]) < max(lengths):
        raise XRayError(CUT_OFF)
    pixels = lengths.pop()
    shortest = min(segments, key=len)

    def is_row_by_row(width: int) -> bool:
        return width > 0 and pixels % width == 0 and _runs_end_at(shortest, width, pixels)

    if pixels == rows * columns and not (is_row_by_row(rows) and not is_row_by_row(columns)):
        return rows, columns  # some encoders do not pack row by row: then the number of pixels has to do
    said = rows * columns
    is_padded = len(planes) == 1 and 0 < said < pixels and np.ptp(planes[0][said:]) == 0
    if is_padded and _runs_end_at(shortest, columns, said):
        return rows, columns
    candidates = [columns, rows, pixels // rows if rows > 0 else 0]
    widths = [width for width in candidates if is_row_by_row(width)]
    if not widths:
        raise XRayError(
            f"the compressed image has {pixels} pixels where the header says {rows} x {columns}, and its size cannot "
            "be told from them, or they are cut off. Fetch or export the file again."
        )
    # Where rows end, every second row ends too.
    return pixels // min(widths), min(widths)


def _segments(data: bytes) -> list[bytes]:
    """Split RLE by its header of 64 bytes (PS3.5 G.5): the number of segments and where they begin."""
    count, *offsets = struct.unpack("<16I", data[:64])
    ends = [*offsets[1:count], len(data)]
    return [data[start:end] for start, end in zip(offsets[:count], ends, strict=True)]


def _unpack(segment: bytes) -> np.ndarray:
    """Return a segment's bytes; a few of them can claim any number, so it is limited."""
    try:
        import imagecodecs
    except ImportError:
        raise XRayError("no decoder for RLE is installed. Run: pip install imagecodecs") from None
    # DICOM's RLE is PackBits (TIFF 6.0, section 9). imagecodecs decodes whole frames too, but crashes on damaged ones.
    for packed in (segment, segment[:-1]):  # a byte of padding may read as a run that lacks its value
        with contextlib.suppress(RuntimeError):
            return np.frombuffer(imagecodecs.packbits_decode(packed, out=MAX_PIXELS), np.uint8)
    raise XRayError("the compressed pixels are cut off or damaged. Fetch the file again.")


def _runs_end_at(segment: bytes, width: int, pixels: int) -> bool:
    """Tell whether runs end at each multiple of a width, up to a number of pixels (a multiple, too)."""
    at = done = 0
    following = width
    while at < len(segment) and done < pixels:
        head = segment[at]
        if head < 128:
            done += head + 1
            at += head + 2
        elif head > 128:
            done += 257 - head
            at += 2
        else:
            at += 1
        if done > following:
            return False
        if done == following:
            following += width
    return done == pixels
