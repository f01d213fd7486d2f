"""Header elements of a DICOM dataset, read safely: garbled values count as absent.

Knows datasets; no pixels.
"""

from __future__ import annotations

import math

from pydicom.dataset import Dataset

PHANTOM_MANUFACTURER = "Heartbox phantom"  # by which a file says that there is no patient in it


def numbers(header: Dataset, keyword: str) -> list[float]:
    """Return an element's finite numbers; an absent, empty or garbled element gives none."""
    try:
        value = header.get(keyword)
        if value is None or isinstance(value, str | bytes):
            return [float(value)] if value else []
        values = [float(one) for one in value] if hasattr(value, "__iter__") else [float(value)]
    except Exception:  # garbled values fail inside pydicom in many ways
        return []
    return values if all(math.isfinite(one) for one in values) else []


def integer(header: Dataset, keyword: str) -> int:
    """Return an element's first number as an integer, 0 where there is none."""
    return int((numbers(header, keyword) or [0])[0])


def text(header: Dataset, keyword: str, upper: bool = True) -> str:
    """Return an element as text without padding, in capitals if `upper`; empty where it is absent or garbled."""
    try:
        words = str(header.get(keyword) or "").strip().strip("\0")
    except Exception:  # garbled values fail inside pydicom in many ways
        return ""
    return words.upper() if upper else words
