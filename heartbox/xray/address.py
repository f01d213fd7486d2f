"""Films that lie at an address of object storage or another file system that fsspec knows: ``s3://bucket/film.dcm``.

Knows addresses and fsspec; opens no image. Each protocol needs a package of its own, s3fs for ``s3://``.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import BinaryIO

from heartbox.xray.errors import XRayError, one_line
from heartbox.xray.reader import DICOM_ENDINGS, PICTURE_ENDINGS


def is_address(named: object) -> bool:
    """Tell an address from a path."""
    return isinstance(named, str) and "://" in named


def list_address(address: str) -> tuple[list[str], list[str]]:
    """Return the addresses of the films at and below one, and those of other files, both by name.

    By names alone: to look into each of a million objects would take a request each. A name without an ending counts
    as a film's, because DICOM files often have none.

    Raises
    ------
    XRayError
        If it cannot be listed, or there is nothing.
    """
    if _ending(address) in DICOM_ENDINGS + PICTURE_ENDINGS:
        return [address], []  # a film that is named is not looked for: a list may name a million
    try:
        system, path = _find(address)
        names = [system.unstrip_protocol(name) for name in sorted(system.find(path))]
        system.invalidate_cache()  # of what each object is like, which for a million is much memory
    except Exception as error:  # each protocol has exceptions of its own
        raise XRayError(f"{address}: cannot be listed ({reason_of(error)}).") from error
    films = [name for name in names if _ending(name) in ("", *DICOM_ENDINGS, *PICTURE_ENDINGS)]
    films = [name for name in films if PurePosixPath(name).name.upper() != "DICOMDIR"]
    if not names:
        raise XRayError(f"{address}: there is nothing at this address.")
    return films, sorted(set(names) - set(films))


def open_address(address: str) -> BinaryIO:
    """Open what lies at an address for reading; each protocol has exceptions of its own."""
    system, path = _find(address)
    return system.open(path, "rb")


def reason_of(error: Exception) -> str:
    """Return an error's message, its type where that says more, and how to install what a protocol needs."""
    if isinstance(error, ImportError):
        return f'{one_line(error).rstrip(".")}; in the folder of Heartbox: python -m pip install ".[scale]"'
    kind = "" if isinstance(error, (RuntimeError, ValueError)) else f"{type(error).__name__}: "
    return f"{kind}{one_line(error)}"


def _find(address: str):
    from fsspec.core import url_to_fs

    return url_to_fs(address)


def _ending(address: str) -> str:
    return PurePosixPath(address).suffix.lower()
