"""Stored DICOM values -> shades of grey in [0, 1], by the steps of the standard; and reading header elements safely.

The part of reading an X-ray that the standard describes in PS3.3 C.11. Knows datasets, no files; used by xray.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from heartbox.xray.header import numbers, text


def grey_levels(header: Dataset, stored: np.ndarray, notes: list[str]) -> np.ndarray:
    """Map stored grey values to [0, 1] as a viewer would, before polarity (PS3.4 N.2)."""
    # Padding (PS3.3 C.7.5.1.1.2) frames the image with a value that no tissue has: no statistics from it.
    real = stored
    padding = numbers(header, "PixelPaddingValue")[:1] + numbers(header, "PixelPaddingRangeLimit")[:1]
    if padding:
        inside = (stored < min(padding)) | (stored > max(padding))
        real = stored[inside] if inside.any() else stored

    # Modality LUT or rescale, PS3.3 C.11.1.
    table = _table(header, "ModalityLUTSequence")
    slope = (numbers(header, "RescaleSlope") or [1.0])[0]
    intercept = (numbers(header, "RescaleIntercept") or [0.0])[0]
    if slope == 0:
        notes.append("Rescale Slope is 0; rescaling was left out.")
        slope, intercept = 1.0, 0.0

    def modality(values: np.ndarray) -> np.ndarray:
        return table.look_up(values) if table else values * slope + intercept

    # VOI LUT or window, PS3.3 C.11.2; where a file has both, the table is the finer statement.
    values, real = modality(stored), modality(real)
    table = _table(header, "VOILUTSequence")
    if table:
        image = table.scaled(values)
        fits = _fits(table.scaled(_sample(real)))
        name = "VOI LUT"
        alternatives = len(header.VOILUTSequence)
    else:
        centres, widths = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
        shape = text(header, "VOILUTFunction") or "LINEAR"
        name = "window"
        alternatives = min(len(centres), len(widths))
        if not alternatives:
            return stretch(values, real, notes)
        least = 1 if shape == "LINEAR" else 0
        if widths[0] < least or widths[0] == 0:
            notes.append(f"The file's window width of {widths[0]:g} is not allowed; the range of the pixels was used.")
            return stretch(values, real, notes)
        image = window(values, centres[0], widths[0], shape)
        fits = _fits(window(_sample(real), centres[0], widths[0], shape))
    if not fits:
        low, high = np.percentile(_sample(real), (0.5, 99.5))
        if high > low:
            notes.append(f"The {name} in the file does not fit its pixels; percentiles were used instead.")
            return np.clip((values - low) / (high - low), 0, 1)
        notes.append("Nearly every pixel has the same value.")
    if alternatives > 1:
        notes.append(f"The first of {alternatives} {name}s in the file was used.")
    return image


def window(values: np.ndarray, centre: float, width: float, shape: str) -> np.ndarray:
    """Apply a window so that its lower end is 0 and its upper end is 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if shape == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))
    if shape != "LINEAR_EXACT":  # LINEAR is the default, and its half-pixel offsets are the standard's
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _fits(image: np.ndarray) -> bool:
    """Tell whether windowed values show anything: enough of them unclipped, and more than a sliver of grey."""
    low, high = np.percentile(image, (0.5, 99.5))
    return bool(((image > 0.001) & (image < 0.999)).mean() >= 0.05 and high - low >= 0.1)


def stretch(values: np.ndarray, real: np.ndarray, notes: list[str]) -> np.ndarray:
    """Map values without a window to [0, 1] by the range of the real pixels.

    The whole range is kept, because a film is often exposed so that its ends are lung and bone. But a few
    dead pixels or a lead marker can lie so far out that the rest becomes one shade: where the middle
    99.8 % of pixels use less than half of the range, they set it instead and the others are clipped.
    """
    low, high = float(real.min()), float(real.max())
    inner_low, inner_high = np.percentile(_sample(real), (0.1, 99.9))
    if low == high:
        notes.append("Every pixel has the same value.")
        return np.zeros(values.shape)
    if 0 < inner_high - inner_low < (high - low) / 2:
        notes.append("A few pixels lie far outside the others' range; they were clipped.")
        low, high = inner_low, inner_high
    return np.clip((values - low) / (high - low), 0, 1)


def _sample(values: np.ndarray, most: int = 1_000_000) -> np.ndarray:
    """Every so-many-th value: percentiles of a million pixels are as good as of twenty million, and quicker."""
    values = values.ravel()
    return values[:: 1 + values.size // most]


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


def _table(header: Dataset, keyword: str) -> _Table | None:
    """Return the sequence's first lookup table, or None where there is no usable one.

    pydicom has functions for these steps too; they index 8-bit tables with 8-bit numbers, so a table of
    4096 entries of 8 bits wraps around.
    """
    item = (header.get(keyword) or [Dataset()])[0]
    descriptor, data = numbers(item, "LUTDescriptor"), item.get("LUTData")
    if len(descriptor) != 3 or data is None:
        return None
    count, first, bits = (int(number) for number in descriptor)
    count = count or 65536  # PS3.3 C.11.1.1: 0 stands for 65536
    if isinstance(data, bytes):
        little = header.file_meta.TransferSyntaxUID != ExplicitVRBigEndian
        data = np.frombuffer(data, "u1" if len(data) < 2 * count else "<u2" if little else ">u2")
    entries = np.atleast_1d(np.asarray(data, dtype=np.int64))[:count]
    return _Table(first, entries, bits) if entries.size and 1 <= bits <= 16 else None


# ---------------------------------------------------------------- header elements
