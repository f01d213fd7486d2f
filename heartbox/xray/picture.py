"""PNG, JPEG, TIFF and JSRT's raw files -> an X-ray.

Knows picture formats; no DICOM.
"""

from __future__ import annotations

import dataclasses
import io
import logging
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from heartbox.utils.atomic import complete_or_absent
from heartbox.xray.codestream import SOI, read_codestream
from heartbox.xray.contrast import take_sample
from heartbox.xray.decode import decode
from heartbox.xray.errors import XRayError, one_line
from heartbox.xray.header import PHANTOM_MANUFACTURER
from heartbox.xray.image import XRay, check_size
from heartbox.xray.lut import in_blocks, stretch

TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two are BigTIFF
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6  # Photometric Interpretation (TIFF 6.0, tag 262)
TIFF_COLOURS = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)
JSRT_SIDE = 2048  # pixels
JSRT_BYTES = 2 * JSRT_SIDE**2
JSRT_BITS = 12
JSRT_SPACING = 0.175  # mm
WRITER, WRITER_KEY = "Heartbox", "Software"  # in a PNG's text: written by save_png, over the full range of 16 bits
MAKER_KEY = "Manufacturer"  # in a PNG's text, as DICOM's element: who made the film, or that it is a phantom


def read_picture(path: Path, data: bytes) -> XRay:
    """Read a PNG, JPEG or TIFF; 8 bit, 16 bit or float, grey or colour, bone taken to be bright.

    Raises
    ------
    XRayError
        Without the file's name, which the caller adds.
    """
    notes: list[str] = []
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as header:
            kind = "JPEG" if header.format == "MPO" else header.format
            check_size(header.height, header.width)
            frames = getattr(header, "n_frames", 1)
            turned = header.getexif().get(0x0112, 1) not in (0, 1)
            white_is_zero = kind == "TIFF" and header.tag_v2.get(262) == WHITE_IS_ZERO
            # OpenCV 4 fills what a cut-off JPEG lacks with grey and says nothing; Pillow refuses it.
            header.load()
            words = getattr(header, "text", {})
    except Image.DecompressionBombError as error:
        raise XRayError(f"the picture claims too many pixels ({one_line(error)}). Shrink it.") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        if data.startswith(TIFF_BEGINNINGS):
            return _read_scientific_tiff(path, data)
        if isinstance(error, UnidentifiedImageError) and data.startswith(SOI):
            return _read_medical_jpeg(path, data)
        raise XRayError(f"the picture is cut off or damaged ({one_line(error)}). Fetch or export it again.") from error
    if turned:
        notes.append("The picture has an EXIF rotation tag, which was not applied: pixels are read as stored.")
        if kind == "TIFF":  # OpenCV turns it
            return _read_scientific_tiff(path, data, notes)
    # OpenCV keeps 16 bits of colour where Pillow drops to 8; decoding from memory takes any file name.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None and kind == "TIFF":
        return _read_scientific_tiff(path, data)
    if pixels is None:
        raise XRayError(
            f"this {kind} cannot be decoded: it is cut off or damaged (fetch it again), or of a kind that is "
            "not known here (save it as an 8- or 16-bit PNG)."
        )
    if pixels.ndim == 3:  # OpenCV's order is blue, green, red, alpha
        pixels, coloured = to_grey(pixels[:, :, 2::-1]) if pixels.shape[2] > 2 else (pixels[:, :, 0], False)
        if coloured:
            notes.append("The picture is in colour; it was turned to grey.")
    # The 8-bit decoder has turned white-is-zero already.
    inverted = white_is_zero and pixels.dtype != np.uint8
    if words.get(WRITER_KEY) == WRITER and pixels.dtype == np.uint16:
        pixels = pixels / np.float32(2**16 - 1)
    xray = _picture(path, kind, pixels, frames, inverted, notes)
    maker = words.get(MAKER_KEY, "")
    return dataclasses.replace(xray, manufacturer=maker, is_synthetic=maker == PHANTOM_MANUFACTURER)


def _picture(path: Path, kind: str, pixels: np.ndarray, frames: int, inverted: bool, notes: list[str]) -> XRay:
    """Scale grey pixels of any type to [0, 1]."""
    if frames > 1:
        notes.append(f"First page of {frames} read. To have the others answered, save each as a file of its own.")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise XRayError("the picture holds NaN or infinite values. Save it as a 16-bit PNG.")
    bits = 8 * pixels.dtype.itemsize
    if pixels.dtype == np.bool_:
        image = pixels.astype(np.float32)
    elif pixels.dtype == np.uint8:
        image = pixels / np.float32(255)
    elif pixels.dtype == np.uint16:
        bits = _bits_used(pixels, notes)
        image = np.minimum(pixels / np.float32(2**bits - 1), np.float32(1))
    elif pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
        image = pixels.astype(np.float32)
    else:
        image = stretch(pixels, notes)
    if inverted:
        image = 1 - image
    return XRay(
        image=np.ascontiguousarray(image, dtype=np.float32),
        path=path,
        bits_stored=bits,
        transfer_syntax=kind,
        notes=tuple(notes),
    )


def _bits_used(pixels: np.ndarray, notes: list[str]) -> int:
    """Return the bits that a 16-bit picture uses: a 12-bit film would come out black if it were divided by 65535.

    Markers and dead pixels may be 65535 in such a film, so a thousandth of the pixels does not count.
    """

    def bits_of(peak: float) -> int:
        return next(bits for bits in (8, 10, 12, 14, 16) if peak < 2**bits)

    bits = bits_of(float(np.percentile(take_sample(pixels), 99.9)))
    if bits < bits_of(float(pixels.max())):
        notes.append("A few pixels lie far outside the others' range; they were clipped.")
    if bits < 16:
        notes.append(f"The 16-bit picture uses {bits} bits only and was scaled by them.")
    return bits


def _read_medical_jpeg(path: Path, data: bytes) -> XRay:
    """Read a JPEG of the kinds that are used in DICOM and hardly elsewhere: 12 bits, lossless, JPEG-LS."""
    stream = read_codestream(data)
    check_size(stream.rows, stream.columns)
    if stream.components not in (1, 3):
        raise XRayError(f"the JPEG has {stream.components} components; save it as an 8- or 16-bit PNG.")
    pixels, damage = decode(stream)
    notes: list[str] = []
    if pixels.ndim == 3:  # the first component of YBR is the grey
        pixels, coloured = to_grey(pixels) if stream.colour != "YBR" else (pixels[:, :, 0], True)
        if coloured:
            notes.append("The picture is in colour; it was turned to grey.")
    image = np.minimum(pixels / np.float32(2**stream.precision - 1), np.float32(1))
    return XRay(image, path, bits_stored=stream.precision, transfer_syntax="JPEG", damage=damage, notes=tuple(notes))


def _read_scientific_tiff(path: Path, data: bytes, notes: list[str] | None = None) -> XRay:
    """Read a TIFF as it is stored, also of the kinds that scientific software writes: BigTIFF, floats, 32 bits."""
    import tifffile

    notes = notes or []
    try:
        logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says is said here
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            check_size(page.imagelength, page.imagewidth)
            if page.samplesperpixel * page.imagedepth > 4:
                raise XRayError("the TIFF has more than four components a pixel. Save it as a 16-bit PNG.")
            meaning = page.photometric
            if meaning not in TIFF_COLOURS and (meaning, page.compression) != (YCBCR, tifffile.COMPRESSION.JPEG):
                raise XRayError(f"the TIFF's colours are {meaning.name}, which is not read. Save it as a 16-bit PNG.")
            pixels = page.asarray()
            frames, inverted = len(file.pages), meaning == WHITE_IS_ZERO
    except XRayError:
        raise
    except Exception as error:  # tifffile and its decoders raise nearly everything on what they do not know
        raise XRayError(
            f"this TIFF cannot be decoded ({one_line(error)}): it is cut off or damaged (fetch it again), or of a kind "
            "that is not known here (save it as an 8- or 16-bit PNG)."
        ) from error
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        pixels, coloured = to_grey(pixels[:, :, :3])
        if coloured:
            notes.append("The picture is in colour; it was turned to grey.")
    if pixels.ndim != 2 or pixels.dtype.kind not in "uifb":
        raise XRayError(
            f"this TIFF holds {pixels.dtype} pixels of shape {pixels.shape}, a kind that is not known here. "
            "Save it as an 8- or 16-bit PNG."
        )
    return _picture(path, "TIFF", pixels, frames, inverted, notes)


def save_png(path: str | Path, xray: XRay) -> None:
    """Write an X-ray as a 16-bit PNG that `read_picture` reads as the same image.

    A phantom's PNG carries its mark (the text ``Manufacturer``), so that it is told from a patient's film when it is
    read again. Nothing else of the header is written: no name, no identity.
    """
    words = PngInfo()
    words.add_text(WRITER_KEY, WRITER)
    if xray.is_synthetic:
        words.add_text(MAKER_KEY, PHANTOM_MANUFACTURER)
    pixels = np.rint(xray.image * (2**16 - 1)).astype(np.uint16)
    with complete_or_absent(path) as part:
        Image.fromarray(pixels).save(part, format="PNG", pnginfo=words)


def to_grey(rgb: np.ndarray) -> tuple[np.ndarray, bool]:
    """Turn (rows, columns, 3) RGB to grey in the same type, and tell whether there was colour at all."""
    if (rgb[:, :, 0] == rgb[:, :, 1]).all() and (rgb[:, :, 0] == rgb[:, :, 2]).all():
        return rgb[:, :, 0], False
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    if rgb.dtype.kind == "f":
        return (rgb @ weights).astype(rgb.dtype), True
    return in_blocks(lambda block: np.rint(block @ weights), rgb).astype(rgb.dtype), True


# ---------------------------------------------------------------------------------------------- JSRT


def is_jsrt(name: str, size: int) -> bool:
    """Tell by a file's ending and exact size whether it is one of JSRT's raw films, which have no header."""
    return name.lower().endswith(".img") and size == JSRT_BYTES


def read_jsrt(path: Path, data: bytes) -> XRay:
    """Read a film of the JSRT database as its makers give it out.

    2048 x 2048 pixels of 0.175 mm, 12 bits in big-endian words, no header (http://db.jsrt.or.jp/eng.php; Shiraishi
    et al., AJR 174, 2000). Values rise with the film's blackness, so bone is dark in them: public readers of these
    files invert them (``1.0 - np.fromfile(..., dtype='>u2') / 4096`` in preprocess_JSRT.py of
    imlab-uiip/lung-segmentation-2d).

    Raises
    ------
    XRayError
        If a value has more than 12 bits, so that this is another kind of file.
    """
    values = np.frombuffer(data, ">u2").reshape(JSRT_SIDE, JSRT_SIDE)
    top = 2**JSRT_BITS - 1
    if int(values.max()) > top:
        raise XRayError(
            f"a file of this size and ending would be a raw JSRT film, but its values go up to {values.max()}, not "
            f"{top}. Convert it to PNG with the software it comes from."
        )
    return XRay(
        image=np.float32(1) - values / np.float32(top),
        path=path,
        pixel_spacing=(JSRT_SPACING, JSRT_SPACING),
        spacing_kind="PixelSpacing",
        bits_stored=JSRT_BITS,
        transfer_syntax="JSRT raw",
        notes=("Read as a raw film of the JSRT database (12 bits, 0.175 mm), inverted so that bone is bright.",),
    )
