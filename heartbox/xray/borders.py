"""Plain borders of an image: collimation, padding, frames.

Knows arrays only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAME_GREY = 0.02  # greys that differ by less, out of 1, count as one: JPEG leaves as much in a black border


def plain_border(image: NDArray) -> float:
    """Return the share of rows or of columns, whichever is larger, that are a single grey from the border inward.

    It is 0 for an image that is a single grey throughout.
    """

    def run(lines: NDArray) -> int:
        plain = np.ptp(lines, axis=1) <= SAME_GREY
        return int(np.argmin(plain)) + int(np.argmin(plain[::-1]))

    rows, columns = image.shape
    return 0.0 if np.ptp(image) <= SAME_GREY else max(run(image) / rows, run(image.T) / columns)
