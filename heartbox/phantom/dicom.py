"""Phantoms on disk: complete Digital X-Ray DICOM objects and the table of boxes, in the RSNA layout.

The same inputs give the same bytes, and a file is complete or absent. Uses ``heartbox.utils`` for files and processes.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from heartbox.utils.atomic import complete_or_absent
from heartbox.utils.parallel import parallel_map
from heartbox.xray.header import PHANTOM_MANUFACTURER

from .render import MINIMUM_SIZE, Phantom, boxes, render
from .subject import NOISE, Subject, keyed_generator, sample_subject

GENERATION = 6  # part of every UID: a film from an older version of the code is rendered again
NAMESPACE = uuid.UUID("6f0c5c1e-5a0b-5d5e-9d6e-1f3a7a0c9b21")
FRAME = 224  # side of the frame in which the table gives its boxes
TABLE = "rsna_heart_detection.csv"
IMAGES = "stage_2_train_images"
COLUMNS = ["label", "x0", "y0", "w", "h", "name", "img_shape_x", "img_shape_y",
           "thorax_x0", "thorax_y0", "thorax_w", "thorax_h"]  # fmt: skip


def _uid(*parts) -> UID:
    """UID under the 2.25 root, from a name-based UUID (DICOM PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}")


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def stored_pixels(phantom: Phantom) -> tuple[np.ndarray, float, float]:
    """Return the pixels as a file stores them, and the window that shows them as the phantom's image.

    Returns
    -------
    pixels : uint8 or uint16 array (size, size)
        Inverted for MONOCHROME1.
    centre, width : float
        Of the linear window (PS3.3 C.11.2.1.2).
    """
    subject = phantom.subject
    rng = keyed_generator(subject.seed, NOISE, subject.index, 2)
    top = 2**subject.bits - 1
    low, high = 0, top
    if subject.bits > 8 and rng.random() < 0.7:  # a plate rarely uses its whole range
        low, high = int(rng.integers(60, 500)), int(rng.integers(3000, 4000))
    image = 1 - phantom.image if subject.photometric == "MONOCHROME1" else phantom.image
    pixels = np.rint(low + image * (high - low)).astype(np.uint8 if subject.bits == 8 else np.uint16)
    squeeze = round(0.01 * (high - low)) if rng.random() < 0.2 else 0  # some windows clip a little
    width = high - low + 1 - 2 * squeeze
    return pixels, low + squeeze + width / 2, width


def dataset(phantom: Phantom) -> Dataset:
    """Wrap a phantom as a Digital X-Ray Image for presentation (PS3.3 A.26).

    Parameters
    ----------
    phantom : Phantom
        From `render`.

    Returns
    -------
    pydicom.dataset.Dataset
        With file meta, ready to be written.
    """
    s = phantom.subject
    size = len(phantom.image)
    pixels, centre, width = stored_pixels(phantom)
    ds = Dataset()
    # Patient and study. Patients are invented; every date is fixed, so that the same inputs give the same bytes.
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = f"Phantom^{s.patient:04d}"
    ds.PatientID = s.patient_id
    ds.PatientBirthDate = f"{2020 - s.age:04d}0101"
    ds.PatientSex = s.sex
    ds.PatientAge = f"{s.age:03d}Y"
    ds.StudyInstanceUID = _film_uid(s, size, "study")
    ds.StudyDate = f"202006{1 + 7 * s.film:02d}"
    ds.StudyTime = "120000"
    ds.ReferringPhysicianName = ""
    ds.StudyID = f"{s.film + 1}"
    ds.AccessionNumber = ""
    ds.StudyDescription = "Chest, synthetic"
    # Series and equipment
    ds.Modality = "DX"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.SeriesInstanceUID = _film_uid(s, size, "series")
    ds.SeriesNumber = 1
    ds.SeriesDescription = f"{s.view} chest"
    ds.BodyPartExamined = "CHEST"
    ds.Manufacturer = ds.ManufacturerModelName = PHANTOM_MANUFACTURER
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = str(GENERATION)
    # Image
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = instance_uid(s, size)
    ds.InstanceNumber = 1
    ds.ContentDate, ds.ContentTime = ds.StudyDate, "120000"
    ds.AcquisitionDate, ds.AcquisitionTime = ds.StudyDate, "120000"
    ds.AcquisitionNumber = 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.ImageComments = "Wholly synthetic: computed from geometry, no patient was imaged"
    ds.PatientOrientation = ["L", "F"]  # rows run to the patient's left, columns to the feet
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = Sequence([_code("816094009", "SCT", "Chest")])
    ds.ViewPosition = s.view
    view = {"PA": ("272479007", "postero-anterior"), "AP": ("399348003", "antero-posterior")}[s.view]
    ds.ViewCodeSequence = Sequence([_code(view[0], "SCT", view[1])])
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([])
    ds.PositionerType = ""
    ds.AcquisitionContextSequence = Sequence([])
    usual = 1150 if s.view == "AP" else 1800
    ds.DistanceSourceToDetector = f"{s.illness.source or usual:.0f}" if s.illness else f"{usual}"
    ds.KVP = "90" if s.view == "AP" else "120"
    # Detector. The spacing is at the detector; some files repeat it as PixelSpacing, as real ones do.
    ds.DetectorType = "SCINTILLATOR"
    spacing = f"{phantom.pixel_spacing:.6f}"
    ds.ImagerPixelSpacing = [spacing, spacing]
    if s.index % 3 == 0:
        ds.PixelSpacing = [spacing, spacing]
    # Pixels
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = s.photometric
    ds.Rows, ds.Columns = phantom.image.shape
    ds.BitsAllocated = 8 if s.bits == 8 else 16
    ds.BitsStored, ds.HighBit = s.bits, s.bits - 1
    ds.PixelRepresentation = 0
    ds.PixelIntensityRelationship = "LOG"
    # 1: less dose, larger value. MONOCHROME1 stores bone dark.
    ds.PixelIntensityRelationshipSign = -1 if s.photometric == "MONOCHROME1" else 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "INVERSE" if s.photometric == "MONOCHROME1" else "IDENTITY"
    ds.WindowCenter, ds.WindowWidth = f"{centre:g}", f"{width:g}"
    ds.LossyImageCompression = "00"
    ds.BurnedInAnnotation = "YES" if s.illness is not None and s.illness.text else "NO"
    ds.PixelData = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"))).tobytes()
    ds["PixelData"].VR = "OB" if s.bits == 8 else "OW"

    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = _uid("implementation")
    ds.file_meta.ImplementationVersionName = "HEARTBOX"
    return ds


def _film_uid(subject: Subject, size: int, level: str) -> UID:
    ill = () if subject.illness is None else ("ill",)
    return _uid(GENERATION, subject.seed, subject.index, size, level, *ill)


def instance_uid(subject: Subject, size: int) -> UID:
    """SOP instance UID of a subject's film at a size."""
    return _film_uid(subject, size, "image")


def _already_there(path: Path, uid: UID) -> bool:
    try:
        return pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID == uid
    except (OSError, pydicom.errors.InvalidDicomError, AttributeError):
        return False


def write_one(folder: Path, seed: int, index: int, size: int) -> dict:
    """Write one film unless it is there already; return its row of the table."""
    subject = sample_subject(seed, index)
    path = folder / IMAGES / f"{subject.film_id}.dcm"
    if not _already_there(path, instance_uid(subject, size)):
        with complete_or_absent(path) as part:
            dataset(render(subject, size)).save_as(part, enforce_file_format=True)
    heart, thorax = (np.array(box) * FRAME / size for box in boxes(subject, size))
    x, y, w, h = (round(float(v), 5) for v in (heart[0], heart[1], heart[2] - heart[0], heart[3] - heart[1]))
    t = [round(float(v), 5) for v in (thorax[0], thorax[1], thorax[2] - thorax[0], thorax[3] - thorax[1])]
    return dict(zip(COLUMNS, ["heart", x, y, w, h, subject.film_id, FRAME, FRAME, *t], strict=True))


def _work(job: tuple[Path, int, int, int]) -> dict:
    return write_one(*job)


def write_phantoms(
    folder: Path | str,
    count: int = 300,
    seed: int = 0,
    size: int = 1024,
    processes: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Write phantoms as DICOM in the RSNA layout.

    Parameters
    ----------
    folder : Path or str
        Receives ``stage_2_train_images/*.dcm`` and ``rsna_heart_detection.csv``. Images that exist already are kept.
    count : int
        Number of films: subjects 0 to count - 1 of the seed.
    seed : int
        Determines the films completely.
    size : int
        Rows and columns.
    processes : int, optional
        Processes that share the work; by default one per core, and only this one for a handful of films.
    progress : bool
        Show a bar on standard output.

    Returns
    -------
    pandas.DataFrame
        The csv: one row per film, boxes as x0, y0, w, h in a 224 x 224 frame.

    Raises
    ------
    ValueError
        If count or processes is below 1, the seed is negative or the size too small.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if size < MINIMUM_SIZE:
        raise ValueError(f"size must be at least {MINIMUM_SIZE} pixels, got {size}")
    folder = Path(folder)
    jobs = [(folder, seed, index, size) for index in range(count)]
    rows = list(parallel_map(_work, jobs, "Phantoms", processes=processes, progress=progress))
    table = pd.DataFrame(rows, columns=COLUMNS)
    with complete_or_absent(folder / TABLE) as part:
        table.to_csv(part, index=False, lineterminator="\n")
    return table
