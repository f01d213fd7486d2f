"""The one error that reading an X-ray raises, and how another library's error is quoted in it."""

from __future__ import annotations

import re


class XRayError(ValueError):
    """A file that cannot be read as an X-ray; the message names the file, what is wrong and what to do."""


def one_line(error: BaseException, longest: int = 200) -> str:
    """Quote an error in one line of at most `longest` characters; its type where it has no message."""
    words = re.sub(r" at 0x[0-9a-f]+", "", str(error))  # an object's address tells a reader nothing
    return " ".join(words.split())[:longest] or type(error).__name__
