"""What a DICOM report copies from its source: patient and study, with values that are valid or left out.

An archive files a report by these values, and refuses it where they are malformed; sources often are. Knows headers.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    EnhancedXAImageStorage,
    EnhancedXRFImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    XRay3DAngiographicImageStorage,
    XRay3DCraniofacialImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
    generate_uid,
)

from heartbox.xray.errors import XRayError
from heartbox.xray.header import integer, text
from heartbox.xray.parse import parse

UNICODE = "ISO_IR 192"  # the character set of everything written here
UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
LONGEST_UID = 64
REFERENCED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# Elements that are copied, with the longest value that their representation allows (PS3.5 6.2). The first ones must
# be there, if only empty. What is too long is left out and not cut: half an identifier is another patient's.
REQUIRED = {
    "PatientName": 64,
    "PatientID": 64,
    "PatientBirthDate": 8,
    "PatientSex": 1,
    "StudyDate": 8,
    "StudyTime": 16,
    "StudyID": 16,
    "AccessionNumber": 16,
    "ReferringPhysicianName": 64,
}
OPTIONAL = {"PatientAge": 4, "IssuerOfPatientID": 64, "StudyDescription": 64}
# Kinds of X-ray image that may have several frames.
MULTI_FRAME = (
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
    EnhancedXAImageStorage,
    EnhancedXRFImageStorage,
    XRay3DAngiographicImageStorage,
    XRay3DCraniofacialImageStorage,
    BreastTomosynthesisImageStorage,
)
FORMS = {
    "PatientSex": r"[MFO]",
    "PatientAge": r"\d{3}[DWMY]",
    "StudyTime": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
}
NAMES, DATES = ("PatientName", "ReferringPhysicianName"), ("PatientBirthDate", "StudyDate")


class Source(NamedTuple):
    """What a report copies from its source.

    Attributes
    ----------
    header : Dataset
        The elements of `REFERENCED`, `REQUIRED` (empty where unknown or malformed) and `OPTIONAL` (absent then), in the
        character set ISO_IR 192; and the size of the image, its number of frames and whether text is burned into it.
    note : str
        Which identifiers are not the source's own, because those are not valid; "" where all are.
    """

    header: Dataset
    note: str


def source_header(path: str | Path) -> Source:
    """Read what a report needs of its source.

    An identifier that is not valid is replaced by one derived from it, the same for all films that share it: archives
    refuse a report with the original.

    Parameters
    ----------
    path : path
        A DICOM file.

    Raises
    ------
    XRayError
        If the file cannot be read, or has no identifiers that a report could refer to.
    """
    try:
        source, _ = parse(Path(path).read_bytes(), notes=[])  # as the image was read, whatever bends the standard
    except OSError as error:
        raise XRayError(f"{path}: cannot be read ({error.strerror}).") from error
    except Exception as error:  # garbled headers fail inside pydicom in many ways
        raise XRayError(
            f"{path}: not a DICOM image, so no report can refer to it. Give the original DICOM file."
        ) from error
    header = Dataset()
    header.SpecificCharacterSet = UNICODE
    replaced = []
    for keyword in REFERENCED:
        uid = _uid(path, source, keyword)
        replaced += [] if uid == text(source, keyword, upper=False) else [keyword]
        setattr(header, keyword, uid)
    for keyword, longest in (REQUIRED | OPTIONAL).items():
        value = _valid(keyword, _first(source, keyword), longest)
        if value or keyword in REQUIRED:
            setattr(header, keyword, value or None)
    header.Rows, header.Columns = integer(source, "Rows"), integer(source, "Columns")
    # The frame that a report is about may be named only where the kind of image has several (PS3.3 10.3).
    header.NumberOfFrames = max(integer(source, "NumberOfFrames"), 1) if header.SOPClassUID in MULTI_FRAME else 1
    # Unless the source denies it there may be words in its pixels, and there are some in a picture made from it.
    header.BurnedInAnnotation = "NO" if text(source, "BurnedInAnnotation") == "NO" else "YES"
    note = (
        f"Not valid in the source, and replaced in the report by another UID: {', '.join(replaced)}. An archive may "
        "list the report apart from the film."
    )
    return Source(header, note if replaced else "")


def _first(source: Dataset, keyword: str) -> str:
    """Return an element as text, the first value of several; "" where it is absent or garbled."""
    try:
        value = source.get(keyword)
        return str(value[0] if isinstance(value, MultiValue) and value else value or "").strip().strip("\0")
    except Exception:  # garbled values fail inside pydicom in many ways
        return ""


def _uid(path: str | Path, source: Dataset, keyword: str) -> str:
    value = text(source, keyword, upper=False)
    if not value:
        raise XRayError(f"{path}: has no {keyword}, so no report can refer to it. Give the original DICOM file.")
    if UID.fullmatch(value) and len(value) <= LONGEST_UID:
        return value
    if keyword == "SOPClassUID":
        raise XRayError(f"{path}: its {keyword} {value!r} is not a valid UID, so no report can refer to it.")
    return generate_uid(entropy_srcs=["heartbox", keyword, value])


def _valid(keyword: str, value: str, longest: int) -> str:
    """Return a value as DICOM allows it (PS3.5 6.2), or "" where it does not."""
    if keyword in NAMES:
        return _valid_name(value, longest)
    if any(ord(letter) < 32 or letter == "\\" or 0xD800 <= ord(letter) < 0xE000 for letter in value):
        return ""
    if len(value) > longest or not re.fullmatch(FORMS.get(keyword, ".*"), value):
        return ""
    if keyword in DATES:
        try:
            return date.fromisoformat(value).strftime("%Y%m%d") if value.isdecimal() else ""
        except ValueError:
            return ""
    return value


def _valid_name(value: str, longest: int) -> str:
    """Return a person's name, of at most three spellings with at most five parts each."""
    letters = "".join(letter for letter in value if letter.isprintable() and letter != "\\")
    spellings = letters.split("=")[:3]
    if any(len(spelling) > longest or spelling.count("^") > 4 for spelling in spellings):
        return ""
    return "=".join(spellings)


def derived_uid(header: Dataset, weights: str, kind: str) -> str:
    """Return the UID of something derived from a source: the same whenever it is derived again.

    Parameters
    ----------
    header : Dataset
        Of the source.
    weights : str
        Digest of the weights that answered.
    kind : str
        What it is the UID of.
    """
    return generate_uid(entropy_srcs=["heartbox", header.SOPInstanceUID, weights, kind])
