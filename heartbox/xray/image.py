"""An X-ray in memory, and its resizing: the one for training and for users' files.

Knows arrays; no file formats.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heartbox.xray.borders import Window, find_content
from heartbox.xray.errors import XRayError

try:
    import cv2
except ImportError as error:  # the usual cause is the machine, not the environment
    raise ImportError(
        f"OpenCV cannot be loaded ({error}). Where libGL is missing (a server without a screen), install it with "
        "the system's package manager, on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"
    ) from error

MAX_PIXELS = 50_000_000  # rows x columns; the largest detectors in use have some 20 million
RADIOGRAPHY = ("", "CR", "DX", "DR", "RG", "OT", "SC")  # Modality values under which plain films are filed


@dataclass(frozen=True, eq=False, repr=False)
class XRay:
    r"""An X-ray as an array, with what its header says.

    Attributes
    ----------
    image : numpy.ndarray
        (rows, columns) float32 in [0, 1] at full resolution, bone bright (the sense of MONOCHROME2).
    path : pathlib.Path
        Where it was read from.
    pixel_spacing : tuple of float or None
        Millimetres between rows and between columns; None where the header gives no usable value.
    spacing_kind : str or None
        ``"PixelSpacing"``, or ``"ImagerPixelSpacing"`` (measured at the detector, not in the patient).
    view : str
        ``"PA"``, ``"AP"``, ``"LL"`` ...; empty where unknown.
    patient_id : str
        Empty where unknown. Images of one patient belong into one split.
    photometric : str
        Photometric Interpretation as written in the file (the array is bone bright all the same);
        empty for a picture file, which is taken to be bone bright.
    bits_stored : int
        Bits that a sample of the file uses.
    transfer_syntax : str
        Name of the DICOM transfer syntax; for a picture ``"PNG"``, ``"JPEG"`` or ``"TIFF"``.
    orientation : str
        Where rows and columns lead to, as in Patient Orientation: ``"L\F"`` on a film as it is usually looked
        at (rows to the patient's left, columns to the feet); empty where unknown.
    manufacturer : str
        Who made the device, as written in the file.
    modality : str
        ``"DX"``, ``"CR"`` ..., as written in the file; see `RADIOGRAPHY` for those that plain films come under.
    body_part : str
        Body Part Examined as written in the file, ``"CHEST"`` ...; empty where unknown.
    is_synthetic : bool
        Whether the file says that it is a phantom: computed from geometry, with no patient in it.
    damage : str
        What a decoder remarked about compressed pixels that may be damaged; empty where it said nothing.
    notes : tuple of str
        What the reader had to decide or what a user should know, in plain sentences.
    """

    image: np.ndarray
    path: Path
    pixel_spacing: tuple[float, float] | None = None
    spacing_kind: str | None = None
    view: str = ""
    patient_id: str = ""
    photometric: str = ""
    bits_stored: int = 8
    transfer_syntax: str = ""
    orientation: str = ""
    manufacturer: str = ""
    modality: str = ""
    body_part: str = ""
    is_synthetic: bool = False
    damage: str = ""
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return size, view and kind of file, without the pixels and without what the header says of the patient."""
        rows, columns = self.image.shape
        return f"XRay({rows} x {columns}, view={self.view!r}, transfer_syntax={self.transfer_syntax!r})"

    @functools.cached_property
    def window(self) -> Window:
        """Which part of the image the film is: all of it where it has no plain border."""
        return find_content(self.image)

    @property
    def content(self) -> np.ndarray:
        """The image without its plain borders, a view; this is what a network is shown."""
        return self.window.of(self.image)


def resize_xray(image: np.ndarray, size: int) -> np.ndarray:
    """Resize to a square, each axis by its own factor; the one resizing for training and for users' files.

    The outer edges of the image stay its outer edges, so a point at (x, y) in pixel-edge coordinates (as
    box corners are) lands at (x * size / columns, y * size / rows) exactly, with no half-pixel shift.

    Parameters
    ----------
    image : numpy.ndarray
        (rows, columns), values in [0, 1].
    size : int
        Rows and columns of the result.

    Returns
    -------
    numpy.ndarray
        (size, size) float32, clipped to [0, 1].

    Raises
    ------
    ValueError
        Where the image is not two-dimensional or empty, or size is not positive.
    """
    image = np.ascontiguousarray(image, dtype=np.float32)
    if image.ndim != 2 or image.size == 0 or size < 1:
        raise ValueError(
            f"resize_xray wants a (rows, columns) image and a size of 1 or more, not {image.shape}, {size}"
        )
    rows, columns = image.shape
    # An axis that shrinks is averaged, so that no pixel is skipped; one that grows is interpolated.
    image = cv2.resize(image, (min(columns, size), min(rows, size)), interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.clip(image, 0.0, 1.0)


def check_size(rows: int, columns: int) -> None:
    """Refuse sizes before anything is allocated for them."""
    if rows < 1 or columns < 1:
        raise XRayError(f"the header gives no usable image size ({rows} x {columns}). Export it again.")
    if rows * columns > MAX_PIXELS:
        raise XRayError(
            f"{rows} x {columns} pixels are more than the {MAX_PIXELS // 10**6} million that are read. "
            "If the size is real, shrink the image first; else the header is damaged."
        )
