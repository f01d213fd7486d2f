"""Made films as DICOM datasets, element by element; every pixel and every element is known."""

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

# One transfer syntax of each kind of codestream.
COMPRESSED = [JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, RLELossless]

RAMP = np.array([[0, 1000, 1548, 2048], [2548, 3000, 4000, 4095]], dtype=np.uint16)  # 12 bit


def make(pixels, bits=12, photometric="MONOCHROME2", **elements) -> Dataset:
    """Make a minimal computed-radiography dataset around an integer array."""
    pixels = np.asarray(pixels)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.Modality = "CR"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = photometric
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def compressed(pixels, frame: bytes | list[bytes], syntax: UID, bits=12, **elements) -> Dataset:
    """Make a dataset around an array, with its pixels replaced by a codestream or several fragments of one."""
    ds = make(pixels, bits=bits)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([frame] if isinstance(frame, bytes) else frame)
    ds["PixelData"].VR = "OB"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def table(entries, first=0, bits=16, packed=False) -> Dataset:
    """Make a LUT sequence item."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = np.asarray(entries, dtype="u1" if packed else "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


def jpeg_film(change=lambda frame: frame) -> tuple[Dataset, np.ndarray]:
    smooth = np.add.outer(np.arange(64), 2 * np.arange(48)).astype(np.uint8)
    frame = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    return compressed(smooth, change(frame), JPEGBaseline8Bit, bits=8), smooth


def frame_of(ds) -> bytes:
    return next(generate_frames(ds.PixelData, number_of_frames=1))


def notes_about(film, word: str) -> list[str]:
    return [note for note in film.notes if word in note]
