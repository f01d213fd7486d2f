"""The one error that reading an X-ray raises, and text that is safe to show.

Knows nothing of images.
"""

from __future__ import annotations

import re
import unicodedata

TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of the direction of writing (UAX 9)


class XRayError(ValueError):
    """A file that cannot be read as an X-ray; the message names the file, what is wrong and what to do."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(words: object) -> str:
    r"""Return text that any terminal, csv and log can hold.

    File names may hold bytes that are not UTF-8 (Python reads them as lone surrogates), control characters and line
    separators, which break a table's rows, and marks that turn the direction of writing, which show another name. All
    are written as escapes, ``\xe9``, ``\x0a`` or ``\u202e``.
    """
    return "".join(_escape(letter) if _is_unprintable(letter) else letter for letter in str(words))


def _is_unprintable(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in TURNS


def _escape(letter: str) -> str:
    code = ord(letter)
    # Python maps the byte 0xE9 of a name that is not UTF-8 to U+DCE9 (PEP 383).
    code -= 0xDC00 if 0xDC80 <= code <= 0xDCFF else 0
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(error: BaseException, longest: int = 200) -> str:
    """Quote an error in one line of at most `longest` characters; its type where it has no message."""
    words = re.sub(r" at 0x[0-9a-f]+", "", str(error))  # an object's address tells a reader nothing
    return " ".join(words.split())[:longest] or type(error).__name__
