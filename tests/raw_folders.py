"""Small raw folders in the layouts that notebook 01 reads, for the tests of heartbox.data."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from heartbox.data.layouts import RSNA_COLUMNS
from heartbox.data.prepare import prepare
from heartbox.data.store import Prepared


def write_dicom(path: Path, pixels: np.ndarray, patient: str = "", **elements) -> None:
    """Write an 8-bit MONOCHROME2 film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    header.PatientID, header.Rows, header.Columns = patient, *pixels.shape
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation, header.SamplesPerPixel = 7, 0, 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.WindowCenter, header.WindowWidth = 128, 256
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    header.PixelData = pixels.astype(np.uint8).tobytes()
    header.save_as(path, enforce_file_format=True)


def nearly_plain(grey: int, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    """Return an image of one grey but for a bright strip on the right: not plain, but of very low contrast."""
    image = np.full(shape, grey)
    image[:, -max(1, shape[1] // 50) :] = 220
    return image


def write_rsna(folder: Path, count: int = 10, shape: tuple = (64, 64), patients: int | None = None) -> pd.DataFrame:
    """Write the RSNA layout; film i is nearly plain, of grey 10 + i."""
    rows = []
    for i in range(count):
        patient = f"patient-{i % patients}" if patients else f"film-{i}"
        write_dicom(folder / "stage_2_train_images" / f"film-{i}.dcm", nearly_plain(10 + i, shape), patient)
        rows.append(["heart", 60 + i, 70, 80, 90, f"film-{i}", 224, 224])
    table = pd.DataFrame(rows, columns=RSNA_COLUMNS)
    table.to_csv(folder / "rsna_heart_detection.csv", index=False)
    return table


def write_ctr(folder: Path, count: int = 6, shape: tuple[int, int] = (100, 50)) -> None:
    """Write the CTR layout: hearts over rows 40..69 and columns 20..34, lungs around them."""
    for source in ("jsrt", "wingspan"):
        for part in ("heart", "left_lung", "right_lung"):
            (folder / source / "mask" / part).mkdir(parents=True)
        (folder / source / "png").mkdir()
        for i in range(count):
            name = f"{source}-{i}.png"
            cv2.imwrite(str(folder / source / "png" / name), nearly_plain(100, shape).astype(np.uint8))
            masks = {part: np.zeros(shape, np.uint8) for part in ("heart", "left_lung", "right_lung")}
            masks["heart"][40:70, 20:35] = 255
            masks["left_lung"][10:80, 30:45] = 255
            masks["right_lung"][12:75, 5:15] = 255
            for part, mask in masks.items():
                cv2.imwrite(str(folder / source / "mask" / part / name), mask)


def run(folder: Path, out: Path, **options) -> Prepared:
    """Prepare a folder without a bar."""
    return prepare(folder, out, processes=1, progress=False, **options)
