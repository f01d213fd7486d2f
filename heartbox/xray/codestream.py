"""Compressed pixels -> one frame's codestream, and what the codestream says about itself.

A codestream carries its own size, number of components and precision, which a header may contradict. They are read
here before a decoder is asked, because decoders believe whatever they are told and allocate that much memory first.
Knows JPEG (ITU-T T.81), JPEG-LS (T.87), JPEG 2000 with its high-throughput form (T.800, T.814) and DICOM's RLE
(PS3.5 G); decodes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from heartbox.xray.errors import XRayError
from heartbox.xray.parse import ITEM

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SOT, SOT_BYTES = b"\xff\x90", 14  # a JPEG 2000 tile-part begins with this marker; the least length of one
RLE_HEADER = 64  # bytes
SOC_SIZ = b"\xff\x4f\xff\x51"  # a JPEG 2000 codestream begins with these two markers
JP2 = b"\0\0\0\x0cjP  "  # and a JP2 file, in which one may be wrapped, with this box
BEGINNINGS = (SOI, SOC_SIZ, JP2)
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 ... SOF15, JPEG-LS
MAX_SCANS = 200  # a progressive JPEG has ten or so; each costs the time of a whole image
MAX_TILES = 65_535  # T.800 A.4.2: a tile's number has 16 bits
CUT_OFF = "the compressed pixels are cut off. Fetch the file again."


@dataclass(frozen=True)
class Codestream:
    """One frame of compressed pixels, with what it says about itself.

    Attributes
    ----------
    data : bytes
        From its first marker to its last.
    kind : str
        ``"JPEG"``, ``"JPEG Lossless"``, ``"JPEG-LS"``, ``"JPEG 2000"`` or ``"RLE"``.
    rows, columns : int
        Its size; 0 for RLE, which does not say it.
    components : int
        Values a pixel.
    precision : int
        Bits a value.
    is_signed : bool
        Whether values are signed; only JPEG 2000 says so.
    colour : str
        What three components are: ``"RGB"``, ``"YBR"``, or ``""`` where it does not say.
    is_complete : bool
        Whether its end marker is there; `data` has one in any case.
    is_size_certain : bool
        Whether a wrong size would be noticed, here or by the decoder. JPEG 2000 decodes to whatever size it states.
    """

    data: bytes
    kind: str
    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool = False
    colour: str = ""
    is_complete: bool = True
    is_size_certain: bool = True


def first_frame(value: bytes, frames: int) -> tuple[bytes, int]:
    """Return the first frame of encapsulated pixels, whatever the offset table says, and how many frames there are.

    Parameters
    ----------
    value : bytes
        Items: an offset table, which may be missing, and fragments. The delimiter at the end may be missing too.
    frames : int
        As the header says; 0 or 1 for a single image.
    """
    fragments = list(_items(value))
    # The offset table is passed over: it is often wrong, and where a codestream begins can be seen. Its first entry
    # is 0, while RLE begins with its number of segments.
    if fragments and not fragments[0].startswith(BEGINNINGS) and fragments[0][:4] in (b"", bytes(4)):
        del fragments[0]
    if not fragments:
        return b"", 0
    if not fragments[0].startswith(BEGINNINGS):
        # RLE: a fragment is a frame (PS3.5 A.4.2), unless a single frame was cut into several all the same.
        if frames > 1 or all(_is_rle(fragment) for fragment in fragments):
            return fragments[0], len(fragments)
        return b"".join(fragments), 1
    starts = [i for i, fragment in enumerate(fragments) if fragment.startswith(BEGINNINGS)]
    return b"".join(fragments[: starts[1] if len(starts) > 1 else None]), len(starts)


def _items(value: bytes) -> Iterator[bytes]:
    """Yield the values of items until the delimiter, the end, or whatever else is no item."""
    at = 0
    while value[at : at + 4] == ITEM:
        length = int.from_bytes(value[at + 4 : at + 8], "little")
        yield value[at + 8 : at + 8 + length]
        at += 8 + length


def read_codestream(frame: bytes) -> Codestream:
    """Say what a compressed frame holds, by its markers.

    Raises
    ------
    XRayError
        If it is of a kind not known here, or its markers make no sense.
    """
    try:
        if frame.startswith(SOI):
            return _jpeg(frame)
        if frame.startswith((SOC_SIZ, JP2)):
            return _jpeg2000(frame[max(frame.find(SOC_SIZ), 0) :])
        return _rle(frame)
    except (struct.error, IndexError):
        raise XRayError("the compressed pixels are cut off or damaged at the start. Fetch the file again.") from None


def _segments(frame: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield (marker, position, segment without its length) until image data begins."""
    while True:
        if frame[at] != 0xFF:
            raise XRayError("the compressed pixels are damaged: a marker is missing. Fetch or export the file again.")
        marker = frame[at + 1]
        if marker == 0xFF:  # fill bytes may precede a marker (T.81 B.1.1.2)
            at += 1
            continue
        length = struct.unpack(">H", frame[at + 2 : at + 4])[0]
        yield marker, at, frame[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)


def _jpeg(frame: bytes) -> Codestream:
    """Read a JPEG's or JPEG-LS's frame header (T.81 B.2.2) and who its components are."""
    found, colour, scan = None, "", 0
    for marker, at, segment in _segments(frame, 2):
        if marker in FRAME_MARKERS:
            precision, rows, columns, components = struct.unpack(">BHHB", segment[:6])
            found = marker, precision, rows, columns, components, segment[6::3][:components]
        elif marker == 0xE0 and segment.startswith(b"JFIF"):
            colour = "YBR"
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            colour = "YBR" if segment[11] == 1 else "RGB"
        elif marker == 0xDA:
            scan = at
            break
        elif marker == 0xD9:
            break
    if found is None or not scan:
        raise XRayError("the compressed pixels have no image in them. Fetch or export the file again.")
    marker, precision, rows, columns, components, names = found
    if frame.count(b"\xff\xda", scan) > MAX_SCANS:
        raise XRayError(f"the compressed pixels have more than {MAX_SCANS} scans: damaged. Export the file again.")
    end = frame.rfind(EOI, scan)  # what follows the end marker is padding
    if end < 0 and frame.endswith(bytes(2)):
        frame = frame.rstrip(b"\0") + b"\0"  # as does what follows the last data; a zero may belong to them
    kind = {0xC3: "JPEG Lossless", 0xF7: "JPEG-LS"}.get(marker, "JPEG")
    if names == b"RGB":
        colour = "RGB"
    elif kind != "JPEG":
        colour = ""  # a JFIF or Adobe marker speaks of lossy JPEG
    complete = end > 0
    data = frame[: end + 2] if complete else frame + EOI
    return Codestream(data, kind, rows, columns, components, precision, colour=colour, is_complete=complete)


def _jpeg2000(frame: bytes) -> Codestream:
    """Read the size marker (T.800 A.5.1), and whether components were transformed from RGB (A.6.1)."""
    numbers = struct.unpack(">HH8IH", frame[4:42])
    x_end, y_end, x_start, y_start, tile_x, tile_y, tile_x_start, tile_y_start, components = numbers[2:]
    rows, columns = y_end - y_start, x_end - x_start
    if tile_x < 1 or tile_y < 1:
        raise XRayError("the compressed pixels claim tiles of size zero: damaged. Export the file again.")
    tiles = -(-max(x_end - tile_x_start, 0) // tile_x) * -(-max(y_end - tile_y_start, 0) // tile_y)
    if tiles > MAX_TILES:
        raise XRayError(f"the compressed pixels claim {tiles} tiles: damaged. Export the file again.")
    depths = [frame[42 + 3 * i : 45 + 3 * i] for i in range(min(components, 3))]
    if any(depth != depths[0] for depth in depths) or depths[0][1:] != b"\x01\x01":
        raise XRayError("the components of the compressed image differ in size or depth. Export the file again.")
    transformed, tile_part = False, 0
    for marker, at, segment in _segments(frame, 2):
        if marker == 0x90:  # SOT: a tile begins
            tile_part = at
            break
        transformed |= marker == 0x52 and segment[4] > 0
    present, end = _tiles(frame, tile_part)
    if present < tiles:
        raise XRayError(f"the compressed pixels are cut off: {present} of {tiles} tiles are there. Fetch it again.")
    depth = depths[0][0]
    complete = frame[end : end + 2] == EOI
    return Codestream(
        frame[:end] + EOI,
        "JPEG 2000",
        rows,
        columns,
        components,
        (depth & 0x7F) + 1,
        is_signed=bool(depth & 0x80),
        colour="RGB" if transformed else "",
        is_complete=complete,
        # The number of tiles, or that a single tile is as large as the image, is a second witness to the size.
        is_size_certain=(x_start, y_start) == (tile_x_start, tile_y_start)
        and (tiles > 1 or (tile_x, tile_y) == (columns, rows)),
    )


def _tiles(frame: bytes, at: int) -> tuple[int, int]:
    """Count the tiles from the first tile-part on (T.800 A.4.2); return their number and where the last one ends."""
    found = set()
    last = frame.rfind(EOI, at)
    while frame[at : at + 2] == SOT:
        tile, length = struct.unpack(">HI", frame[at + 4 : at + 10])
        found.add(tile)
        # A length of 0 is allowed for the last one, which ends where the codestream does.
        at = at + length if length >= SOT_BYTES else max(last, 0) or len(frame)
    # Lengths that lead elsewhere are left to the decoder.
    return len(found), last if last > 0 and frame[at : at + 2] != EOI else min(at, len(frame))


def _is_rle(fragment: bytes) -> bool:
    """Tell whether a fragment begins with the header of RLE (PS3.5 G.5): the number of segments, and where they are."""
    if len(fragment) <= RLE_HEADER:
        return False
    count, *offsets = struct.unpack("<16I", fragment[:RLE_HEADER])
    used = offsets[:count]
    return 1 <= count <= 15 and used[0] == RLE_HEADER and used == sorted(used) and used[-1] < len(fragment)


def _rle(frame: bytes) -> Codestream:
    if not _is_rle(frame):
        raise XRayError(
            "the compressed pixels are of a kind not known here (JPEG, JPEG-LS, JPEG 2000, RLE), or damaged. "
            "Convert the file to Explicit VR Little Endian with a DICOM toolkit."
        )
    # A segment is one byte of one component: 1 and 2 are grey of 8 and 16 bits, 3 and 6 are colour.
    count = frame[0]
    components, width = {1: (1, 8), 2: (1, 16), 3: (3, 8), 4: (1, 32), 6: (3, 16)}.get(count, (count, 8))
    return Codestream(frame, "RLE", 0, 0, components, width)
