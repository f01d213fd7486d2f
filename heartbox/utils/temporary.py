"""What is said where nothing can be written to the system's temporary folder.

Knows the folder; it does not know what is written.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class NoTemporaryFolder(OSError):
    """Nothing can be written to the temporary folder; the message says where it is and how to choose another."""


@contextlib.contextmanager
def writing_temporary_files() -> Iterator[None]:
    """Turn an error of the system in this block into one that says what to do.

    Raises
    ------
    NoTemporaryFolder
        In place of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            error.filename = tempfile.gettempdir()
        where = error.filename or "no folder for temporary files can be written"
        raise NoTemporaryFolder(
            f"{where}: {error.strerror or error}. Free some space there, or name another folder in the environment "
            "variable TMPDIR."
        ) from error
