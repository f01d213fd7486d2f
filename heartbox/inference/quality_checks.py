"""Reasons not to trust an answer (quality flags), and remarks that cast no doubt on it (notes).

Knows boxes, images and their headers; no networks. ``docs/quality-flags.md`` lists every code with what to do about it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heartbox.boxes import box_areas, cardiothoracic_ratio
from heartbox.evaluation.conformal import LEFT_AND_RIGHT, USUAL_SHARE
from heartbox.models.config import Calibration
from heartbox.xray.borders import plain_border
from heartbox.xray.contrast import has_low_contrast
from heartbox.xray.header import PHANTOM_MANUFACTURER
from heartbox.xray.image import RADIOGRAPHY, XRay

# Ways in which a film may be the wrong way round; the words complete "the film may be ...".
LOOKS = {
    "looks-mirrored": "mirrored",
    "looks-turned-right": "turned by 90 degrees to the right",
    "looks-turned-left": "turned by 90 degrees to the left",
    "looks-turned-180": "turned by 180 degrees",
    "looks-upside-down": "upside down",
    "looks-inverted": "inverted, bone dark",
    "looks-cropped": "cut off: part of the chest is missing",
    "looks-other": "something else than an upright frontal chest film",
}
FLAG_CODES = (
    *("phantom-weights", "phantom-film"),
    *("undecided", "unclear-left", "unclear-right", *LOOKS),
    *("low-contrast", "unusual-size", "plain-border", "few-shades"),
    *("other-modality", "other-body-part", "damaged-pixels", "not-frontal", "not-upright"),
    *("no-heart", "heart-size", "no-chest", "ratio", "heart-outside-chest"),
    *("wide-margin", "vague-ratio"),
)

UPRIGHT = re.compile(r"L\w*\\F\w*")  # Patient Orientation of a film as it is usually viewed
SMALLEST_SIDE, LONGEST_SHAPE = 128, 2.5  # pixels; longer side over shorter side
PLAIN = 0.2  # share of rows or columns in a border of a single grey level
FEW_SHADES = 16  # dithered and posterised pictures; films have hundreds
UPRIGHT_ABOVE = 0.2  # a film lies wrong if the orientation head gives "upright" a smaller probability
SURER = 0.8  # a variant of the film is the right way round if its mean std is below this share of the film's own
HEART_SHARE = (0.02, 0.40)  # of the image; the hearts of the 406 labelled real films at hand cover 0.07 to 0.26
POSSIBLE_RATIO = (0.25, 0.85)
WIDE_MARGIN = 0.2  # whole width, as a share of the image
VAGUE_RATIO = 0.1  # half-width of the ratio's margin; a wider one does not separate a small heart from a large one
CHEST_MM = (180, 420)  # inner width of the chest, from a child at school to the broadest adult

# Body Part Examined is often typed by hand in the local language. Stems of words for the chest and what is in it,
# without accents; a value that contains one of them is a chest film.
CHEST_WORDS = (
    *("CHEST", "THORA", "TORA", "TORSO", "LUNG", "HEART", "RIB", "CARD"),
    *("BRUST", "HERZ", "POITR", "POUM", "COEUR", "COTES", "PECHO", "PULM", "COSTILL", "CORAZ"),
    *("PEITO", "CORAC", "PETTO", "POLMO", "CUORE", "BORST", "BRYST", "BROST", "RINTA", "KLATK", "PLUC", "HRUD"),
    *("PŁUC", "MELLKAS", "GOGUS", "AKCIGER", "ГРУД", "ЛЕГК", "ΘΩΡΑΚ", "胸", "肺", "흉부", "가슴", "صدر", "חזה"),
)
# The standard's words for other parts that are radiographed (PS3.16 Annex L). A word in neither list gets a note only.
OTHER_BODY_PARTS = frozenset(
    [
        *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CLAVICLE", "COCCYX", "CSPINE", "ELBOW", "EXTREMITY"),
        *("FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE"),
        *("MANDIBLE", "MAXILLA", "NECK", "ORBIT", "PATELLA", "PELVIS", "SCAPULA", "SHOULDER", "SKULL", "SPINE"),
        *("SSPINE", "STERNUM", "TIBIA", "TOE", "TSPINE", "WRIST", "ZYGOMA"),
    ]
)


@dataclass(frozen=True)
class QualityFlag:
    """A reason not to trust an answer.

    Attributes
    ----------
    code : str
        One of `FLAG_CODES`, for programs.
    message : str
        The reason in a sentence, for people; ``str(flag)`` is the same.

    Raises
    ------
    ValueError
        If the code is not one of `FLAG_CODES`.
    """

    code: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in FLAG_CODES:
            raise ValueError(f"unknown quality flag {self.code!r}: add it to FLAG_CODES and to docs/quality-flags.md")

    def __str__(self) -> str:
        return self.message


def is_surer(variant: NDArray | float, asis: NDArray | float) -> NDArray | bool:
    """Tell whether a variant's mean std is so far below the film's own that the variant is the right way round."""
    return variant < SURER * asis


def check_training(xray: XRay, layout: str) -> tuple[QualityFlag, ...]:
    """Flag a real film given to weights trained on phantoms, and a phantom given to weights trained on patients.

    Parameters
    ----------
    xray : XRay
        The film; phantoms are known by their manufacturer.
    layout : str
        Layout of the training data: ``"phantom"`` or that of a real data set.
    """
    synthetic = xray.manufacturer == PHANTOM_MANUFACTURER
    if synthetic == (layout == "phantom"):
        return ()
    if synthetic:
        message = "These weights are for films of patients; this film is synthetic, so no margins are given."
        return (QualityFlag("phantom-film", message),)
    message = (
        "These weights were trained on synthetic films only; on a real film the answer is a guess without margins."
    )
    return (QualityFlag("phantom-weights", message),)


def check_certainty(std: NDArray, calibration: Calibration | None, looks: str, size: int) -> tuple[QualityFlag, ...]:
    """Flag a film on which the distributions of the heart's edges are wider than on films that are answered well.

    Shown anything but an upright frontal chest film (noise, or a film that is upside down, turned, inverted or of
    something else), or a heart whose border is hidden, the network is undecided, although the mean of an undecided
    distribution still looks like a box.

    Parameters
    ----------
    std : ndarray, shape (4,)
        Standard deviations of the heart's edges, in pixels of the network's input.
    calibration : Calibration or None
        Its ``clear_std`` is what the mean of the left and right border must stay below; where there is none, its
        ``usual_std`` is what the mean of all four edges must stay below.
    looks : str
        How the film lies, one of `LOOKS`; "" for an upright film.
    size : int
        Side of the network's input in pixels.
    """
    flags = []
    if calibration is not None and calibration.clear_std is not None:
        flags += _check_sides(std[LEFT_AND_RIGHT], calibration.clear_std, size)
    elif calibration is not None and calibration.usual_std is not None and std.mean() > calibration.usual_std:
        message = (
            f"The network is undecided: its distributions for the heart's edges are {std.mean():.1f} pixels wide (at "
            f"{size}), while {USUAL_SHARE:.0%} of ordinary films stay below {calibration.usual_std:.1f}."
        )
        flags.append(QualityFlag("undecided", message))
    if looks:
        flags.append(QualityFlag(looks, f"The film may be {LOOKS[looks]}."))
    return tuple(flags)


def _check_sides(std: NDArray, clear: float, size: int) -> list[QualityFlag]:
    """Flag a heart whose left and right border are unclear on average, and name the borders that are."""
    if std.mean() <= clear:
        return []
    message = (
        f"The network is undecided: its distributions for the heart's left and right border are {std.mean():.1f} "
        f"pixels wide (at {size}); on films that it answers well they seldom exceed {clear:.1f}."
    )
    flags = [QualityFlag("undecided", message)]
    sides = zip(("unclear-left", "unclear-right"), ("left", "right"), std, strict=True)
    unclear = [one for one in sides if one[2] > clear]
    for code, side, value in unclear:
        message = f"The heart's {side} border (of the picture) is unclear, {value:.1f} pixels wide: it may be hidden."
        if code == unclear[-1][0]:  # said once
            message += " The heart's width and the ratio are then guesses, more often too large than too small."
        flags.append(QualityFlag(code, message))
    return flags


def check_quality(
    xray: XRay,
    heart: NDArray,
    thorax: NDArray | None,
    interval: NDArray | None = None,
    ctr_interval: tuple[float, float] | None = None,
) -> tuple[QualityFlag, ...]:
    """List what makes an answer untrustworthy: in the image, in its header, in the boxes, in the margins.

    Parameters
    ----------
    xray : XRay
        The image and its header.
    heart, thorax : ndarray, shape (4,)
        Boxes in pixels of the image; the thorax may be None.
    interval : ndarray, shape (4, 2), optional
        Bounds of the heart's edges.
    ctr_interval : tuple of float, optional
        Bounds of the cardiothoracic ratio.
    """
    flags = [*_check_image(xray.content), *_check_header(xray)]  # a border that was cropped does no harm
    if not box_areas(heart) > 0:
        message = "The heart's edges are in the wrong order, so they enclose nothing."
        return (*flags, QualityFlag("no-heart", message))
    flags += _check_boxes(xray.window.shape, heart, thorax)
    return (*flags, *_check_margins(xray.window.shape, interval, ctr_interval))


def _check_image(image: NDArray) -> list[QualityFlag]:
    flags = []
    rows, columns = image.shape
    if has_low_contrast(image):
        flags.append(QualityFlag("low-contrast", "This image has hardly any contrast."))
    if min(rows, columns) < SMALLEST_SIDE or max(rows, columns) > LONGEST_SHAPE * min(rows, columns):
        message = f"{rows} rows x {columns} columns is not the size of a chest film."
        flags.append(QualityFlag("unusual-size", message))
    border = plain_border(image)
    if border > PLAIN:
        message = (
            f"A plain border takes up {border:.0%} of the image and leaves too little for a film, so it was not "
            "cropped. Use the original file."
        )
        flags.append(QualityFlag("plain-border", message))
    shades = _count_shades(image)
    if shades < FEW_SHADES:
        message = f"The image has only {shades} shade{'s' * (shades != 1)} of grey."
        flags.append(QualityFlag("few-shades", message))
    return flags


def _count_shades(image: NDArray) -> int:
    """Count the greys of an image, as far as it takes to see that they are enough."""
    for side in (32, 512):  # a sample of a film has hundreds, so that the larger one need not be sorted
        rows, columns = (1 + length // side for length in image.shape)
        shades = len(np.unique(image[::rows, ::columns]))
        if shades >= FEW_SHADES:
            break
    return shades


def _check_header(xray: XRay) -> list[QualityFlag]:
    flags = []
    if xray.modality not in RADIOGRAPHY:
        flags.append(QualityFlag("other-modality", f"The modality is {xray.modality}, not plain radiography."))
    if body_part_kind(xray.body_part) == "other":
        message = f"Body Part Examined is {xray.body_part}: this is not a chest film."
        flags.append(QualityFlag("other-body-part", message))
    if xray.damage:
        message = f"The compressed pixels may be damaged; the decoder says: {xray.damage}. Look at the picture."
        flags.append(QualityFlag("damaged-pixels", message))
    if xray.view and not xray.view.startswith(("PA", "AP")):
        message = f"The view is {xray.view}; the network was trained on frontal films only."
        flags.append(QualityFlag("not-frontal", message))
    if xray.orientation and not UPRIGHT.fullmatch(xray.orientation):
        message = (
            f"Patient Orientation is {xray.orientation}, not L\\F: the film is turned, mirrored or lateral. It was "
            "read as stored."
        )
        flags.append(QualityFlag("not-upright", message))
    return flags


def _check_boxes(shape: tuple[int, int], heart: NDArray, thorax: NDArray | None) -> list[QualityFlag]:
    flags = []
    share = float(box_areas(heart)) / (shape[0] * shape[1])
    if not HEART_SHARE[0] < share < HEART_SHARE[1]:
        message = f"The heart's box covers {share:.1%} of the image, which is not plausible on a chest film."
        flags.append(QualityFlag("heart-size", message))
    if thorax is None:
        return flags
    ratio = float(cardiothoracic_ratio(heart, thorax))
    if math.isnan(ratio):
        flags.append(QualityFlag("no-chest", "No chest was found."))
    elif not POSSIBLE_RATIO[0] < ratio < POSSIBLE_RATIO[1]:
        flags.append(QualityFlag("ratio", f"The cardiothoracic ratio of {ratio:.2f} is not plausible."))
    if heart[0] < thorax[0] or heart[2] > thorax[2] or heart[1] < thorax[1]:
        flags.append(QualityFlag("heart-outside-chest", "The heart's box extends beyond the chest's box."))
    return flags


def _check_margins(
    shape: tuple[int, int], interval: NDArray | None, ctr_interval: tuple[float, float] | None
) -> list[QualityFlag]:
    flags = []
    rows, columns = shape
    if interval is not None:
        width = interval[:, 1] - interval[:, 0]
        if (width > WIDE_MARGIN * np.array([columns, rows, columns, rows])).any():
            message = "The margin of at least one edge is wider than a fifth of the image."
            flags.append(QualityFlag("wide-margin", message))
    if ctr_interval is not None and ctr_interval[1] - ctr_interval[0] > 2 * VAGUE_RATIO:
        low, high = ctr_interval
        message = f"The cardiothoracic ratio may lie anywhere from {low:.2f} to {high:.2f}: too vague to be used."
        flags.append(QualityFlag("vague-ratio", message))
    return flags


def body_part_kind(body_part: str) -> str:
    """Tell what Body Part Examined names: ``"chest"`` (or nothing), ``"other"`` or ``"unknown"``, in any language."""
    plain = "".join(
        letter for letter in unicodedata.normalize("NFKD", body_part.upper()) if not unicodedata.combining(letter)
    )
    if not plain or any(word in plain or word in body_part for word in CHEST_WORDS):
        return "chest"
    words = re.findall(r"[^\W_]+", plain)
    return (
        "other"
        if any(word in OTHER_BODY_PARTS or word.removesuffix("S") in OTHER_BODY_PARTS for word in words)
        else "unknown"
    )


def spacing_is_plausible(xray: XRay, thorax: NDArray | None) -> bool:
    """Tell whether the file's pixel spacing gives a chest of a possible width; True where that cannot be told.

    Films that were shrunk for sharing often keep the spacing of the original.
    """
    if xray.pixel_spacing is None or thorax is None:
        return True
    return CHEST_MM[0] < (thorax[2] - thorax[0]) * xray.pixel_spacing[1] < CHEST_MM[1]


def collect_notes(xray: XRay, thorax: NDArray | None = None) -> tuple[str, ...]:
    """List, in sentences, what a reader of the numbers should know even where the box is not in doubt."""
    notes = list(xray.notes)
    if window := xray.window.unless_whole(xray.image.shape):
        notes.append(
            f"A plain border was cropped: the network was shown rows {window.top} to {window.bottom} and columns "
            f"{window.left} to {window.right} of the image."
        )
    if xray.view.startswith("AP"):
        notes.append(
            f"View {xray.view}: the heart lies further from the detector, so it appears too wide and the ratio is too "
            "high."
        )
    elif not xray.view:
        notes.append("The view is unknown; in an AP view the ratio is too high.")
    if body_part_kind(xray.body_part) == "unknown":
        notes.append(
            f"Body Part Examined is {xray.body_part}, a word not known here: make sure that it is a chest film."
        )
    if xray.pixel_spacing is None:
        notes.append("The file has no pixel spacing, so there is no size in millimetres.")
    elif not spacing_is_plausible(xray, thorax):
        width = (thorax[2] - thorax[0]) * xray.pixel_spacing[1]
        notes.append(
            f"By the file's pixel spacing this chest is {width:.0f} mm wide: unless it is a small child's, either the "
            "spacing is not that of this image or the chest's box is wrong, so no millimetres are given."
        )
    return tuple(notes)
