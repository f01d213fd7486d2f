"""Contrast: the greys of every film brought into one range, before a network sees it.

Hospitals, detectors and file formats differ in nothing so much as in their greys: one film uses all of them, the
next only the darkest third, a third is white but for a hint. Knows arrays only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NORMALIZED_CONTRAST = "even"  # how stats.json and a weights file say that their images went through normalize_contrast
ENDS = (1, 99)  # percentiles that are stretched to black and white
FLAT = 2e-3  # less between them is no picture but rounding: half a step of an 8-bit file
SMALLEST = 16  # pixels; what has fewer is no film but an icon, a line or a number
LOW = 0.1  # less between the 5th and the 95th percentile, out of 1, and there is little to see


def normalize_contrast(image: NDArray) -> NDArray[np.float32]:
    """Bring a film's greys into one range: half-way between stretching them and equalising their histogram.

    Stretching, a straight line from the 1st and 99th percentile to black and white, undoes a window that was too
    wide. Equalising gives each grey its rank among all pixels (Hummel 1977), which undoes any tone curve, but makes
    much of the noise in plain areas and little of the difference between heart and lung where those are few. The mean
    of both has some of the virtues of either.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        In [0, 1].

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        In [0, 1], and the same for any straight line through the image's greys that rises and does not clip. An image
        of one grey, to within half a step of 8 bits, is returned as it is. The negative of an image gives the
        negative of the result.
    """
    image = np.asarray(image, dtype=np.float32)
    low, high = np.percentile(image, ENDS)
    if high - low < FLAT:  # as is_flat, whose percentiles are needed here
        return image
    stretched = np.clip((image - low) / (high - low), 0.0, 1.0)
    _, grey, counts = np.unique(image, return_inverse=True, return_counts=True)
    # The middle rank of the pixels that share a grey.
    ranks = (counts.cumsum() - counts / 2) / image.size
    return ((stretched + ranks[grey].reshape(image.shape)) / 2).astype(np.float32)


def is_flat(image: NDArray) -> bool:
    """Tell whether an image in [0, 1] is of one grey, to within half a step of 8 bits: nothing can be seen in it."""
    return bool(np.ptp(np.percentile(image, ENDS)) < FLAT)


def shows_nothing(image: NDArray) -> str:
    """Say why no chest can be seen in an image in [0, 1]: it is of one grey, or tiny; "" where it may show one."""
    if min(image.shape) < SMALLEST:
        return f"{image.shape[0]} x {image.shape[1]} pixels show no chest: at least {SMALLEST} each way are wanted"
    return "the image is one even grey" if is_flat(image) else ""


def has_low_contrast(image: NDArray) -> bool:
    """Tell whether there is hardly anything to see in an image in [0, 1], before its contrast is evened."""
    return bool(np.ptp(np.percentile(image, (5, 95))) < LOW)
