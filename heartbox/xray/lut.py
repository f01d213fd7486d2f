"""Stored DICOM values -> shades of grey in [0, 1], by the steps of the standard (PS3.3 C.11, PS3.4 N.2).

Knows headers and values; no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from heartbox.xray.contrast import percentiles, take_sample
from heartbox.xray.errors import XRayError
from heartbox.xray.header import integer, numbers, text

MOST = (0.5, 99.5)  # percentiles between which a window must show something
INNER = (0.1, 99.9)  # percentiles that set the range where a few pixels lie far outside the others'
LEVELS = 2**16  # in a table; only files of 32 bits can have more
BLOCK = 2**20  # values mapped at a time: in double precision, all those of a large film would take a gigabyte
Mapping = Callable[[np.ndarray], np.ndarray]  # values -> float64 of the same shape


def grey_levels(
    header: Dataset, stored: np.ndarray, padding: tuple[float, float] | None, inverted: bool, notes: list[str]
) -> np.ndarray:
    """Map stored grey values to [0, 1] as a viewer would.

    Parameters
    ----------
    header : Dataset
        With its transfer syntax.
    stored : ndarray
        (rows, columns), integers.
    padding : tuple of float, optional
        Lowest and highest value that frames the image; no statistics are taken of these.
    inverted : bool
        Whether the smallest value is shown white (MONOCHROME1).
    notes : list of str
        What was decided is added here.

    Returns
    -------
    ndarray of float32, shape (rows, columns)

    Raises
    ------
    XRayError
        If the header's rescaling gives values that are not finite.
    """
    levels, counts, index = _histogram(stored, padding)
    present = counts > 0
    modality = _modality(header, notes)
    real, counts = modality(levels[present]), counts[present]
    if not np.isfinite(real).all():
        raise XRayError(
            "the header's Rescale Slope and Intercept, or its Modality LUT, make values too large to be greys. "
            "Export the file again, or correct them with a DICOM editor."
        )
    voi = _voi(header, real, counts, notes)
    if voi is None:
        voi = _range(float(real.min()), float(real.max()), percentiles(real, counts, INNER), notes)

    def grey(values: np.ndarray) -> np.ndarray:
        return 1 - voi(modality(values)) if inverted else voi(modality(values))

    if index is None:
        return in_blocks(grey, stored)
    return _look_up(grey(levels).astype(np.float32), index)  # each level is mapped once, not each pixel


def _histogram(
    stored: np.ndarray, padding: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the levels of an image, how many pixels outside the padding have each, and every pixel's level.

    Where values are too far apart for a table, the levels are those of a sample and of both ends, and no pixel has one.
    """
    low, high = int(stored.min()), int(stored.max())
    if high - low >= LEVELS:
        real = stored.ravel()
        real = real[_is_real(real, padding)]
        ends = [real.min(), real.max()]
        return *np.unique(np.append(take_sample(real), ends), return_counts=True), None
    # Wraps around in the values' own type, so that the difference is right whatever their sign.
    index = (stored - stored.dtype.type(low)).view(f"u{stored.dtype.itemsize}")
    index = index if index.dtype.itemsize <= 2 else index.astype(np.uint16)
    levels = np.arange(low, high + 1)
    counts = cv2.calcHist([index], [0], None, [len(levels)], [0, len(levels)]).ravel()  # a third of np.bincount's time
    present = np.flatnonzero(counts)
    counts[present[~_is_real(levels[present], padding)]] = 0
    return levels, counts, index


def _look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the table's value at each index, a block of rows at a time: NumPy makes eight bytes of each index."""
    image = np.empty(index.shape, table.dtype)
    for rows in _blocks(index):
        np.take(table, index[rows], out=image[rows], mode="clip")  # all are inside; "raise" would copy the result
    return image


def _is_real(values: np.ndarray, padding: tuple[float, float] | None) -> np.ndarray:
    """Tell which values are not padding; all count, where there are no others."""
    if padding is None:
        return np.ones(values.shape, bool)
    real = (values < padding[0]) | (values > padding[1])
    return real if real.any() else ~real


def in_blocks(function: Mapping, values: np.ndarray) -> np.ndarray:
    """Apply a function that works value by value, a block of rows at a time, and return float32."""
    image = np.empty(values.shape[:2], np.float32)
    for rows in _blocks(values):
        image[rows] = function(values[rows])
    return image


def _blocks(values: np.ndarray) -> Iterator[slice]:
    """Yield the rows of one block after the other."""
    step = max(1, BLOCK // max(values.shape[1], 1))
    for start in range(0, len(values), step):
        yield slice(start, start + step)


def _modality(header: Dataset, notes: list[str]) -> Mapping:
    """Return the modality step: a table or a straight line (PS3.3 C.11.1)."""
    table = _table(header, "ModalityLUTSequence", notes)
    if table:
        return table.look_up
    slope = (numbers(header, "RescaleSlope") or [1.0])[0]
    intercept = (numbers(header, "RescaleIntercept") or [0.0])[0]
    if slope == 0:
        notes.append("Rescale Slope is 0; rescaling was left out.")
        slope, intercept = 1.0, 0.0
    return lambda values: values * slope + intercept


def _voi(header: Dataset, real: np.ndarray, counts: np.ndarray, notes: list[str]) -> Mapping | None:
    """Return the VOI step (PS3.3 C.11.2) for values and their numbers; None where the header has none of use.

    Where a file has both a table and a window, the table is the finer statement.
    """
    table = _table(header, "VOILUTSequence", notes)
    if table:
        name, alternatives, mapping = "VOI LUT", len(header.VOILUTSequence), table.scaled
    else:
        centres, widths = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
        shape = text(header, "VOILUTFunction") or "LINEAR"
        name, alternatives = "window", min(len(centres), len(widths))
        if not alternatives:
            return None
        least = 1 if shape == "LINEAR" else 0
        if widths[0] < least or widths[0] == 0:
            notes.append(f"The file's window width of {widths[0]:g} is not allowed; the range of the pixels was used.")
            return None

        def mapping(values: np.ndarray) -> np.ndarray:
            return window(values, centres[0], widths[0], shape)

    if not _fits(mapping(real), counts):
        low, high = percentiles(real, counts, MOST)
        if high > low:
            notes.append(f"The {name} in the file does not fit its pixels; percentiles were used instead.")
            return lambda values: np.clip((values - low) / (high - low), 0, 1)
    if alternatives > 1:
        notes.append(f"The first of {alternatives} {name}s in the file was used.")
    return mapping


def window(values: np.ndarray, centre: float, width: float, shape: str) -> np.ndarray:
    """Apply a window so that its lower end is 0 and its upper end is 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if shape == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))
    if shape != "LINEAR_EXACT":  # LINEAR is the default, and its half-pixel offsets are the standard's
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _fits(greys: np.ndarray, counts: np.ndarray) -> bool:
    """Tell whether windowed values show anything: enough of them unclipped, and more than a sliver of grey."""
    low, high = percentiles(greys, counts, MOST)
    return bool(counts[(greys > 0.001) & (greys < 0.999)].sum() >= 0.05 * counts.sum() and high - low >= 0.1)


def _range(low: float, high: float, inner: np.ndarray, notes: list[str]) -> Mapping:
    """Return the mapping of the pixels' own range to [0, 1].

    The whole range is kept, because a film is often exposed so that its ends are lung and bone. But a few
    dead pixels or a lead marker can lie so far out that the rest becomes one shade: where the middle
    99.8 % of pixels (`INNER`) use less than half of the range, they set it instead and the others are clipped.
    """
    if low == high:
        return lambda values: np.zeros(values.shape)
    if 0 < inner[1] - inner[0] < (high - low) / 2:
        notes.append("A few pixels lie far outside the others' range; they were clipped.")
        low, high = inner
    return lambda values: np.clip((values - low) / (high - low), 0, 1)


def stretch(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Map the values of a picture file to [0, 1] by their own range, without a few that lie far outside it."""
    inner = np.percentile(take_sample(values).astype(np.float64), INNER)
    mapping = _range(float(values.min()), float(values.max()), inner, notes)
    return in_blocks(lambda block: mapping(block.astype(np.float64)), values)


class _Table(NamedTuple):
    """A lookup table of the modality or VOI step (PS3.3 C.11.1.1, C.11.2.1.1)."""

    first: int
    entries: np.ndarray
    bits: int

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Values below the first or beyond the last entry get that entry."""
        index = np.clip(np.rint(np.asarray(values, np.float64) - self.first), 0, len(self.entries) - 1)
        return self.entries[index.astype(np.intp)].astype(np.float64)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Look up and scale to [0, 1], by the bits the table claims or, where that is untrue, by its maximum."""
        full, peak = 2**self.bits - 1, int(self.entries.max())
        return self.look_up(values) / (full if full / 4 <= peak <= full else max(peak, 1))


def _table(header: Dataset, keyword: str, notes: list[str]) -> _Table | None:
    """Return the sequence's first lookup table, or None where there is no usable one.

    pydicom has functions for these steps too; they index 8-bit tables with 8-bit numbers, so a table of
    4096 entries of 8 bits wraps around.
    """
    try:
        item = (header.get(keyword) or [Dataset()])[0]
        descriptor, data = numbers(item, "LUTDescriptor"), item.get("LUTData")
    except Exception:  # garbled sequences fail inside pydicom in many ways
        return None
    if len(descriptor) != 3 or data is None:
        return None
    count, first, bits = (int(number) for number in descriptor)
    count = count or 65536  # PS3.3 C.11.1.1: 0 stands for 65536
    if first > 2**15 - 1 and integer(header, "PixelRepresentation") == 1:
        first -= 2**16  # written unsigned, though the pixels are signed
    if isinstance(data, bytes):
        little = header.file_meta.TransferSyntaxUID != ExplicitVRBigEndian
        kind = "u1" if bits <= 8 and len(data) < 2 * count else "<u2" if little else ">u2"
        data = np.frombuffer(data, kind, count=len(data) // np.dtype(kind).itemsize)
    entries = np.atleast_1d(np.asarray(data, dtype=np.int64))[:count]
    if not entries.size or not 1 <= bits <= 16:
        return None
    if len(entries) < count:
        name = "VOI LUT" if keyword.startswith("VOI") else "Modality LUT"
        notes.append(f"The {name} has {len(entries)} entries where it says {count}; it was not used.")
        return None
    return _Table(first, entries, bits)
