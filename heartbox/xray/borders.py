"""The film inside its plain borders: collimation, padding, frames, the page that it was pasted on.

Works from the outside in, line by line, where a line is a row or a column. Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SAME_GREY = 0.02  # as a share of the film's range of greys: those that differ by less are one; JPEG leaves as much
STANDS_OUT = 0.012  # as a share of that range, from a line's median: pixels that differ by more are marks, not noise
SMALL_MARK = 0.03  # of a line's length: the longest mark that is taken off with a border
FEW_MARKS = 0.15  # of a line's length: all marks of a line together
LOOK_AHEAD = 0.1  # of all lines: how deep text and stamps may go before the plain border goes on behind them
GOES_ON = 0.01  # of all lines: how deep the border behind them must be
LEAST_REPEATED = 8  # lines; an enlarged film may repeat a few
SAMPLES = 256  # pixels of a line that are looked at in the search for marks
NOISE = 3.5 * 1.4826 / 2**0.5  # times the median difference of neighbours: what hardly any pixel's noise exceeds
MOST_NOISE = 0.12  # as a share of the range of greys: what differs more from pixel to pixel is no border
BLOCK = 8  # of these pixels; their mean has little noise
LEAST = 0.2  # of all rows and of all columns: a smaller window is not believed to be the film
LEAST_PIXELS = 16


class Window(NamedTuple):
    """A part of an image: rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the last ones exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, shape: tuple[int, int]) -> Window:
        """Return the window that is all of an image of this shape."""
        return cls(0, shape[0], 0, shape[1])

    def unless_whole(self, shape: tuple[int, int]) -> Window | None:
        """Return the window, or None if it is all of an image of this shape: nothing was cropped."""
        return None if self == Window.whole(shape) else self

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    @property
    def corner(self) -> NDArray[np.float64]:
        """``left, top, left, top``: added to a box in the window, it gives the box in the image."""
        return np.array([self.left, self.top, self.left, self.top], dtype=np.float64)

    def of(self, image: NDArray) -> NDArray:
        """Return the part of an array of shape (rows, columns), as a view."""
        return image[self.top : self.bottom, self.left : self.right]

    def without(self, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Window:
        """Return the window without so many rows and columns of each side."""
        return Window(self.top + top, self.bottom - bottom, self.left + left, self.right - right)


def find_content(image: NDArray) -> Window:
    """Find the film inside the plain borders of an image.

    Borders come off on all four sides until nothing changes, so nested frames come off too, and a padded film has the
    same content as before the padding. Lines of a single grey come off first; then lines with small marks on a single
    grey (letters, a ruler's ticks), be it noisy or rising evenly along the line; text and stamps behind which the
    border goes on; and copies of the film's outermost line. A line that crosses a body has long stretches of other
    greys, and stays.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        In [0, 1].

    Returns
    -------
    Window
        The content. It is the whole image where there is no border, and also where less than a fifth of the rows or
        columns would be left, as of an image of a single grey.
    """
    whole, window = Window.whole(image.shape), _inside(image)
    enough = [
        inside >= max(LEAST_PIXELS, LEAST * length) for inside, length in zip(window.shape, whole.shape, strict=True)
    ]
    return window if all(enough) else whole


def plain_border(image: NDArray) -> float:
    """Return the share of rows or of columns, whichever is larger, that the plain borders take up.

    It is 0 for an image that is a single grey throughout. Unlike :func:`find_content` it also measures borders that
    leave too little to be cropped.
    """
    window = _inside(image)
    if min(window.shape) < 1:
        return 0.0
    return max((length - inside) / length for length, inside in zip(image.shape, window.shape, strict=True))


def _inside(image: NDArray) -> Window:
    """Find what is inside all plain borders, however small it is; it is empty if there is nothing."""
    # A white page around a dark film widens the range of greys, so what is exactly plain comes off before the
    # range is measured.
    before, window = (
        None,
        _peel(image, Window.whole(image.shape), lambda lines, taken: _count_plain(lines[taken:], 0.0)),
    )
    while window != before and min(window.shape) > 0:
        before, span = window, _range(window.of(image))
        window = _peel(image, window, lambda lines, taken, span=span: _count_plain(lines[taken:], SAME_GREY * span))
        window = _peel(image, window, lambda lines, taken, span=span: _count_marked(lines, taken, STANDS_OUT * span))
        window = _peel(image, window, lambda lines, taken: _count_repeated(lines[taken:]))
    return window


def _peel(image: NDArray, window: Window, count: Callable[[NDArray, int], int]) -> Window:
    """Take lines off each side until `count` finds no more there.

    It is given all lines of a side from the outside in, as far as the other two sides reach, and how many are off.
    """
    before = None
    while window != before:
        before = window
        for side in ("top", "bottom", "left", "right"):
            if min(window.shape) < 1:
                return window
            top, bottom, left, right = window
            lines, taken = {
                "top": (image[:bottom, left:right], top),
                "bottom": (image[top:, left:right][::-1], len(image) - bottom),
                "left": (image[top:bottom, :right].T, left),
                "right": (image[top:bottom, left:].T[::-1], image.shape[1] - right),
            }[side]
            window = window.without(**{side: count(lines, taken)})
    return window


def _count_plain(lines: NDArray, tolerance: float) -> int:
    """Count the first lines of a single grey; each may have another."""
    start, step = 0, 2
    while start < len(lines):
        some = lines[start : start + step]
        plain = some.max(axis=1) - some.min(axis=1) <= tolerance
        if not plain.all():
            return start + int(np.argmin(plain))
        start, step = start + step, 2 * step
    return len(lines)


def _count_repeated(lines: NDArray) -> int:
    """Count the first lines that repeat the one after them, as of a film padded with copies of its outermost line."""
    count, enough = 0, max(LEAST_REPEATED, round(GOES_ON * len(lines)))
    while count + 1 < len(lines) and np.array_equal(lines[count], lines[count + 1]):
        count += 1
    return count if count >= enough else 0


def _count_marked(lines: NDArray, taken: int, tolerance: float) -> int:
    """Count the lines after those that are off already which are a border with marks or text on it.

    At most a tenth of the lines is looked at.
    """
    ahead = lines[taken:]
    if not (taken or _find_marks(ahead[:1], tolerance)[1][0]):  # no border, as on most films: look no further
        return 0
    grey, marked = _find_marks(ahead[: max(1, round(LOOK_AHEAD * len(ahead)))], tolerance)
    found = len(marked) if marked.all() else int(np.argmin(marked))
    if not taken:
        return found
    # Where enough lines of a border that came off before go on behind the text, they and the text come off.
    borders = _find_marks(lines[max(0, taken - len(marked)) : taken], tolerance)[0]
    same = marked & (np.abs(grey[:, None] - borders).min(axis=1) <= tolerance)
    need = max(2, round(GOES_ON * len(ahead)))
    if len(same) < need:
        return found
    ends = np.flatnonzero(np.convolve(same, np.ones(need, int), "valid") == need) + need
    return max(found, int(ends.max(initial=0)))


def _find_marks(lines: NDArray, tolerance: float) -> tuple[NDArray, NDArray[np.bool_]]:
    """Return each line's median grey, and whether nothing but small marks stands out from it.

    A grey that rises or falls evenly along the line counts as one, and so does one with noise, which a scanner leaves:
    noise is what differs from pixel to pixel, and what is left of it in the means of `BLOCK` pixels is little.
    """
    each = max(1, lines.shape[1] // SAMPLES)
    length = lines.shape[1] // each
    few, half = min(each, 4), length // 2
    lines = sum(lines[:, k : length * each : each] for k in range(few)) / np.float32(few)  # half the noise
    rise = _median(lines[:, length - half :] - lines[:, :half]) * (length / (length - half)) if half else np.zeros(1)
    lines = lines - rise[:, None] * np.linspace(-0.5, 0.5, length, dtype=np.float32)
    grey = _median(lines)
    off = lines - grey[:, None]
    noise = NOISE * _median(np.abs(np.diff(off, axis=1)))[:, None] if half else np.zeros(1)
    noise = np.minimum(noise, MOST_NOISE / STANDS_OUT * tolerance)
    marks = np.abs(off) > np.maximum(tolerance, noise)
    rest = np.where(marks, 0, off)[:, : length // BLOCK * BLOCK].reshape(len(off), -1, BLOCK).mean(axis=2)
    uneven = np.abs(rest) > np.maximum(tolerance, noise / BLOCK**0.5)
    return grey, _has_small_marks(marks) & _has_small_marks(uneven)


def _median(lines: NDArray) -> NDArray:
    middle = lines.shape[1] // 2
    return np.partition(lines, middle, axis=1)[:, middle]


def _has_small_marks(out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell of each line whether what stands out is short and little."""
    length = out.shape[1]
    long = int(SMALL_MARK * length) + 1
    so_far = np.cumsum(np.pad(out, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    has_long = (so_far[:, long:] - so_far[:, :-long] == long).any(axis=1)
    return (so_far[:, -1] <= FEW_MARKS * length) & ~has_long


def _range(image: NDArray) -> float:
    """Return the difference of the 5th and 95th percentile of an image's greys, from some ten thousand of them."""
    some = image[:: 1 + image.shape[0] // 100, :: 1 + image.shape[1] // 100]
    return float(np.ptp(np.percentile(some, (5, 95))))
