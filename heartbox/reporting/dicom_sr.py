"""An answer as DICOM, for readers who work in a viewer: a measurement report (TID 1500) and an overlay as an image.

Both take patient and study from the source file, so that an archive files them beside it, and get the same UIDs
whenever they are written again, so that it keeps one copy. highdicom makes the structure; this module knows the answer
and not how it was found.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom
import numpy as np
from highdicom import sr
from matplotlib.figure import Figure
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from heartbox import __version__
from heartbox.reporting.dicom_source import derived_uid, source_header
from heartbox.utils.atomic import complete_or_absent
from heartbox.xray.errors import XRayError, one_line

if TYPE_CHECKING:
    from heartbox.inference.result import HeartDetection

MANUFACTURER = "Heartbox"
DEVICE_UID = "2.25.220418734219864337283642953498431893247"  # this program as an observer (PS3.16 TID 1004)
SR_SERIES, SC_SERIES = 9001, 9002  # series numbers: high, so that they are listed behind the source's
DOTS_PER_INCH = 120  # of the overlay
CHEST_XRAY = sr.CodedConcept("399208008", "SCT", "Plain X-ray of chest")
# The standard's context groups have no code for these, so they are in a scheme of our own (PS3.3 8.2).
SCHEME = "99HEARTBOX"
RATIO = sr.CodedConcept("ctr", SCHEME, "Cardiothoracic ratio")
HEART_WIDTH = sr.CodedConcept("heart-width", SCHEME, "Greatest transverse diameter of heart")
CHEST_WIDTH = sr.CodedConcept("chest-width", SCHEME, "Greatest inner transverse diameter of chest")
MILLIMETRE = sr.CodedConcept("mm", "UCUM", "mm")
PIXEL = sr.CodedConcept("{pixels}", "UCUM", "pixels")
NO_UNIT = sr.CodedConcept("{ratio}", "UCUM", "ratio")


def write_measurement_report(path: str | Path, source: str | Path, found: HeartDetection) -> Path:
    """Write the two widths and their ratio as a Comprehensive SR (TID 1500) that refers to the source image.

    The notes of the answer (an AP view, a pixel spacing measured at the detector) are included as comments. Where the
    source is of a kind that has several frames, the report refers to the first one, which is the one that was read.

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
        If the source is not a DICOM image that can be referred to, if no heart was found, or if the answer has
        warnings.
    """
    header, note = source_header(source)
    if not found.has_heart:
        raise XRayError(f"{source}: no heart was found, so there is nothing to report.")
    if found.warnings:  # numbers in a report outlive the warning that stood beside them
        raise XRayError(f"{source}: the answer has warnings ({', '.join(found.warning_codes)}), so it is not reported.")
    with _refusing(source):
        document = _report(header, found, note)
        with complete_or_absent(path) as part:
            document.save_as(part, enforce_file_format=True)
    return Path(path)


def _report(header: Dataset, found: HeartDetection, note: str) -> sr.ComprehensiveSR:
    first_of_several = [1] if header.NumberOfFrames > 1 else None
    image = sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID, first_of_several)
    algorithm = sr.AlgorithmIdentification(
        name=MANUFACTURER, version=__version__, parameters=[f"weights {found.weights or 'unknown'}"]
    )
    box = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(header, found, "Box of the heart"),
        referenced_region=sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, _outline(found.heart), image),
        finding_type=codes.SCT.Heart,
        algorithm_id=algorithm,
    )
    # A measurement in a group about a region may not point elsewhere in the image, so the widths have their own.
    widths = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(header, found, "Widths of heart and chest"),
        finding_type=codes.SCT.Heart,
        algorithm_id=algorithm,
        measurements=_measurements(found, image),
    )
    for remark in filter(None, [*found.notes, note]):
        comment = sr.TextContentItem(codes.DCM.Comment, remark, sr.RelationshipTypeValues.CONTAINS)
        widths[0].ContentSequence.append(comment)
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
        series_instance_uid=derived_uid(header, found.weights, "SR series"),
        series_number=SR_SERIES,
        sop_instance_uid=derived_uid(header, found.weights, "SR"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,  # nobody has looked at it
        is_verified=False,
        series_description="Heartbox measurements, not verified",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def _tracking(header: Dataset, found: HeartDetection, identifier: str) -> sr.TrackingIdentifier:
    return sr.TrackingIdentifier(uid=derived_uid(header, found.weights, identifier), identifier=identifier)


def write_secondary_capture(path: str | Path, source: str | Path, figure: Figure, weights: str = "") -> Path:
    """Write a drawn answer as a Secondary Capture image in the source's study.

    Parameters
    ----------
    path : path
        The file to write.
    source : path
        The DICOM file that was asked about.
    figure : Figure
        From :func:`heartbox.reporting.detection_plots.draw_detection`.
    weights : str
        Digest of the weights that answered.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    XRayError
        If the source is not a DICOM image that can be referred to.
    """
    header, note = source_header(source)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DOTS_PER_INCH, format="png")
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    with _refusing(source):
        capture = _capture(header, pixels, weights)
        if note:
            capture.ImageComments = note
        with complete_or_absent(path) as part:
            capture.save_as(part, enforce_file_format=True)
    return Path(path)


def _capture(header: Dataset, pixels: np.ndarray, weights: str) -> Dataset:
    capture = highdicom.sc.SCImage.from_ref_dataset(
        header,
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=derived_uid(header, weights, "SC series"),
        series_number=SC_SERIES,
        sop_instance_uid=derived_uid(header, weights, "SC"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "F"),  # asked for; taken out again below
        series_description="Heartbox overlay, not verified",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    # The picture holds the film and words beside it, so no direction is true of it (PS3.3 C.7.6.1.1.1: may be empty).
    capture.PatientOrientation = None
    capture.Laterality = None  # a chest has no side, but the element is asked for
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.DerivationDescription = "Film with the boxes and numbers of an automatic answer"
    capture.BurnedInAnnotation = header.BurnedInAnnotation
    reference = Dataset()
    reference.ReferencedSOPClassUID = header.SOPClassUID
    reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if header.NumberOfFrames > 1:
        reference.ReferencedFrameNumber = 1
    reference.PurposeOfReferenceCodeSequence = [
        sr.CodedConcept("121322", "DCM", "Source image for image processing operation")
    ]
    capture.SourceImageSequence = [reference]
    return capture


@contextlib.contextmanager
def _refusing(source: str | Path) -> Iterator[None]:
    """Turn what highdicom and pydicom raise, an exception for each reason, into an XRayError.

    Names of one part, which anonymised files have, are no reason to warn.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*intended person name.*", category=UserWarning)
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            reason = f"its header cannot be copied into a report ({type(error).__name__}: {one_line(error)})"
            raise XRayError(f"{source}: {reason}. Correct it with a DICOM editor.") from error


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
