"""Files that are complete or absent, whatever stops the program, and that never replace the ones being read.

Knows paths; it does not know what is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def keep_apart(source: str | Path, out: str | Path) -> None:
    """Refuse to write into the folder that is read, because files of the same name would be lost.

    Raises
    ------
    ValueError
        If both are the same folder.
    """
    source, out = Path(source).resolve(), Path(out).resolve()
    if source == out:
        raise ValueError(f"{out}: this is where the raw files lie; choose another folder for the prepared ones")


@contextlib.contextmanager
def complete_or_absent(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and rename it to `path` only if the block succeeds.

    Parameters
    ----------
    path : path
        Where the finished file belongs. Its folder is made if necessary. A file that is already there is replaced in
        one step, or kept if writing fails.

    Yields
    ------
    Path
        The temporary path, with the same suffix. Its name begins with a dot: who reads all files of a folder, such as
        the parts of a Parquet table, passes over it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
