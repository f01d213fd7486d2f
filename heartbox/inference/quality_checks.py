"""Reasons not to trust an answer, and remarks that cast no doubt on it.

Knows boxes and headers; no networks.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from heartbox.boxes import box_areas, cardiothoracic_ratio
from heartbox.xray.borders import plain_border
from heartbox.xray.image import RADIOGRAPHY, XRay

FOREIGN = (
    "These weights were trained on synthetic films alone; on a real film their answer is a guess, without margins."
)
FOREIGN_PHANTOM = "These weights are for films of patients; this film is synthetic, so no margins are given."
UPRIGHT = re.compile(r"L\w*\\F\w*")  # Patient Orientation of a film as it is usually looked at
CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "HEART", "RIB", "TORSO")
FEW_SHADES = 16  # dithered and posterised pictures; films have hundreds
VAGUE_RATIO = 0.1  # half-width of the ratio's margin; less does not tell a small heart from a large one
PLAIN = 0.2  # share of rows or columns in a border of one grey
SURER = 0.8  # a variant of the film that the network is at least this much surer of is how it should have been
CHEST_MM = (180, 420)  # inner width of the chest, from a child at school to the broadest adult


def is_surer(variant: NDArray | float, asis: NDArray | float) -> NDArray | bool:
    """Tell whether a variant's mean spread is so much below the film's own that it is the right way round."""
    return variant < SURER * asis


def check_quality(
    xray: XRay,
    heart: NDArray,
    thorax: NDArray | None,
    interval: NDArray | None = None,
    ctr_interval: tuple[float, float] | None = None,
) -> tuple[str, ...]:
    """List, as plain sentences, what makes an answer untrustworthy.

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
    found = []
    if np.ptp(np.percentile(xray.image, (5, 95))) < 0.05:
        found.append("There is hardly any contrast in this image.")
    rows, columns = xray.image.shape
    if min(rows, columns) < 128 or max(rows, columns) > 2.5 * min(rows, columns):
        found.append(f"{rows} rows x {columns} columns are not the size of a chest film.")
    border = plain_border(xray.image)
    if border > PLAIN:
        found.append(
            f"A border of one grey takes up {border:.0%} of the image, and the chest so much less of it than on the "
            "films that the network knows: crop it away and ask again."
        )
    shades = len(np.unique(xray.image[:: 1 + rows // 512, :: 1 + columns // 512]))
    if shades < FEW_SHADES:
        found.append(f"The image has {shades} shade{'s' * (shades != 1)} of grey only.")
    if xray.modality not in RADIOGRAPHY:
        found.append(f"The modality is {xray.modality}: this is not a plain X-ray.")
    if xray.body_part and not any(word in xray.body_part for word in CHEST_WORDS):
        found.append(f"Body Part Examined is {xray.body_part}: this is no film of the chest.")
    if xray.damage:
        found.append(f"The compressed pixels may be damaged, says the decoder ({xray.damage}): look at the picture.")
    if xray.view and not xray.view.startswith(("PA", "AP")):
        found.append(f"The view is {xray.view}; the network knows frontal films only.")
    if xray.orientation and not UPRIGHT.fullmatch(xray.orientation):
        found.append(
            f"Patient Orientation is {xray.orientation}, not L\\F: the film is turned, mirrored or "
            "lateral, and read as stored."
        )
    if not box_areas(heart) > 0:
        found.append("The heart's edges are in the wrong order, so there is no heart between them.")
        return tuple(found)
    share = float(box_areas(heart)) / (rows * columns)
    # The hearts of the 406 labelled real films at hand cover 7 to 26 % of their image.
    if not 0.02 < share < 0.40:
        found.append(f"The heart's box covers {share:.1%} of the image, which no heart on a chest film does.")
    if thorax is not None:
        ratio = float(cardiothoracic_ratio(heart, thorax))
        if math.isnan(ratio):
            found.append("No chest was found.")
        elif not 0.25 < ratio < 0.85:
            found.append(f"The cardiothoracic ratio of {ratio:.2f} is not plausible.")
        if heart[0] < thorax[0] or heart[2] > thorax[2] or heart[1] < thorax[1]:
            found.append("The heart's box reaches out of the chest's.")
    if interval is not None:
        width = interval[:, 1] - interval[:, 0]
        if (width > 0.2 * np.array([columns, rows, columns, rows])).any():
            found.append("The margin of at least one edge is wider than a fifth of the image.")
    if ctr_interval is not None and ctr_interval[1] - ctr_interval[0] > 2 * VAGUE_RATIO:
        found.append(
            "The cardiothoracic ratio is anywhere from {:.2f} to {:.2f}: too vague to be used.".format(*ctr_interval)
        )
    return tuple(found)


def spacing_is_plausible(xray: XRay, thorax: NDArray | None) -> bool:
    """Tell whether the file's pixel spacing gives a chest of a possible width; True where that cannot be told.

    Films that were shrunk for sharing often keep the spacing of the original.
    """
    if xray.pixel_spacing is None or thorax is None:
        return True
    return CHEST_MM[0] < (thorax[2] - thorax[0]) * xray.pixel_spacing[1] < CHEST_MM[1]


def collect_notes(xray: XRay, thorax: NDArray | None = None) -> tuple[str, ...]:
    """List, as plain sentences, what a reader of the numbers should know although the box is not in doubt."""
    found = list(xray.notes)
    if xray.view.startswith("AP"):
        found.append(
            f"View {xray.view}: the heart lies further from the detector and reads too wide, and the ratio too high."
        )
    elif not xray.view:
        found.append("The view is not known: in an AP view the ratio reads too high.")
    if xray.pixel_spacing is None:
        found.append("The file has no pixel spacing, so there is no size in millimetres.")
    elif not spacing_is_plausible(xray, thorax):
        width = (thorax[2] - thorax[0]) * xray.pixel_spacing[1]
        found.append(
            f"By the file's pixel spacing this chest is {width:.0f} mm wide: unless it is a small child's, either the "
            "spacing is not that of this image or the chest's box is wrong, so no millimetres are given."
        )
    return tuple(found)
