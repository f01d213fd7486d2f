"""An answer as DICOM, for those who read in a viewer: a measurement report (TID 1500) and an overlay as a picture.

Both take patient and study from the source file, so that an archive files them beside it. highdicom makes the
structure; this module knows the detector's answer and nothing of how it was found.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom
import numpy as np
import pydicom
from highdicom import sr
from matplotlib.figure import Figure
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from heartbox.utils.atomic import complete_or_absent
from heartbox.xray.errors import XRayError

if TYPE_CHECKING:
    from heartbox.inference.result import HeartDetection

MANUFACTURER = "Heartbox"
DEVICE_UID = "2.25.220418734219864337283642953498431893247"  # this program as an observer (PS3.16 TID 1004)
CHEST_XRAY = sr.CodedConcept("399208008", "SCT", "Plain X-ray of chest")
# The standard's context groups have no code for these, so they stand in a scheme of our own (PS3.3 8.2).
SCHEME = "99HEARTBOX"
RATIO = sr.CodedConcept("ctr", SCHEME, "Cardiothoracic ratio")
HEART_WIDTH = sr.CodedConcept("heart-width", SCHEME, "Greatest transverse diameter of heart")
CHEST_WIDTH = sr.CodedConcept("chest-width", SCHEME, "Greatest inner transverse diameter of chest")
MILLIMETRE = sr.CodedConcept("mm", "UCUM", "mm")
PIXEL = sr.CodedConcept("{pixels}", "UCUM", "pixels")
NO_UNIT = sr.CodedConcept("{ratio}", "UCUM", "ratio")
FORMS = {
    "PatientSex": "[MFO]?",
    "PatientBirthDate": r"(\d{8})?",
    "StudyDate": r"(\d{8})?",
    "StudyTime": r"(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?",
}
IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime")


def write_measurement_report(path: str | Path, source: str | Path, found: HeartDetection) -> Path:
    """Write the two widths and their ratio as a Comprehensive SR by TID 1500, with reference to the source image.

    Parameters
    ----------
    path : path
        The file to write.
    source : path
        The DICOM file that was asked about.
    found : HeartDetection
        The answer.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    XRayError
        If the source is no DICOM image that can be referred to, if no heart was found, or if the answer has warnings.
    """
    header = _source(source)
    if not found.has_heart:
        raise XRayError(f"{source}: no heart was found, so there is nothing to report.")
    if found.warnings:  # numbers in a report outlive the warning that stood beside them
        raise XRayError(
            f"{source}: the answer has warnings, so it is not reported: {' '.join(map(str, found.warnings))}"
        )
    with _copied_header(source):
        document = _report(header, found)
    with complete_or_absent(path) as part:
        document.save_as(part, enforce_file_format=True)
    return Path(path)


def _report(header: Dataset, found: HeartDetection) -> sr.ComprehensiveSR:
    image = sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID)
    algorithm = sr.AlgorithmIdentification(name=MANUFACTURER, version="0.1.0")
    box = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier="Box of the heart"),
        referenced_region=sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, _outline(found.heart), image),
        finding_type=codes.SCT.Heart,
        algorithm_id=algorithm,
    )
    # A measurement in a group about a region may not point elsewhere in the image, so the widths have their own.
    widths = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier="Widths of heart and chest"),
        finding_type=codes.SCT.Heart,
        algorithm_id=algorithm,
        measurements=_measurements(found, image),
    )
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=DEVICE_UID, name=MANUFACTURER, manufacturer_name=MANUFACTURER, model_name=MANUFACTURER
        ),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CHEST_XRAY,
        imaging_measurements=[box, widths],
    )
    return sr.ComprehensiveSR(
        evidence=[header],
        content=report,
        series_instance_uid=generate_uid(),
        series_number=9001,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,  # nobody has looked at it
        is_verified=False,
        series_description="Heartbox measurements, not verified",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def write_secondary_capture(path: str | Path, source: str | Path, figure: Figure) -> Path:
    """Write a drawn answer as a Secondary Capture image in the source's study.

    Parameters
    ----------
    path : path
        The file to write.
    source : path
        The DICOM file that was asked about.
    figure : Figure
        From :func:`heartbox.reporting.detection_plots.draw_detection`.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    XRayError
        If the source is no DICOM image that can be referred to.
    """
    header = _source(source)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    with _copied_header(source):
        capture = highdicom.sc.SCImage.from_ref_dataset(
            header,
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=generate_uid(),
            series_number=9002,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            patient_orientation=("L", "F"),  # asked for; taken out again below
            series_description="Heartbox overlay, not verified",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
    # The picture holds the film and words beside it, so no direction is true of it (PS3.3 C.7.6.1.1.1: may be empty).
    capture.PatientOrientation = None
    with complete_or_absent(path) as part:
        capture.save_as(part, enforce_file_format=True)
    return Path(path)


@contextlib.contextmanager
def _copied_header(source: str | Path) -> Iterator[None]:
    """Copy the source's header without a warning for each name of one part, which anonymised files have.

    Raises
    ------
    XRayError
        If highdicom or pydicom cannot copy it, for which they have an exception for each reason.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*intended person name.*", category=UserWarning)
        try:
            yield
        except Exception as error:
            raise XRayError(
                f"{source}: its header cannot be copied into a report ({error}). Mend it with a DICOM editor."
            ) from error


def _source(path: str | Path) -> Dataset:
    """Read the header that a report refers to, with the identifying elements that it copies, empty where missing."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except (OSError, ValueError) as error:
        raise XRayError(f"{path}: cannot be read as DICOM ({error}); reports need the DICOM file itself.") from error
    missing = [
        key for key in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID") if not header.get(key)
    ]
    if missing:
        raise XRayError(
            f"{path}: has no {', '.join(missing)}, so no report can refer to it. Give the original DICOM file."
        )
    for keyword in (*IDENTITY, "AccessionNumber", "ReferringPhysicianName"):
        if keyword not in header or not _is_allowed(keyword, header.get(keyword)):
            setattr(header, keyword, None)
    return header


def _is_allowed(keyword: str, value: object) -> bool:
    """Tell whether a value may be copied; one that DICOM forbids (PS3.5 6.2) is left out, as if it were missing."""
    return re.fullmatch(FORMS.get(keyword, ".*"), str(value or ""), re.DOTALL) is not None


def _outline(box: np.ndarray) -> np.ndarray:
    """Return the box as a closed polyline of (column, row), in the sub-pixels of PS3.3 C.18.6.1.2."""
    x_min, y_min, x_max, y_max = box
    return np.array([(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max), (x_min, y_min)])


def _measurements(found: HeartDetection, image: sr.SourceImageForRegion) -> list[sr.Measurement]:
    def line(box: np.ndarray) -> list[sr.CoordinatesForMeasurement]:
        middle = (box[1] + box[3]) / 2
        ends = np.array([(box[0], middle), (box[2], middle)])
        return [sr.CoordinatesForMeasurement(sr.GraphicTypeValues.POLYLINE, ends, image)]

    scale, unit = (found.xray.pixel_spacing[1], MILLIMETRE) if found.heart_mm is not None else (1.0, PIXEL)
    boxes = [(HEART_WIDTH, found.heart)] + ([(CHEST_WIDTH, found.thorax)] if found.thorax is not None else [])
    measured = [
        sr.Measurement(name, round(float((box[2] - box[0]) * scale), 2), unit, referenced_coordinates=line(box))
        for name, box in boxes
    ]
    if found.ctr is not None:
        measured.append(sr.Measurement(RATIO, round(float(found.ctr), 4), NO_UNIT))
    return measured
