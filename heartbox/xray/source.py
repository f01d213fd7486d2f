"""One image that the user named, as a file, a member of a zip archive or an address, and a path to read it from.

Knows archives and temporary folders; opens no image.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from heartbox.utils.temporary import FULL, writing_temporary_files
from heartbox.xray.address import open_address, reason_of
from heartbox.xray.errors import XRayError, printable
from heartbox.xray.reader import MAX_FILE_BYTES

TEMPORARY = "heartbox-"  # how the names of temporary folders begin
IN_USE = "in-use"
GRACE = 60.0  # seconds


@dataclass(frozen=True, slots=True)  # an archive has a million of them
class XRaySource:
    """One image that was named, or something named that holds none.

    Attributes
    ----------
    name : str
        What to call it in tables and messages: its path, or ``archive.zip/path/in/it``, with anything that cannot be
        printed escaped.
    path : Path
        The file, or the archive that it is in.
    member : str
        Its name in the archive; empty for a file.
    error : str
        Why nothing can be read; empty where reading is worth trying.
    position : int
        Where the member stands in the archive's list: two members may have the same name.
    address : str
        Where it is fetched from, ``s3://bucket/film.dcm``; empty for what lies on this machine's disks.
    """

    name: str
    path: Path
    member: str = ""
    error: str = ""
    position: int = 0
    address: str = ""

    @contextlib.contextmanager
    def file(self) -> Iterator[Path]:
        """Give a path to read from; a member of an archive, or what is fetched, is there for as long as this lasts.

        Raises
        ------
        XRayError
            If there is an `error`, or the member cannot be unpacked or fetched.
        NoTemporaryFolder
            If there is no place to unpack or fetch it to.
        """
        if self.error:
            raise XRayError(f"{self.name}: {self.error}")
        with contextlib.ExitStack() as stack:
            path = self.path
            if self.member or self.address:
                # A name in an archive may lead anywhere; its last part, without its folders, leads nowhere.
                copy = f"member{PurePosixPath(self.member or self.address).suffix[:10]}"
                path = stack.enter_context(temporary_folder()) / copy
                self._copy_to(path)
            try:
                yield path
            except XRayError as error:
                raise XRayError(str(error).replace(printable(path), self.name)) from error

    def _copy_to(self, target: Path) -> None:
        done, way_out = ("fetched", "") if self.address else ("unpacked", " Unpack the archive by hand.")
        try:
            with self._stream() as stream, target.open("wb") as file:
                shutil.copyfileobj(_Limited(stream, self.name), file)
        except XRayError:
            raise
        except Exception as error:  # zipfile and each protocol have one for each fault
            if isinstance(error, OSError) and error.errno in FULL:
                with writing_temporary_files():
                    raise
            why = "it is encrypted" if "encrypted" in str(error) else reason_of(error)
            raise XRayError(f"{self.name}: cannot be {done} ({why}).{way_out}") from error

    @contextlib.contextmanager
    def _stream(self) -> Iterator[BinaryIO]:
        if self.address:
            with open_address(self.address) as stream:
                yield stream
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(archive.infolist()[self.position]) as stream:
                yield stream


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder that is removed afterwards; what a killed process leaves is removed when the next one is made.

    A patient's film must not stay behind. A folder is in use for as long as the file in it that is kept open can be
    locked by nobody else, which the system ends with the process, however that ends.
    """
    with writing_temporary_files():
        _remove_abandoned()
        temporary = tempfile.TemporaryDirectory(prefix=TEMPORARY, ignore_cleanup_errors=True)
    with temporary as name:
        folder = Path(name)
        with (folder / IN_USE).open("wb") as mark:
            _lock(mark)
            yield folder


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another user's
            if _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / IN_USE).open("r+b") as mark:
            return _lock(mark)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > GRACE  # it may be a moment old, its mark not yet written


def _lock(mark: BinaryIO) -> bool:
    """Lock a file for as long as it is open; False where another process has locked it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(mark.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class _Limited:
    """A stream that gives no more than a file may hold, whatever the archive says of its size."""

    def __init__(self, stream, name: str):
        self.stream, self.name, self.left = stream, name, MAX_FILE_BYTES

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise XRayError(f"{self.name}: more than {MAX_FILE_BYTES // 2**20} MiB when unpacked, so no X-ray.")
        return block
