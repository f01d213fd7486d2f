"""A DICOM file -> an X-ray: parsed defensively, decoded, brought to grey levels, described.

Knows headers; the pixels are decoded in :mod:`heartbox.xray.decode` and windowed in :mod:`heartbox.xray.lut`.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian as ImplicitLE

from heartbox.xray.decode import decode
from heartbox.xray.errors import XRayError
from heartbox.xray.header import integer, numbers, text
from heartbox.xray.image import XRay, check_size
from heartbox.xray.lut import grey_levels
from heartbox.xray.picture import to_grey

MAX_INFLATED_BYTES = 2**27  # deflate packs up to 1000 : 1, so its result is bounded too
MAX_HEADER_BYTES = 6 * 2**20  # before the pixels; overlays of a large film take some of it
MAX_ELEMENTS = 20_000
PIXEL_DATA = (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")  # the element's tag, either byte order
CHILD = 16  # years; the ratio of a heart to its chest falls with age, and the films at hand are of adults


def read_dicom(path: Path, data: bytes) -> XRay:
    """Read a DICOM file: stored values -> modality LUT -> VOI LUT or window -> polarity -> [0, 1]."""
    notes: list[str] = []
    header = _parse(path, data, notes)
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    check_size(path, rows, columns)
    stored = decode(path, header, rows, columns, notes)
    photometric = text(header, "PhotometricInterpretation")
    bits = integer(header, "BitsStored") or integer(header, "BitsAllocated")

    if stored.ndim == 3:  # a rendered picture: no modality, VOI or polarity step is defined for colour
        full = np.iinfo(stored.dtype).max if photometric == "PALETTE COLOR" else 2**bits - 1
        stored, coloured = to_grey(stored)
        if coloured:
            notes.append("The image is in colour; it was turned to grey.")
        image = np.clip(stored / np.float32(full), 0, 1)
    else:
        image = grey_levels(header, stored, notes)
        # PS3.3 C.7.6.3.1.2: in MONOCHROME1 the smallest value is shown white, after the VOI step. Where
        # Presentation LUT Shape is INVERSE (C.11.6), that is this same inversion, not a second one.
        shape = text(header, "PresentationLUTShape")
        if photometric == "MONOCHROME1":
            image = 1 - image
        if (photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
            notes.append(f"Presentation LUT Shape {shape} contradicts {photometric}; {photometric} was followed.")

    spacing, kind = _spacing(header, notes)
    _describe(header, notes)
    return XRay(
        image=np.ascontiguousarray(image, dtype=np.float32),
        path=path,
        pixel_spacing=spacing,
        spacing_kind=kind,
        view=_view(header),
        patient_id=text(header, "PatientID", upper=False),
        photometric=photometric,
        bits_stored=bits,
        transfer_syntax=header.file_meta.TransferSyntaxUID.name,
        orientation=_orientation(header),
        manufacturer=text(header, "Manufacturer", upper=False),
        modality=text(header, "Modality"),
        body_part=text(header, "BodyPartExamined"),
        notes=tuple(notes),
    )


def _until_pixels(path: Path) -> Callable[..., bool]:
    """Return what stops the parser behind the pixels, where files have junk, and where elements have no end."""
    seen: list[int] = []

    def stop(tag: int, vr: str | None, length: int) -> bool:
        if seen and seen[-1] == 0x7FE00010:
            return True
        seen.append(tag)
        if len(seen) > MAX_ELEMENTS:
            raise XRayError(f"{path}: more than {MAX_ELEMENTS} header elements: damaged. Fetch or export it again.")
        return False

    return stop


def _parse(path: Path, data: bytes, notes: list[str]) -> Dataset:
    """Return the dataset with a transfer syntax set; refuse what is no DICOM image."""
    if data[128:132] != b"DICM" and data[:2] not in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08"):
        # A dataset without preamble starts with an element of group 2 or 8; text and other formats do not.
        raise XRayError(
            f"{path}: this is no DICOM, PNG, JPEG or TIFF file. Name an X-ray in one of these formats; unpack an "
            "archive first, and of a .npy file give the array (numpy.load)."
        )
    if DeflatedExplicitVRLittleEndian.encode() in data[132:2048]:
        start = 144 + int.from_bytes(data[140:144], "little")  # PS3.10 7.1: after the file meta group
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflater.decompress(data[start:], MAX_INFLATED_BYTES)
        if inflater.unconsumed_tail:
            raise XRayError(f"{path}: the deflated file is too large when unpacked. Save it uncompressed.")
    elif len(data) > MAX_HEADER_BYTES and not any(tag in data[:MAX_HEADER_BYTES] for tag in PIXEL_DATA):
        raise XRayError(f"{path}: no pixels in its first {MAX_HEADER_BYTES // 2**20} MiB. Name an image file.")
    header = read_partial(io.BytesIO(data), _until_pixels(path), force=True)
    if "PixelData" not in header:
        what = header.SOPClassUID.name if "SOPClassUID" in header else "kind unknown"
        raise XRayError(
            f"{path}: this DICOM file holds no pixels ({what}), or it is cut off. "
            "Name an image file, or fetch it again."
        )
    if "TransferSyntaxUID" not in getattr(header, "file_meta", {}):
        implicit, little = header.original_encoding
        header.file_meta = getattr(header, "file_meta", None) or FileMetaDataset()
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = ImplicitLE if implicit else explicit
        notes.append(f"The file names no transfer syntax; {header.file_meta.TransferSyntaxUID.name} was taken.")
    return header


def _view(header: Dataset) -> str:
    """Return the view from View Position, else from the DX view code (PS3.3 C.8.11.5)."""
    view = text(header, "ViewPosition")
    if view:
        return view
    codes = header.get("ViewCodeSequence") or [Dataset()]
    meaning = text(codes[0], "CodeMeaning")
    letters = re.sub(r"[\s-]|projection|view", "", meaning, flags=re.IGNORECASE)
    return {"POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP"}.get(letters, meaning)


def _spacing(header: Dataset, notes: list[str]) -> tuple[tuple[float, float] | None, str | None]:
    """Return (row, column) millimetres and the element they come from (PS3.3 10.7.1)."""
    found = {}
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        pair = numbers(header, keyword)
        if len(pair) == 2 and min(pair) > 0:  # real files hold 0.000 too
            found[keyword] = (pair[0], pair[1])
    ratio = numbers(header, "PixelAspectRatio")
    ratio = ratio if len(ratio) == 2 and min(ratio) > 0 else [1.0, 1.0]
    kind = next(iter(found), None)
    spacing = found.get(kind)
    tall = spacing[0] / spacing[1] if spacing else ratio[0] / ratio[1]
    if abs(tall - 1) > 0.01:
        notes.append(f"Pixels are not square (height : width = {tall:.3g}); the image was not resampled.")
    if "ImagerPixelSpacing" in found and len(set(found.values())) == 1:
        notes.append(f"{kind} is measured at the detector: the heart is magnified, so true lengths are shorter.")
    return spacing, kind


def _describe(header: Dataset, notes: list[str]) -> None:
    """Add notes on what a radiographer would check first."""
    if text(header, "PresentationIntentType") == "FOR PROCESSING":
        notes.append("The image is raw (For Processing): its contrast is not what a viewer would show.")
    if text(header, "PatientPosition")[:2] in ("HF", "FF"):  # head or feet first, on a table (PS3.3 C.7.3.1.1.2)
        notes.append("The patient was lying: the heart reads wider than upright, and the ratio too high.")
    age = re.fullmatch(r"(\d{3})([DWMY])", text(header, "PatientAge"))  # PS3.5 6.2, value representation AS
    if age and (age[2] != "Y" or int(age[1]) < CHILD):
        notes.append(f"The patient is a child (Patient Age {age[0]}): hearts and ratios of children are others.")


def _orientation(header: Dataset) -> str:
    r"""Return Patient Orientation as written, such as ``"L\F"``, or nothing (PS3.3 C.7.6.1.1.1)."""
    try:
        return "\\".join(str(one).strip().upper() for one in header.get("PatientOrientation") or ())
    except Exception:  # garbled values fail inside pydicom in many ways
        return ""
