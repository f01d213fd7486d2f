"""Any X-ray file -> one honest array: DICOM, PNG, JPEG or TIFF in, float32 in [0, 1] with bone bright out.

Training data and users' files go through the same functions here, so a network sees both alike.
This module knows nothing of hearts, boxes or networks; what it cannot read honestly it refuses with XRayError.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import stat
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian as ImplicitLE

from heartbox.xray_decode import SURPLUS, XRayError, decode, decoder_complaints
from heartbox.xray_grey import grey_levels, integer, numbers, stretch, text

try:
    import cv2
except ImportError as error:  # the usual cause is the machine, not the environment
    raise ImportError(
        f"OpenCV cannot be loaded ({error}). Where libGL is missing (a server without a screen), install it with "
        "the system's package manager, on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"
    ) from error

DICOM_ENDINGS = (".dcm", ".dicom")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PICTURE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
MAX_PIXELS = 50_000_000  # rows x columns; the largest detectors in use have some 20 million
MAX_FILE_BYTES = 2**28  # a file of this size is no chest film
MAX_INFLATED_BYTES = 2**27  # deflate packs up to 1000 : 1, so its result is bounded too
MAX_HEADER_BYTES = 6 * 2**20  # before the pixels; overlays of a large film take some of it
MAX_ELEMENTS = 20_000
PIXEL_DATA = (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")  # the element's tag, either byte order
CHILD = 16  # years; the ratio of a heart to its chest falls with age, and the films at hand are of adults
RADIOGRAPHY = ("", "CR", "DX", "DR", "RG", "OT", "SC")  # Modality values under which plain films are filed


@dataclass(frozen=True, eq=False)
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
    damage: str = ""
    notes: tuple[str, ...] = ()


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
    with decoder_complaints() as said:
        xray = _read_any(path, data)
    # A few bytes too many may be padding, which costs no pixel, or the trace of damage: an image, and a doubt.
    surplus = [line for line in said if SURPLUS.fullmatch(line)]
    if len(surplus) < len(said):
        worst = next(line for line in said if line not in surplus)
        raise XRayError(
            f"{path}: the compressed pixels are damaged, says the decoder ({worst}). Fetch or export the file again."
        )
    if surplus:
        return dataclasses.replace(xray, damage=surplus[0])
    return xray


def _read_any(path: Path, data: bytes) -> XRay:
    # What a file holds is decided by its first bytes: endings are often wrong or missing.
    try:
        with warnings.catch_warnings():
            # pydicom warns once for every element that bends the standard; what matters here becomes a note.
            warnings.simplefilter("ignore")
            # The preamble before "DICM" may hold anything, a TIFF header too, so that is asked first.
            if data[128:132] != b"DICM" and data.startswith(PICTURE_MAGIC):
                return _read_picture(path, data)
            return _read_dicom(path, data)
    except XRayError:
        raise
    except BaseException as error:  # decoders raise nearly everything on damaged data
        # Those written in Rust panic, which is no Exception; to be interrupted is no fault of the file.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise XRayError(
            f"{path}: the image cannot be decoded ({type(error).__name__}: {_one_line(error)}). "
            "Either it is damaged (fetch or export it again) or of a kind that the decoders here do not know "
            "(convert it to an uncompressed transfer syntax with a DICOM toolkit)."
        ) from error


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
        with path.open("rb") as file:
            return begins_like_xray(file.read(132))
    except (OSError, ValueError, TypeError):
        return False


def begins_like_xray(first: bytes) -> bool:
    """Tell by a file's first 132 bytes whether it may be DICOM, with or without preamble, PNG, JPEG or TIFF."""
    # Without preamble a dataset begins with an element of group 8 or 2 whose number is below 256; text does not.
    bare = len(first) == 132 and first[0] in (2, 8) and first[1] == 0 and first[3] == 0
    return first[128:] == b"DICM" or bare or first.startswith(PICTURE_MAGIC)


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


# ---------------------------------------------------------------------------------------------- files


def _read_bytes(path: str | os.PathLike) -> tuple[Path, bytes]:
    """Return a regular file's bytes, or say why there are none to be had."""
    try:
        path = Path(path).expanduser()
        status = path.stat()
    except FileNotFoundError:
        raise XRayError(f"{path}: there is no such file. Check the spelling and the folder.") from None
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise XRayError(f"{path!r}: this path cannot be opened ({_one_line(error)}). Check it.") from error
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
        raise XRayError(f"{path}: the file cannot be read ({_one_line(error)}). Check its permissions.") from error


def _one_line(error: BaseException, longest: int = 200) -> str:
    words = re.sub(r" at 0x[0-9a-f]+", "", str(error))  # where an object lies says nothing to a reader
    return " ".join(words.split())[:longest] or type(error).__name__


def _check_size(path: Path, rows: int, columns: int) -> None:
    """Refuse sizes before anything is allocated for them."""
    if rows < 1 or columns < 1:
        raise XRayError(f"{path}: the header gives no usable image size ({rows} x {columns}). Export it again.")
    if rows * columns > MAX_PIXELS:
        raise XRayError(
            f"{path}: {rows} x {columns} pixels are more than the {MAX_PIXELS // 10**6} million that are read. "
            "If the size is real, shrink the image first; else the header is damaged."
        )


# -------------------------------------------------------------------------------------- PNG, JPEG, TIFF


def _read_picture(path: Path, data: bytes) -> XRay:
    """Read a PNG, JPEG or TIFF; 8 bit, 16 bit or float, grey or colour, bone taken to be bright."""
    notes = []
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as header:
            kind = "JPEG" if header.format == "MPO" else header.format
            _check_size(path, header.height, header.width)
            frames = getattr(header, "n_frames", 1)
            turned = header.getexif().get(0x0112, 1) not in (0, 1)
            white_is_zero = kind == "TIFF" and header.tag_v2.get(262) == 0
            # OpenCV 4 fills what a cut-off JPEG lacks with grey and says nothing; Pillow refuses it.
            header.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise XRayError(
            f"{path}: the picture is cut off or damaged ({_one_line(error)}). Fetch or export it again."
        ) from error
    except Image.DecompressionBombError as error:
        raise XRayError(f"{path}: the picture claims too many pixels ({_one_line(error)}). Shrink it.") from error
    # OpenCV keeps 16 bits of colour where Pillow drops to 8; decoding from memory takes any file name.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise XRayError(
            f"{path}: this {kind} cannot be decoded: it is cut off or damaged (fetch it again), or of a kind that is "
            "not known here (save it as an 8- or 16-bit PNG)."
        )
    if frames > 1:
        notes.append(f"First page of {frames} read.")
    if turned:
        notes.append("The picture carries a rotation mark (EXIF), which was not applied: pixels are read as stored.")
    if pixels.ndim == 3:  # OpenCV's order is blue, green, red, alpha
        pixels, coloured = _grey(pixels[:, :, 2::-1]) if pixels.shape[2] > 2 else (pixels[:, :, 0], False)
        if coloured:
            notes.append("The picture is in colour; it was turned to grey.")
    bits = 8 * pixels.dtype.itemsize
    peak = float(pixels.max())
    if pixels.dtype == np.uint8:
        image = pixels / np.float32(255)
    elif pixels.dtype == np.uint16:
        # A 12-bit film saved in 16 bits would come out black if it were divided by 65535.
        bits = next(bits for bits in (8, 10, 12, 14, 16) if peak < 2**bits)
        if bits < 16:
            notes.append(f"The 16-bit picture uses {bits} bits only and was scaled by them.")
        image = pixels / np.float32(2**bits - 1)
    else:
        if not np.isfinite(pixels).all():
            raise XRayError(f"{path}: the picture holds values that are no numbers. Save it as a 16-bit PNG.")
        image = pixels.astype(np.float32)
        if pixels.min() < 0 or peak > 1:
            image = stretch(pixels.astype(np.float64), pixels, notes)
    if white_is_zero and pixels.dtype != np.uint8:
        image = 1 - image  # the 8-bit decoder has turned it already
    return XRay(
        image=np.ascontiguousarray(image, dtype=np.float32),
        path=path,
        bits_stored=bits,
        transfer_syntax=kind,
        notes=tuple(notes),
    )


def _grey(rgb: np.ndarray) -> tuple[np.ndarray, bool]:
    """Turn (rows, columns, 3) RGB to grey in the same type, and tell whether there was colour at all."""
    if (rgb[:, :, 0] == rgb[:, :, 1]).all() and (rgb[:, :, 0] == rgb[:, :, 2]).all():
        return rgb[:, :, 0], False
    grey = rgb @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    return (np.rint(grey) if rgb.dtype.kind in "ui" else grey).astype(rgb.dtype), True


# ---------------------------------------------------------------------------------------------- DICOM


def _read_dicom(path: Path, data: bytes) -> XRay:
    """Read a DICOM file: stored values -> modality LUT -> VOI LUT or window -> polarity -> [0, 1]."""
    notes: list[str] = []
    header = _parse(path, data, notes)
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    _check_size(path, rows, columns)
    stored = decode(path, header, rows, columns, notes)
    photometric = text(header, "PhotometricInterpretation")
    bits = integer(header, "BitsStored") or integer(header, "BitsAllocated")

    if stored.ndim == 3:  # a rendered picture: no modality, VOI or polarity step is defined for colour
        full = np.iinfo(stored.dtype).max if photometric == "PALETTE COLOR" else 2**bits - 1
        stored, coloured = _grey(stored)
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


# ------------------------------------------------------------------------------------- what headers say


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
