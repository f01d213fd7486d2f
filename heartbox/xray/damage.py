"""Signs of damage in compressed pixels for which decoders raise no error.

A JPEG decoder fills in what is missing and reports success. It prints a remark on standard error, or none at all; both
are looked for here. Knows codestreams and decoders; no headers.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from heartbox.utils.temporary import writing_temporary_files
from heartbox.xray.codestream import EOI

# What libjpeg says, inside OpenCV and Pillow, of data it could only guess at; and OpenJPEG.
DAMAGE = re.compile(
    "Corrupt JPEG data|Premature end|Unsupported marker|Bogus|Stream too short|Failed to decode|inconsistent"
)
SURPLUS = re.compile(r"Corrupt JPEG data: \d{1,2} extraneous bytes before marker 0xd9")
SURPLUS_FOUND = "its last bytes belong to no pixel"
TAIL = 8  # bytes at the end of a codestream that are changed to see whether they belong to a pixel
FILLING = b"\x5a\xa5" * 32  # bytes added to a codestream to see whether it lacks any

# A process has one standard error, so one thread at a time listens to it.
_LISTENING = threading.Lock()


@contextlib.contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Catch what decoders written in C print on standard error, where Python cannot see it.

    Yields
    ------
    list of str
        The lines about damage, filled in when the block is left. All others are dropped: remarks on colour profiles
        and the like.
    """
    with _LISTENING:
        yield from _listen()


def _listen() -> Iterator[list[str]]:
    lines: list[str] = []
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # a program without a standard error
        yield lines
        return
    with _scratch_file() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            said = caught.read().decode("utf-8", "replace").splitlines()
            lines += [line.strip() for line in said if DAMAGE.search(line)]


def _scratch_file() -> BinaryIO:
    """Return a file for what decoders say: in memory where the system has such files, because a disk may be full."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("decoder-messages"), "w+b")
    with writing_temporary_files():
        return tempfile.TemporaryFile()


def is_cut_off(data: bytes, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Tell whether a JPEG lacks data: then bytes added before its end marker become pixels.

    Parameters
    ----------
    data : bytes
        The codestream, with its end marker.
    pixels : ndarray
        What it decodes to.
    decode : callable
        The decoder.
    """
    return not np.array_equal(decode(data[:-2] + FILLING + EOI), pixels)


def has_surplus(data: bytes, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Tell whether a JPEG has bytes that belong to no pixel: then changing its last ones changes nothing.

    Either they are padding, which costs no pixel, or the decoder lost its place at damaged bytes and came to the
    last pixel too early. Parameters as in `is_cut_off`.
    """
    # 0xFF begins markers, and 0x00 may follow it; neither is touched nor made.
    tail = bytes(byte if byte in (0, 0xFF) else (byte ^ 0x7E) or 1 for byte in data[-2 - TAIL : -2])
    try:
        return np.array_equal(decode(data[: -2 - TAIL] + tail + EOI), pixels)
    except RuntimeError:  # what was changed makes no sense any more, so it was needed
        return False
