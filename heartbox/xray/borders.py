"""Plain borders of an image: collimation, padding, frames.

Knows arrays only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ONE_GREY = 0.02  # difference of greys, out of 1, that is none: what JPEG leaves of a black border


def plain_border(image: NDArray) -> float:
    """Return the share of rows or of columns, whichever is more, that are one grey from the border inward.

    An image that is one grey altogether has no border: 0.
    """

    def run(lines: NDArray) -> int:
        plain = np.ptp(lines, axis=1) <= ONE_GREY
        return int(np.argmin(plain)) + int(np.argmin(plain[::-1]))

    rows, columns = image.shape
    return 0.0 if np.ptp(image) <= ONE_GREY else max(run(image) / rows, run(image.T) / columns)
