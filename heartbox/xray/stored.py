"""Header and pixels, compared with each other -> the values that are stored, and what they mean.

A header may contradict its pixels in any element: about size, bits, sign, components or compression. Where the pixels
allow only one reading, they are followed, with a note; otherwise the contradiction is named and the file is refused.
Knows headers and codestreams; nothing of windows and tables.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import UID

from heartbox.xray.codestream import BEGINNINGS, CUT_OFF, Codestream, first_frame, read_codestream
from heartbox.xray.decode import decode
from heartbox.xray.errors import XRayError
from heartbox.xray.header import integer, text
from heartbox.xray.image import MAX_PIXELS, check_size
from heartbox.xray.parse import PixelElement
from heartbox.xray.rle import rle_size
from heartbox.xray.words import MOST_ODD, Words, odd_bits, padding, settled

GREY = ("MONOCHROME2", "MONOCHROME1")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
WIDTHS = (8, 16, 32)  # Bits Allocated that are read, and 1
# What each transfer syntax holds (PS3.6 A), by the end of its UID; others are named by their codestream alone.
KINDS = {
    "4.50": "JPEG",
    "4.51": "JPEG",
    "4.57": "JPEG Lossless",
    "4.70": "JPEG Lossless",
    "4.80": "JPEG-LS",
    "4.81": "JPEG-LS",
    "4.90": "JPEG 2000",
    "4.91": "JPEG 2000",
    "4.201": "JPEG 2000",
    "4.202": "JPEG 2000",
    "4.203": "JPEG 2000",
    "5": "RLE",
}


class StoredImage(NamedTuple):
    """Stored values, before any table, window or inversion.

    Attributes
    ----------
    values : ndarray
        (rows, columns), or (rows, columns, 3) in colour.
    photometric : str
        Photometric Interpretation that was followed: ``"MONOCHROME1"``, ``"MONOCHROME2"``, ``"RGB"`` or, where the
        first component is the grey, ``"YBR_FULL"``; ``"PALETTE COLOR"`` once its palette was applied.
    bits : int
        Bits that a value uses.
    padding : tuple of float, optional
        Lowest and highest value that frames the image (PS3.3 C.7.5.1.1.2).
    damage : str
        A sign of damage that may have cost no pixel; "" where there is none.
    """

    values: np.ndarray
    photometric: str
    bits: int
    padding: tuple[float, float] | None
    damage: str


def read_stored(header: Dataset, pixels: PixelElement, notes: list[str]) -> StoredImage:
    """Return the first frame's stored values.

    Parameters
    ----------
    header : Dataset
        With its transfer syntax.
    pixels : PixelElement
        From :func:`heartbox.xray.parse.parse`.
    notes : list of str
        What was decided is added here.

    Raises
    ------
    XRayError
        If the pixels are cut off, of a kind not known here, or contradict the header in a way that leaves more than
        one reading.
    """
    frames = integer(header, "NumberOfFrames")
    is_compressed = pixels.is_encapsulated or (
        pixels.value.startswith(BEGINNINGS) and len(pixels.value) < _bytes_of_a_frame(header)
    )
    damage = ""
    if is_compressed:
        frame, present = first_frame(pixels.value, frames) if pixels.is_encapsulated else (pixels.value, 1)
        stream, is_size_disputed = _checked_stream(header, frame, notes)
        photometric = _photometric(header, stream.components, stream.colour, notes)
        values, damage = decode(stream, is_size_disputed)
        if not stream.is_complete:
            if damage:
                raise XRayError(CUT_OFF)
            notes.append("The compressed pixels have no end marker, but none of them is missing.")
        found = _compressed_words(header, stream, values, notes)
    else:
        found, photometric = _native_words(header, pixels, notes)
        present = max(frames, 1)
    if frames > 1 or present > 1:
        differs = f" (Number of Frames is {frames or 'missing'})" if present != max(frames, 1) else ""
        notes.append(
            f"First frame of {present} read{differs}. To have the others answered, save each as a file of its own."
        )
    if found.words.ndim == 3:
        bits = found.stored if int(found.words.max()) < 2**found.stored else found.width
        return StoredImage(found.words, photometric, bits, None, damage)
    values = settled(header, found, notes)
    if photometric == PALETTE:
        values = apply_color_lut(values, header)[:, :, :3]
        return StoredImage(values, photometric, 8 * values.dtype.itemsize, None, damage)
    return StoredImage(values, photometric, found.stored, padding(header, found), damage)


def _photometric(header: Dataset, components: int, colour: str, notes: list[str]) -> str:
    """Return what the components are; refuse what contradicts their number and leaves more than one reading."""
    said = text(header, "PhotometricInterpretation")
    if components == 1:
        if said == PALETTE and "RedPaletteColorLookupTableDescriptor" in header:
            return said
        inverse = text(header, "PresentationLUTShape") == "INVERSE"  # which says the same (PS3.3 C.11.6)
        taken = said if said in GREY else "MONOCHROME1" if inverse else "MONOCHROME2"
    elif said in COLOUR:
        # The stream knows best whether an encoder converted its colours; what it does not say, the header does.
        return "YBR_FULL" if (colour or said[:3]) == "YBR" else "RGB"
    elif said in ("", "MONOCHROME2"):
        taken = "YBR_FULL" if colour == "YBR" else "RGB"
    else:
        raise XRayError(
            f"Photometric Interpretation is {said}, but a pixel has {components} components: which of the two is right "
            "cannot be told. Export the file again."
        )
    if taken != said:
        notes.append(
            f"Photometric Interpretation is {said or 'missing'}, and a pixel has {components} "
            f"component{'s' * (components > 1)}; {taken} was taken."
        )
    return taken


# ------------------------------------------------------------------------------------------ compressed pixels


def _checked_stream(header: Dataset, frame: bytes, notes: list[str]) -> tuple[Codestream, bool]:
    """Read what a codestream says about itself and compare it with the header, before anything is decoded.

    Return it, and whether the header gives another size.
    """
    syntax = UID(header.file_meta.TransferSyntaxUID)
    kind = KINDS.get(syntax.removeprefix("1.2.840.10008.1.2."))
    if not frame:
        raise XRayError(CUT_OFF)
    if kind is None and syntax.is_private is False and syntax.is_encapsulated and not frame.startswith(BEGINNINGS):
        raise XRayError(
            f"the transfer syntax {syntax.name} ({syntax}) cannot be decoded. "
            "Convert the file to Explicit VR Little Endian with a DICOM toolkit."
        )
    stream = read_codestream(frame)
    if kind != stream.kind and not (kind == "JPEG" and stream.kind == "JPEG Lossless"):
        notes.append(f"The pixels are compressed as {stream.kind}, though the header names {syntax.name}.")
    if stream.components not in (1, 3):
        raise XRayError(
            f"the compressed image has {stream.components} components; 1 (grey) and 3 (colour) are read. "
            "Export the file again, as grey."
        )
    if not stream.rows and stream.kind != "RLE":
        raise XRayError("the compressed image does not state its height. Export the file again.")
    if integer(header, "SamplesPerPixel") not in (0, stream.components):
        notes.append(
            f"Samples per Pixel is {integer(header, 'SamplesPerPixel')}, but the compressed image has "
            f"{stream.components}, which was taken."
        )
    return _checked_size(header, stream, notes)


def _checked_size(header: Dataset, stream: Codestream, notes: list[str]) -> tuple[Codestream, bool]:
    """Compare a codestream's size with the header's, and follow the codestream where it can be trusted."""
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    if stream.kind == "RLE":
        if rows > 0 and columns > 0:
            check_size(rows, columns)
        true_rows, true_columns = rle_size(stream.data, rows, columns)
        stream = dataclasses.replace(stream, rows=true_rows, columns=true_columns)
    size = f"{stream.rows} x {stream.columns}"
    if rows < 1 or columns < 1:
        notes.append(f"The header gives no usable size; {size} of the pixels was taken.")
    elif (stream.rows, stream.columns) != (rows, columns):
        if not stream.is_size_certain or stream.rows * stream.columns > MAX_PIXELS:
            raise XRayError(
                f"the compressed image is {size} where the header says {rows} x {columns}. Export the file again."
            )
        notes.append(f"Rows and Columns are {rows} and {columns}, but the compressed image is {size}; this was taken.")
    check_size(stream.rows, stream.columns)
    return stream, (stream.rows, stream.columns) != (rows, columns)


def _compressed_words(header: Dataset, stream: Codestream, values: np.ndarray, notes: list[str]) -> Words:
    """Compare the bits of a codestream with those of the header, and follow the codestream."""
    width = 8 * values.dtype.itemsize
    signed = integer(header, "PixelRepresentation") == 1
    if stream.is_signed != signed and stream.kind == "JPEG 2000":
        notes.append(
            f"The compressed values are {'' if stream.is_signed else 'un'}signed, though the header says otherwise; "
            "the header was followed."
        )
    words = values.view(f"u{values.dtype.itemsize}")
    if stream.is_signed:
        words = words & words.dtype.type(2**stream.precision - 1)
    said, stored = integer(header, "BitsStored"), stream.precision
    if 0 < said < stored and (
        values.ndim == 3 or odd_bits(header, Words(words, width, said, signed)).mean() <= MOST_ODD
    ):
        stored = said
    if said != stored:
        what = f"Bits Stored is {said}" if said else "Bits Stored is missing"
        notes.append(f"{what}, and the compressed image has {stream.precision} bits; these were taken.")
    signed = signed and (stream.is_signed or stored == (said or stored))
    return Words(words, width, stored, signed, is_compressed=True)


# ---------------------------------------------------------------------------------------- uncompressed pixels


def _bytes_of_a_frame(header: Dataset, samples: int = 0, allocated: int = 0) -> int:
    samples = samples or integer(header, "SamplesPerPixel") or 1
    allocated = allocated or integer(header, "BitsAllocated") or 8
    bits = integer(header, "Rows") * integer(header, "Columns") * samples * allocated
    if samples == 3 and text(header, "PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    return math.ceil(bits / 8)


def _native_words(header: Dataset, pixels: PixelElement, notes: list[str]) -> tuple[Words, str]:
    """Return uncompressed words and what they are, by the header and by their number."""
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    check_size(rows, columns)
    if UID(header.file_meta.TransferSyntaxUID).is_encapsulated:
        name = UID(header.file_meta.TransferSyntaxUID).name
        notes.append(f"The pixels are not compressed, though the header names {name}.")
    samples, allocated = _layout(header, len(pixels.value), notes)
    photometric = _photometric(header, samples, "", notes)
    needed = _bytes_of_a_frame(header, samples, allocated)
    _check_length(header, pixels.value, needed)
    raw = np.frombuffer(pixels.value, np.uint8, count=needed)
    order = "<" if pixels.is_little_endian else ">"
    if allocated == 1:
        words = np.unpackbits(raw, bitorder="little")
    elif allocated == 8 and not pixels.is_little_endian and pixels.is_words and needed % 2 == 0:
        words = raw.reshape(-1, 2)[:, ::-1].reshape(-1)
    else:
        words = raw.view(f"{order}u{allocated // 8}")
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    if samples == 1:
        words = words[: rows * columns].reshape(rows, columns)
    elif text(header, "PhotometricInterpretation") == "YBR_FULL_422":
        pairs = words.reshape(-1, 4)  # Y Y Cb Cr: two pixels share their colour (PS3.3 C.7.6.3.1.2)
        chroma = np.repeat(pairs[:, 2:], 2, axis=0)
        words = np.column_stack([pairs[:, :2].reshape(-1), chroma]).reshape(rows, columns, 3)
    elif integer(header, "PlanarConfiguration") == 1:
        words = np.moveaxis(words.reshape(3, rows, columns), 0, -1)
    else:
        if "PlanarConfiguration" not in header:
            notes.append("Planar Configuration is missing; the colours were taken to lie pixel by pixel.")
        words = words.reshape(rows, columns, 3)
    signed = integer(header, "PixelRepresentation") == 1 and allocated > 1
    return Words(words, allocated, _bits_stored(header, allocated, notes), signed), photometric


def _layout(header: Dataset, length: int, notes: list[str]) -> tuple[int, int]:
    """Return components a pixel and bits a word; those of the header, unless the number of bytes shows otherwise."""
    photometric = text(header, "PhotometricInterpretation")
    said = integer(header, "SamplesPerPixel"), integer(header, "BitsAllocated")
    frames = max(integer(header, "NumberOfFrames"), 1)
    samples = said[0] or (3 if photometric in COLOUR else 1)
    allocated, stored = said[1], integer(header, "BitsStored")

    def fits(samples: int, allocated: int) -> bool:
        return length - frames * _bytes_of_a_frame(header, samples, allocated) in (0, 1)

    is_possible = samples in (1, 3) and allocated in (1, *WIDTHS) and stored <= allocated
    too_short = length < _bytes_of_a_frame(header, samples, allocated)
    if not is_possible or (too_short and not fits(samples, allocated)) or photometric in COLOUR and samples == 1:
        others = [(count, width) for count in (samples, 1, 3) if count in (1, 3) for width in (allocated, *WIDTHS)]
        for other in others:
            # Bits Stored is a second witness to the width.
            if other[1] in WIDTHS and other[1] >= stored and fits(*other):
                if other != said:
                    notes.append(
                        f"The header says {said[0] or 'nothing'} for Samples per Pixel and {said[1] or 'nothing'} for "
                        f"Bits Allocated; {other[0]} and {other[1]} were taken, by the length of the pixel data."
                    )
                return other
    if samples not in (1, 3) or allocated not in (1, *WIDTHS):
        raise XRayError(
            f"Samples per Pixel is {said[0] or 'missing'} and Bits Allocated {said[1] or 'missing'}: pixels of this "
            "kind are not read. Export the file again, as grey with 8 or 16 bits."
        )
    return samples, allocated


def _check_length(header: Dataset, value: bytes, needed: int) -> None:
    """Refuse pixels that are cut off, or too many for the header, whose size is then wrong."""
    if len(value) < needed:
        raise XRayError(f"the pixels are cut off ({len(value)} of {needed} bytes). Fetch the file again.")
    frames = max(integer(header, "NumberOfFrames"), 1)
    surplus = value[needed * frames :]
    a_row = needed // max(integer(header, "Rows"), 1)
    if len(surplus) < a_row or surplus.count(surplus[:1]) == len(surplus):
        return  # padding
    said = f"{integer(header, 'Rows')} x {integer(header, 'Columns')}"
    if len(value) % needed in (0, 1):
        # They may be frames as well as the other half of a film whose Rows are wrong, or the second bytes of its words.
        raise XRayError(
            f"the pixels are {len(value)} bytes, {len(value) // needed} times what {said} of the header make, and "
            f"Number of Frames is {integer(header, 'NumberOfFrames') or 'missing'}: which of them is wrong cannot be "
            "told. Export the file again."
        )
    raise XRayError(
        f"the pixels are {len(value)} bytes where {said} of the header make {needed * frames}, so the size in the "
        "header is wrong. Export the file again."
    )


def _bits_stored(header: Dataset, allocated: int, notes: list[str]) -> int:
    stored = integer(header, "BitsStored")
    if 0 < stored <= allocated:
        return stored
    high = integer(header, "HighBit") + 1
    taken = high if 1 < high <= allocated else allocated
    notes.append(f"Bits Stored is {stored or 'missing'}; {taken} bits were taken.")
    return taken
