"""One phantom film: the subject's body, the rays through it, the detector plate behind it, and the exact labels.

Combines `body`, `attenuation` and `detector_response`; it does not know DICOM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .anatomy import LEFT, RIGHT
from .attenuation import attenuation
from .body import build, truth, truth_boxes
from .burnt_in import burn_in
from .detector_response import develop, expose, mark
from .opacity import hidden_sides, opacity_map
from .subject import Subject

MINIMUM_SIZE = 64

# Called as plant(attenuation, masks, spacing) with float32 (n, n), the bool masks (n, n) "heart", `LEFT` and `RIGHT`
# and mm per pixel; n may be a multiple of the film's size. Returns the attenuation with something added to it.
Plant = Callable[[np.ndarray, dict, float], np.ndarray]


@dataclass(frozen=True)
class Phantom:
    """A rendered film and its exact labels.

    Attributes
    ----------
    image : float32 array (size, size)
        In [0, 1], bone bright.
    heart, thorax : tuple of float
        x_min, y_min, x_max, y_max in pixels of this image, max exclusive.
    heart_mask, left_lung_mask, right_lung_mask : bool arrays (size, size)
        Cardiac silhouette and visible aerated lung fields.
    subject : Subject
        What was rendered.
    pixel_spacing : float
        mm on the detector.
    hidden_sides : tuple of str
        Sides of the heart's box, ``"x_min"`` and ``"x_max"``, that the film does not show although box and mask give
        them: fluid, a lung without air or the diaphragm lies beside them.
    """

    image: np.ndarray
    heart: tuple[float, float, float, float]
    thorax: tuple[float, float, float, float]
    heart_mask: np.ndarray
    left_lung_mask: np.ndarray
    right_lung_mask: np.ndarray
    subject: Subject
    pixel_spacing: float
    hidden_sides: tuple[str, ...] = ()


def boxes(subject: Subject, size: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Return heart and thorax box (x_min, y_min, x_max, y_max) in pixels, without rendering the film."""
    return truth_boxes(build(subject, size))


def render(subject: Subject, size: int = 1024, plant: Plant | None = None) -> Phantom:
    """Compute one film.

    Parameters
    ----------
    subject : Subject
        From `sample_subject`.
    size : int
        Rows and columns of the image, at least 64.
    plant : callable, optional
        Adds something to the body before the plate is exposed, see `Plant`. Boxes and masks stay the same.

    Returns
    -------
    Phantom

    Raises
    ------
    ValueError
        If the size is too small.
    """
    if size < MINIMUM_SIZE:
        raise ValueError(f"size must be at least {MINIMUM_SIZE} pixels, got {size}")
    # Thin lines need small pixels: a small or odd-sized film is computed at a higher resolution and averaged.
    factor = max(1, -(-448 // size))
    while size * factor % 4:  # so does the coarse grid of the distance transforms
        factor += 1
    body = build(subject, size * factor)
    heart, thorax = truth_boxes(body)
    masks = truth(body)
    opacity = opacity_map(subject, body) if subject.illness is not None and subject.illness.opacities else None
    exponent = attenuation(subject, body, opacity)
    if plant is not None:
        exponent = plant(exponent, masks, body.beam.spacing)
    signal = expose(exponent, subject, body.beam.spacing)
    image = mark(develop(signal, subject, masks[LEFT] | masks[RIGHT]), subject)
    if subject.illness is not None:
        burn_in(image, subject)
    if factor > 1:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        masks = {
            k: cv2.resize(m.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) >= 0.5
            for k, m in masks.items()
        }
    return Phantom(
        image=image,
        heart=tuple(float(v) / factor for v in heart),
        thorax=tuple(float(v) / factor for v in thorax),
        heart_mask=masks["heart"],
        left_lung_mask=masks[LEFT],
        right_lung_mask=masks[RIGHT],
        subject=subject,
        pixel_spacing=subject.field / size,
        hidden_sides=hidden_sides(body, opacity),
    )
