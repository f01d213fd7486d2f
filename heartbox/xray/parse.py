"""The bytes of a DICOM file -> its header and its pixel element, however the file bends the standard.

Knows the encoding of files (PS3.5, PS3.10); nothing of pixels or grey levels.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import NamedTuple

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from heartbox.xray.errors import XRayError
from heartbox.xray.header import text

MAX_INFLATED_BYTES = 2**27  # deflate packs up to 1000 : 1, so its result is bounded too
MAX_HEADER_BYTES = 6 * 2**20  # before the pixels; overlays of a large film take some of it
MAX_ELEMENTS = 20_000
PIXEL_TAG = 0x7FE00010
PIXEL_DATA = (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")  # that tag, either byte order
FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")  # a dataset without preamble begins with group 2 or 8
# Elements in the place of Pixel Data (PS3.3 C.7.6.24, C.7.6.25; PS3.5 A.6).
OTHER_PIXELS = {
    "FloatPixelData": "the pixels of this DICOM file are floating-point numbers, which are not read",
    "DoubleFloatPixelData": "the pixels of this DICOM file are floating-point numbers, which are not read",
    "PixelDataProviderURL": "the pixels of this DICOM file lie on a server",
}
ITEM = b"\xfe\xff\0\xe0"
UNDEFINED = 0xFFFFFFFF


class PixelElement(NamedTuple):
    """The value of the Pixel Data element.

    Attributes
    ----------
    value : bytes
        As stored; for encapsulated pixels (PS3.5 A.4) the items and what follows them.
    is_encapsulated : bool
        Whether the value is a sequence of fragments.
    is_little_endian : bool
        Byte order of uncompressed words.
    is_words : bool
        Whether bytes are stored in words of two (OW), which matters for 8 bits in big endian (PS3.5 A.3).
    """

    value: bytes
    is_encapsulated: bool
    is_little_endian: bool
    is_words: bool


def parse(data: bytes, notes: list[str]) -> tuple[Dataset, PixelElement]:
    """Split a file into its header, with a transfer syntax set, and its pixels.

    Parameters
    ----------
    data : bytes
        The whole file.
    notes : list of str
        What had to be assumed is added here.

    Raises
    ------
    XRayError
        If this is not a DICOM file, or it holds no pixels.
    """
    if data[:4] == b"DICM":  # the preamble is missing
        data = bytes(128) + data
    start = 132 if data[128:132] == b"DICM" else 0
    if start == 0 and data[:2] not in FIRST_GROUPS:
        # Text and other formats begin otherwise.
        raise XRayError(
            "this is not a DICOM, PNG, JPEG or TIFF file. Name an X-ray in one of these formats; unpack an "
            "archive first; for a .npy file, give the array (numpy.load)."
        )
    stream = io.BytesIO(data)
    stream.seek(start)
    # Group 2 is explicit little endian, whatever follows (PS3.10 7.1).
    meta = FileMetaDataset(read_dataset(stream, False, True, stop_when=_stop_when(lambda tag: tag >> 16 != 2)))
    syntax = text(meta, "TransferSyntaxUID", upper=False)
    is_deflated = syntax == DeflatedExplicitVRLittleEndian and not _is_plain(data[stream.tell() :])
    if is_deflated:
        data = _inflate(data[stream.tell() :])
        stream = io.BytesIO(data)
    elif len(data) > MAX_HEADER_BYTES and not any(tag in data[:MAX_HEADER_BYTES] for tag in PIXEL_DATA):
        raise XRayError(f"no pixels in its first {MAX_HEADER_BYTES // 2**20} MiB. Name an image file.")
    syntax = _checked_syntax(syntax, data[stream.tell() : stream.tell() + 6], is_deflated, notes)
    header = read_dataset(
        stream,
        syntax == ImplicitVRLittleEndian,
        syntax != ExplicitVRBigEndian,
        stop_when=_stop_when(lambda tag: tag == PIXEL_TAG),
    )
    header.file_meta = meta
    meta.TransferSyntaxUID = syntax
    pixels = _pixel_element(data, stream.tell(), syntax != ExplicitVRBigEndian)
    if pixels is None:
        what = header.SOPClassUID.name if "SOPClassUID" in header else "kind unknown"
        if elsewhere := next((said for keyword, said in OTHER_PIXELS.items() if keyword in header), ""):
            raise XRayError(f"{elsewhere} ({what}). Export the image with its pixels, as grey of 8 to 16 bits.")
        raise XRayError(
            f"this DICOM file holds no pixels ({what}), or it is cut off. Name an image file, or fetch it again."
        )
    return header, pixels


def _stop_when(reached: Callable[[int], bool]) -> Callable[..., bool]:
    """Return what stops the parser at an element, and where elements have no end."""
    seen = 0

    def stop(tag: int, vr: str | None, length: int) -> bool:
        nonlocal seen
        seen += 1
        if seen > MAX_ELEMENTS:
            raise XRayError(f"more than {MAX_ELEMENTS} header elements: damaged. Fetch or export it again.")
        return reached(tag)

    return stop


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise XRayError(
            f"the deflated file unpacks to more than {MAX_INFLATED_BYTES // 2**20} MiB: too large. "
            "Save it uncompressed, or smaller."
        )
    return inflated


def _guess_syntax(first: bytes) -> UID:
    """Tell by a dataset's first six bytes how it is encoded: its group is small, its VR two capitals."""
    if first[:1] == b"\0" and first[1:2] != b"\0":
        return ExplicitVRBigEndian
    return ExplicitVRLittleEndian if _is_vr(first[4:6]) else ImplicitVRLittleEndian


def _is_plain(data: bytes) -> bool:
    """Tell whether data that should be deflated begin as an explicit dataset does."""
    return data[:2] in FIRST_GROUPS and _is_vr(data[4:6])


def _checked_syntax(said: str, first: bytes, is_deflated: bool, notes: list[str]) -> UID:
    """Return the transfer syntax, by a dataset's first six bytes where the file names none or one that is not true."""
    guessed, said = _guess_syntax(first), UID(said)
    if not said:
        notes.append(f"The file names no transfer syntax; {guessed.name} was taken.")
        return guessed
    other_order = first[:2] in FIRST_GROUPS and (said == ExplicitVRBigEndian) != (guessed == ExplicitVRBigEndian)
    if other_order or (said == DeflatedExplicitVRLittleEndian and not is_deflated):
        notes.append(f"The file says that it is {said.name}, and is not; {guessed.name} was taken.")
        return guessed
    return said


def _is_vr(two: bytes) -> bool:
    return len(two) == 2 and b"AA" <= two <= b"ZZ" and b"A" <= two[1:] <= b"Z"


def _pixel_element(data: bytes, at: int, little: bool) -> PixelElement | None:
    """Read the pixel element at a position; None where there is none. A length beyond the end of the file is cut."""
    if data[at : at + 4] != PIXEL_DATA[0 if little else 1]:
        return None
    order = "little" if little else "big"
    if not _is_vr(data[at + 4 : at + 6]):
        length, start = int.from_bytes(data[at + 4 : at + 8], order), at + 8
    elif data[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"OF", b"OD", b"OL", b"OV"):
        length, start = int.from_bytes(data[at + 8 : at + 12], order), at + 12
    else:
        length, start = int.from_bytes(data[at + 6 : at + 8], order), at + 8
    value = data[start:] if length == UNDEFINED else data[start : start + length]
    is_words = data[at + 4 : at + 6] != b"OB"
    return PixelElement(value, length == UNDEFINED or value.startswith(ITEM), little, is_words)
