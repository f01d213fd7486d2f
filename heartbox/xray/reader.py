"""Any X-ray file -> an array that can be trusted: DICOM, PNG, JPEG or TIFF in, float32 in [0, 1], bone bright, out.

Training data and users' files go through the same functions here, so a network sees both alike.
This module knows nothing of hearts, boxes or networks; what it cannot read for certain it refuses with an XRayError.
"""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heartbox.xray.contrast import is_flat
from heartbox.xray.damage import SURPLUS, decoder_messages
from heartbox.xray.dicom import read_dicom
from heartbox.xray.errors import XRayError, one_line
from heartbox.xray.header import integer
from heartbox.xray.image import XRay
from heartbox.xray.parse import parse
from heartbox.xray.picture import TIFF_BEGINNINGS, is_jsrt, read_jsrt, read_picture

DICOM_ENDINGS = (".dcm", ".dicom")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PICTURE_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", *TIFF_BEGINNINGS)
MAX_FILE_BYTES = 2**28  # a file of this size is no chest film


def read_xray(path: str | os.PathLike) -> np.ndarray:
    """Read an X-ray file as one array.

    Parameters
    ----------
    path : path-like
        DICOM (any modality that holds one grey or colour image), PNG, JPEG or TIFF.

    Returns
    -------
    numpy.ndarray
        (rows, columns) float32 in [0, 1], bone bright, full resolution.

    Raises
    ------
    XRayError
        Where the file cannot be read; no other exception is raised for a bad file.
    """
    return load_xray(path).image


def load_xray(path: str | os.PathLike) -> XRay:
    """Read an X-ray file with what its header says; parameters and errors as in `read_xray`.

    Returns
    -------
    XRay
        The image, its pixel spacing, view and patient, and notes on how it was read.
    """
    path, data = _read_bytes(path)
    try:
        with decoder_messages() as said:
            xray = _read_any(path, data)
        # A few bytes too many may be padding, which costs no pixel, or the trace of damage: an image, and a doubt.
        surplus = [line for line in said if SURPLUS.fullmatch(line)]
        if len(surplus) < len(said):
            worst = next(line for line in said if line not in surplus)
            raise XRayError(
                f"the decoder says that the compressed pixels are damaged or cut off ({worst}). Fetch or export the "
                "file again."
            )
        _refuse_empty(xray.image)
    except XRayError as error:
        raise XRayError(f"{path}: {error}") from error.__cause__
    return dataclasses.replace(xray, damage=surplus[0]) if surplus else xray


def _refuse_empty(image: np.ndarray) -> None:
    if is_flat(image):
        value = float(np.median(image))
        grey = {0: "black", 1: "white"}.get(round(value, 2), f"{value:.0%} of white")
        raise XRayError(f"the image is one even grey ({grey}): it shows nothing. Export it again, or leave it out.")


def _read_any(path: Path, data: bytes) -> XRay:
    # What a file holds is decided by its first bytes: endings are often wrong or missing.
    try:
        with warnings.catch_warnings():
            # pydicom warns once for every element that bends the standard; what matters here becomes a note.
            warnings.simplefilter("ignore")
            # The preamble before "DICM" may hold anything, a TIFF header too, so that is asked first.
            if data[128:132] == b"DICM":
                return read_dicom(path, data)
            if is_jsrt(path.name, len(data)):
                return read_jsrt(path, data)
            return read_picture(path, data) if data.startswith(PICTURE_BEGINNINGS) else read_dicom(path, data)
    except XRayError:
        raise
    except BaseException as error:  # decoders raise nearly everything on damaged data
        # Those written in Rust panic, which is no Exception; to be interrupted is no fault of the file.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise XRayError(
            f"the image cannot be decoded ({type(error).__name__}: {one_line(error)}). "
            "Either it is damaged (fetch or export it again) or it is of a kind that the decoders here do not know "
            "(convert it to an uncompressed transfer syntax with a DICOM toolkit)."
        ) from error


def stated_shape(path: str | os.PathLike) -> tuple[int, int] | None:
    """Return the rows and columns that a file states, without decoding it; None where it states none that is usable.

    That is a check of a label, say, at the cost of a header. What is really in the file, `load_xray` tells.
    """
    try:
        path, data = _read_bytes(path)
        if data.startswith(PICTURE_BEGINNINGS) and data[128:132] != b"DICM":
            with Image.open(io.BytesIO(data)) as picture:
                return picture.height, picture.width
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header, _ = parse(data, notes=[])
        shape = integer(header, "Rows"), integer(header, "Columns")
    except Exception:  # garbled headers fail in many ways, which reading the film reports
        return None
    return shape if min(shape) > 0 else None


def is_xray_file(path: str | os.PathLike) -> bool:
    """Tell cheaply whether a path looks like an X-ray: by its ending, else by its first bytes.

    Parameters
    ----------
    path : path-like
        Anything.

    Returns
    -------
    bool
        True says that reading is worth trying, or that its error is worth showing (a broken link named
        ``film.dcm``), not that it will succeed.
    """
    try:
        path = Path(path)
        # "._x.dcm" is macOS's shadow of x.dcm, and DICOMDIR lists files without being an image.
        if path.name.startswith("._") or path.name.upper() == "DICOMDIR" or path.is_dir():
            return False
        if path.suffix.lower() in DICOM_ENDINGS + PICTURE_ENDINGS:
            return path.is_symlink() or path.exists()
        if not path.is_file():
            return False
        if is_jsrt(path.name, path.stat().st_size):
            return True
        with path.open("rb") as file:
            return begins_like_xray(file.read(132))
    except (OSError, ValueError, TypeError):
        return False


def begins_like_xray(first: bytes) -> bool:
    """Tell by a file's first 132 bytes whether it may be DICOM, with or without preamble, PNG, JPEG or TIFF."""
    # Without preamble a dataset begins with an element of group 8 or 2 whose number is below 256; text does not.
    bare = len(first) == 132 and first[0] in (2, 8) and first[1] == 0 and first[3] == 0
    bare = bare or (len(first) == 132 and first.startswith(b"DICM"))  # the preamble is missing
    return first[128:] == b"DICM" or bare or first.startswith(PICTURE_BEGINNINGS)


# ---------------------------------------------------------------------------------------------- files


def _read_bytes(path: str | os.PathLike) -> tuple[Path, bytes]:
    """Return a regular file's bytes, or say why there are none to be had."""
    try:
        path = Path(path).expanduser()
        status = path.stat()
    except FileNotFoundError:
        raise XRayError(f"{path}: there is no such file. Check the spelling and the folder.") from None
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise XRayError(f"{path}: this path cannot be opened ({_why(error)}). Check it.") from error
    if stat.S_ISDIR(status.st_mode):
        raise XRayError(f"{path}: this is a folder. Name one file in it.")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
        raise XRayError(f"{path}: this is not a regular file (a pipe or a device?). Name an image file.")
    if status.st_size == 0:
        raise XRayError(f"{path}: the file is empty. Fetch or export it again.")
    if status.st_size > MAX_FILE_BYTES:
        raise XRayError(
            f"{path}: the file has {status.st_size / 2**20:.0f} MiB; files over {MAX_FILE_BYTES // 2**20} MiB "
            "are not read. Export a single image of it."
        )
    try:
        return path, path.read_bytes()
    except (OSError, MemoryError) as error:
        raise XRayError(f"{path}: the file cannot be read ({_why(error)}). Check its permissions.") from error


def _why(error: Exception) -> str:
    """Return the reason alone: the system's errors repeat the path, which stands at the head of the message."""
    return getattr(error, "strerror", None) or one_line(error)


# --------------------------------------------------------------------------------------------- arrays


def as_xray(source: str | Path | XRay | NDArray) -> XRay:
    """Make an XRay of a path, of an array with bone bright, or of what is one already.

    Raises
    ------
    XRayError
        If the array is not 2-D, is empty or a single grey, holds NaN or infinity, or floats outside [0, 1].
    """
    if isinstance(source, XRay):
        return source
    if isinstance(source, str | Path):
        if not str(source):
            raise XRayError("no file named: give the path of an X-ray")
        return load_xray(source)
    if not isinstance(source, np.ndarray) or isinstance(source, np.ma.MaskedArray):
        raise XRayError(f"{type(source).__name__}: neither a path nor a plain NumPy array; give one of these")
    array = source
    if array.ndim != 2 or array.size == 0:
        raise XRayError(f"array: an X-ray is a 2-D array (rows, columns), this has the shape {array.shape}")
    if np.issubdtype(array.dtype, np.unsignedinteger):
        full = np.iinfo(array.dtype).max
        if full > 255 and 1 < array.max() < full / 4:
            raise XRayError(
                f"array: {array.dtype} is read over its full range to {full}, but these values end at {array.max()} "
                f"(pixels of a 10- or 12-bit film?); divide them by their own full range, or give the file itself"
            )
        image = array.astype(np.float32) / np.iinfo(array.dtype).max
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise XRayError("array: holds NaN or infinite pixels; mend or mask them first")
        if array.min() < 0 or array.max() > 1:
            raise XRayError(
                f"array: floats must lie in [0, 1], these reach from {array.min():g} to {array.max():g}; rescale them"
            )
        image = array.astype(np.float32)
    else:
        raise XRayError(
            f"array: floats in [0, 1] or unsigned integers are read, not {array.dtype}; convert it, "
            "for example with image = image.astype('float32'); image -= image.min(); image /= image.max()"
        )
    try:
        _refuse_empty(image)
    except XRayError as error:
        raise XRayError(f"array: {error}") from None
    return XRay(image, Path("array"))
