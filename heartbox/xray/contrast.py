"""Contrast: the greys of every film are brought into one range before a network sees it.

Hospitals, detectors and file formats differ most of all in their greys: one film uses all of them, the next only the
darkest third, another is almost white. Knows arrays only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NORMALIZED_CONTRAST = "even"  # how stats.json and a weights file say that their images went through normalize_contrast
ENDS = (1, 99)  # percentiles that are stretched to black and white
FLAT = 2e-3  # a smaller difference between those two is rounding, not a picture: half a step of an 8-bit file
MIN_SIDE = 16  # pixels; an image with fewer is not a film but an icon, a line or a number
ROUGH = 20_000  # pixels whose percentiles answer a question that is not close
SAFE = 4  # times the limit: a question is not close where the sample's answer is that far above it
LOW_CONTRAST = 0.05  # difference of the 5th and 95th percentiles, out of 1, below which there is little to see


def normalize_contrast(image: NDArray) -> NDArray[np.float32]:
    """Bring a film's greys into one range: half-way between stretching them and equalising their histogram.

    Stretching, a straight line from the 1st and 99th percentile to black and white, undoes a window that was too
    wide. Equalising gives each grey its rank among all pixels (Hummel 1977), which undoes any tone curve, but
    amplifies the noise in plain areas, and shrinks the difference between heart and lung where they fill few pixels.
    The mean of the two has some of the virtues of each.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        In [0, 1].

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        In [0, 1]; a rising straight line applied to the image's greys does not change it, unless it clips them. An
        image of one grey, to within half a step of 8 bits, is returned as it is. The negative of an image gives the
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


def take_sample(values: NDArray, most: int = 1_000_000) -> NDArray:
    """Return evenly spaced values: percentiles of a million pixels are as good as of twenty million, and quicker."""
    values = values.ravel()
    return values[:: 1 + values.size // most]


def percentiles(values: NDArray, counts: NDArray, ranks: tuple[float, ...]) -> NDArray[np.float64]:
    """Return percentiles of values that occur `counts` times each, as ``np.percentile`` gives them of all, unsorted.

    Sorting some thousand values of a histogram costs a hundredth of sorting the pixels.

    Parameters
    ----------
    values, counts : ndarray, shape (N,)
        In any order; counts above 0.
    ranks : tuple of float
        From 0 to 100.
    """
    order = values.argsort()
    ends = counts[order].cumsum(dtype=np.float64)
    position = np.array(ranks) / 100 * (ends[-1] - 1)
    below = np.floor(position)
    low, high = (
        values[order][np.searchsorted(ends, np.minimum(at, ends[-1] - 1), side="right")] for at in (below, below + 1)
    )
    return low + (position - below) * (high - low)


def _range_between(image: NDArray, ranks: tuple[float, float], clear: float) -> float:
    """Return the difference of two percentiles of an image: of a sample where that is far above `clear`."""
    rough = float(np.ptp(np.percentile(take_sample(image, ROUGH), ranks)))
    return rough if rough > SAFE * clear else float(np.ptp(np.percentile(take_sample(image), ranks)))


def is_flat(image: NDArray) -> bool:
    """Tell whether an image in [0, 1] is a single grey, to within half a step of 8 bits: nothing can be seen in it."""
    return _range_between(image, ENDS, FLAT) < FLAT


def fault_of_image(image: NDArray) -> str:
    """Say why no chest can be seen in an image in [0, 1]: it is a single grey, or tiny; "" where it may show one."""
    if min(image.shape) < MIN_SIDE:
        return f"{image.shape[0]} x {image.shape[1]} pixels are too few for a chest: at least {MIN_SIDE} each way"
    return "the image is one even grey" if is_flat(image) else ""


def has_low_contrast(image: NDArray) -> bool:
    """Tell whether there is hardly anything to see in an image in [0, 1], before its contrast is normalised."""
    return _range_between(image, (5, 95), LOW_CONTRAST) < LOW_CONTRAST
