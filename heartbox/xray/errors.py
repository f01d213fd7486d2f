"""The one error that reading an X-ray raises, and text that is safe to show.

Knows nothing of images.
"""

from __future__ import annotations

import re
import unicodedata


class XRayError(ValueError):
    """A file that cannot be read as an X-ray; the message names the file, what is wrong and what to do."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(words: object) -> str:
    r"""Return text that any terminal, csv and log can hold.

    File names may hold bytes that are not UTF-8 (Python reads them as lone surrogates) and control characters, which
    break a table's rows. Both are written as escapes, ``\xe9`` or ``\x0a``.
    """
    return "".join(_escape(letter) if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in str(words))


def _escape(letter: str) -> str:
    code = ord(letter)
    # Python maps the byte 0xE9 of a name that is not UTF-8 to U+DCE9 (PEP 383).
    return f"\\x{code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code:02x}"


def one_line(error: BaseException, longest: int = 200) -> str:
    """Quote an error in one line of at most `longest` characters; its type where it has no message."""
    words = re.sub(r" at 0x[0-9a-f]+", "", str(error))  # an object's address tells a reader nothing
    return " ".join(words.split())[:longest] or type(error).__name__
