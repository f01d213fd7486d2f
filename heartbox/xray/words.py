"""Values as they lie in a file, in words that have more bits than they use -> values: spare bits, signs, padding.

Knows words and the header elements that describe their bits; no files and no grey levels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from heartbox.xray.errors import XRayError
from heartbox.xray.header import integer, numbers

MOST_ODD = 0.005  # of the pixels: stray ones, markers burnt in; a film read wrongly has far more


class Words(NamedTuple):
    """Values as they lie in the file: unsigned words, of which some bits are used."""

    words: np.ndarray
    width: int  # bits of a word
    stored: int  # bits that are used, as the header says or as is assumed
    signed: bool
    is_compressed: bool = False


def odd_bits(header: Dataset, found: Words) -> np.ndarray:
    """Return which words use bits above those stored, for no reason that the standard knows.

    Overlays may lie in the spare bits (PS3.3 C.9.2, retired), a negative value has its sign in them, and padding may
    be any value: those are no fault.
    """
    words, width, stored, signed, _ = found
    spare = words >> words.dtype.type(stored)
    for group in range(0x6000, 0x6020, 2):
        place = header.get((group, 0x0102))
        if place is not None and isinstance(place.value, int) and stored <= place.value < width:
            spare = spare & ~words.dtype.type(1 << (place.value - stored))
    odd = spare != 0
    if signed:
        odd &= spare != (1 << (width - stored)) - 1
    for word in _padding_words(header, width):
        odd &= words != word
    return odd


def settled(header: Dataset, found: Words, notes: list[str]) -> np.ndarray:
    """Return words as values: spare bits left out, the sign applied.

    Words whose values do not lie where the header says are refused: a film stored with Bits Stored 10 that uses 12,
    or in the upper bits of its words (High Bit, as old files have it), would come out as noise.
    """
    words, width, stored, signed, is_compressed = found
    if not _uses_spare_bits(found):  # as in most files, and told in a single pass
        return _signed_values(words, width, stored) if signed else words
    odd = odd_bits(header, found)
    share = float(odd.mean())
    if share > MOST_ODD:
        raise XRayError(
            f"{share:.0%} of the pixels use bits above the {stored} of Bits Stored (High Bit is "
            f"{integer(header, 'HighBit')}): the header is wrong about where their grey values lie. Export the "
            "file again, or correct Bits Stored and High Bit with a DICOM editor."
        )
    if share and is_compressed and not signed:  # lossy compression overshoots, which must not turn white to black
        words = np.where(odd, words.dtype.type(2**stored - 1), words)
    elif share:
        notes.append(f"{int(odd.sum())} pixels use bits above Bits Stored; these bits were left out.")
    values = _signed_values(words, width, stored) if signed else words & words.dtype.type(2**stored - 1)
    # Padding that needs the spare bits keeps them, so that no grey of the film looks like it.
    for word in _padding_words(header, width):
        if not _is_within(word, width, stored, signed):
            values = np.where(words == word, words.view(values.dtype), values)
    return values


def _uses_spare_bits(found: Words) -> bool:
    """Tell whether any word has a bit above those stored that is not the sign of a negative value."""
    words, width, stored, signed, _ = found
    if stored == width:
        return False
    if signed:
        words = words.view(f"i{words.dtype.itemsize}")
    return bool(int(words.max()) >= 2**stored or int(words.min()) < -(2**stored))


def _signed_values(words: np.ndarray, width: int, stored: int) -> np.ndarray:
    shift = words.dtype.type(width - stored)
    values = (words << shift).view(f"i{words.dtype.itemsize}")
    return values >> values.dtype.type(width - stored)


def _is_within(word: int, width: int, stored: int, signed: bool) -> bool:
    spare = word >> stored
    return spare == 0 or (signed and spare == (1 << (width - stored)) - 1)


def _padding_words(header: Dataset, width: int) -> list[int]:
    """Return the words of padding; its elements are often written signed for unsigned pixels, or the reverse."""
    found = [numbers(header, keyword)[:1] for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    return [int(one[0]) & (2**width - 1) for one in found if one]


def padding(header: Dataset, found: Words) -> tuple[float, float] | None:
    """Return the lowest and highest value of padding, as it reads among the values."""
    _, width, stored, signed, _ = found
    values = []
    for word in _padding_words(header, width):
        if not signed:
            values.append(word)
        else:
            top = stored if _is_within(word, width, stored, signed) else width
            word &= 2**top - 1
            values.append(word - 2**top if word >> (top - 1) else word)
    return (min(values), max(values)) if values else None
