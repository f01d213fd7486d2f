"""A DICOM file -> an X-ray: parsed defensively, decoded, brought to grey levels, described.

Knows headers; the pixels are decoded in :mod:`heartbox.xray.decode` and windowed in :mod:`heartbox.xray.lut`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from heartbox.xray.errors import XRayError
from heartbox.xray.header import PHANTOM_MANUFACTURER, numbers, text
from heartbox.xray.image import XRay
from heartbox.xray.lut import grey_levels, in_blocks
from heartbox.xray.parse import parse
from heartbox.xray.picture import to_grey
from heartbox.xray.stored import StoredImage, read_stored

CHILD = 16  # years; the ratio of a heart to its chest falls with age, and the films at hand are of adults


def read_dicom(path: Path, data: bytes) -> XRay:
    """Read a DICOM file: stored values -> modality LUT -> VOI LUT or window -> polarity -> [0, 1].

    Parameters
    ----------
    path : Path
        For the result only; nothing is read from it.
    data : bytes
        The whole file.

    Raises
    ------
    XRayError
        Without the file's name, which the caller adds.
    """
    notes: list[str] = []
    header, pixels = parse(data, notes)
    stored = read_stored(header, pixels, notes)
    image = _grey(stored, notes) if stored.values.ndim == 3 else _windowed(header, stored, notes)
    if not np.isfinite(image).all():
        raise XRayError("the header turns pixels into NaN or infinite values. Export the file again.")
    spacing, kind = _spacing(header, notes)
    _describe(header, notes)
    manufacturer = text(header, "Manufacturer", upper=False)
    return XRay(
        image=image,
        path=path,
        pixel_spacing=spacing,
        spacing_kind=kind,
        view=_view(header),
        patient_id=text(header, "PatientID", upper=False),
        photometric=stored.photometric,
        bits_stored=stored.bits,
        transfer_syntax=header.file_meta.TransferSyntaxUID.name,
        orientation=_orientation(header),
        manufacturer=manufacturer,
        is_synthetic=manufacturer == PHANTOM_MANUFACTURER,
        modality=text(header, "Modality"),
        body_part=text(header, "BodyPartExamined"),
        damage=stored.damage,
        notes=tuple(notes),
    )


def _windowed(header: Dataset, stored: StoredImage, notes: list[str]) -> np.ndarray:
    # PS3.3 C.7.6.3.1.2: in MONOCHROME1 the smallest value is shown white, after the VOI step. Where
    # Presentation LUT Shape is INVERSE (C.11.6), that is this same inversion, not a second one.
    inverted = stored.photometric == "MONOCHROME1"
    image = grey_levels(header, stored.values, stored.padding, inverted, notes)
    shape = text(header, "PresentationLUTShape")
    if (stored.photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        notes.append(
            f"Presentation LUT Shape {shape} contradicts {stored.photometric}; {stored.photometric} was followed."
        )
    return image


def _grey(stored: StoredImage, notes: list[str]) -> np.ndarray:
    """Turn a colour image to grey: a rendered picture, for which no modality, VOI or polarity step is defined."""
    if stored.photometric == "YBR_FULL":  # Y is the grey (PS3.3 C.7.6.3.1.2); 128 is no colour, and JPEG rounds it
        grey, chroma = stored.values[:, :, 0], stored.values[:, :, 1:]
        middle = 1 << (stored.bits - 1)
        coloured = bool(chroma.min() < middle - 1 or chroma.max() > middle + 1)
    else:
        grey, coloured = to_grey(stored.values)
    if coloured:
        notes.append("The image is in colour; it was turned to grey.")
    full = np.float32(2**stored.bits - 1)
    return in_blocks(lambda values: np.clip(values / full, 0, 1), grey)


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
