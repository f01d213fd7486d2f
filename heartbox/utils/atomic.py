"""Writing files so that each is complete or absent, whatever stops the program half-way, and none over what is read.

Knows nothing of what it writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def keep_apart(source: str | Path, out: str | Path) -> None:
    """Refuse a folder to write to that is the one that is read: files of one name would be lost.

    Raises
    ------
    ValueError
        If both are one folder.
    """
    source, out = Path(source).resolve(), Path(out).resolve()
    if source == out:
        raise ValueError(f"{out}: this is where the raw files lie; give the prepared ones a folder of their own")


@contextlib.contextmanager
def complete_or_absent(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, and rename it into place only if all went well.

    Parameters
    ----------
    path : path
        Where the finished file is to stand. Its folder is made if need be; a file already there is replaced
        in one step, or kept as it was where the writing fails.

    Yields
    ------
    Path
        The path to write to, with the same ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
