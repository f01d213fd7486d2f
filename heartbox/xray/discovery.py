"""What was named on a command line -> the X-ray files in it: files, folders, DICOMDIRs and zip archives.

Knows names and archives; opens no image.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pydicom

from heartbox.xray.errors import XRayError
from heartbox.xray.reader import DICOM_ENDINGS, MAX_FILE_BYTES, PICTURE_ENDINGS, begins_like_xray, is_xray_file

MAX_MEMBERS = 100_000


@dataclass(frozen=True)
class XRaySource:
    """One image that was named, or something named that holds none.

    Attributes
    ----------
    name : str
        What to call it: its path, or ``archive.zip/path/in/it``.
    path : Path
        The file, or the archive that it is in.
    member : str
        Its name in the archive; empty for a file.
    error : str
        Why nothing can be read; empty where reading is worth trying.
    """

    name: str
    path: Path
    member: str = ""
    error: str = ""

    @contextlib.contextmanager
    def file(self) -> Iterator[Path]:
        """Give a path to read from; a member of an archive is unpacked for as long as this lasts.

        Raises
        ------
        XRayError
            If there is an `error`, or the member cannot be unpacked.
        """
        if self.error:
            raise XRayError(f"{self.name}: {self.error}")
        if not self.member:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="heartbox-") as folder:
            # A name in an archive may lead anywhere; its last part, without its folders, leads nowhere.
            unpacked = Path(folder) / f"member{PurePosixPath(self.member).suffix[:10]}"
            try:
                with (
                    zipfile.ZipFile(self.path) as archive,
                    archive.open(self.member) as stream,
                    unpacked.open("wb") as target,
                ):
                    shutil.copyfileobj(_Limited(stream, self.name), target)
            except XRayError:
                raise
            except Exception as error:  # damaged, encrypted, of an unknown compression: zipfile has one for each
                raise XRayError(f"{self.name}: cannot be unpacked ({error}). Unpack the archive by hand.") from error
            try:
                yield unpacked
            except XRayError as error:
                raise XRayError(str(error).replace(str(unpacked), self.name)) from error


class _Limited:
    """A stream that gives no more than a file may hold, whatever the archive says of its size."""

    def __init__(self, stream, name: str):
        self.stream, self.name, self.left = stream, name, MAX_FILE_BYTES

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise XRayError(f"{self.name}: more than {MAX_FILE_BYTES // 2**20} MiB when unpacked: no X-ray.")
        return block


def find_xrays(paths: Iterable[str | Path], passed_over: list[Path] | None = None) -> list[XRaySource]:
    """List the images in what was named.

    Parameters
    ----------
    paths : iterable of path
        Files, each taken as it is; folders, searched for X-ray files in and below them; DICOMDIR files, whose images
        are listed; zip archives, whose members are.
    passed_over : list of Path, optional
        Gets the files in folders that do not look like X-rays.

    Returns
    -------
    list of XRaySource
        In the order named, each folder's and archive's by name. What cannot be listed is one source with its error.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            locked: list[OSError] = []
            for one in _files_below(path, locked):
                if _is_zip(one):
                    found += _members(one)
                elif is_xray_file(one):
                    found.append(XRaySource(one.as_posix(), one))
                elif passed_over is not None:
                    passed_over.append(one)
            for error in locked:
                place = Path(error.filename)
                found.append(
                    XRaySource(place.as_posix(), place, error=f"this folder cannot be opened ({error.strerror}).")
                )
        elif _is_zip(path):
            found += _members(path)
        elif path.name.upper() == "DICOMDIR" and path.is_file():
            found += _listed(path)
        else:
            found.append(XRaySource(path.as_posix(), path))  # one that is not there gets its error where it is read
    return found


def _files_below(folder: Path, locked: list[OSError]) -> list[Path]:
    """Return everything in and below a folder that is no folder, by name; what kept folders from being opened, too."""
    walk = os.walk(folder, onerror=locked.append)
    return sorted(Path(place) / name for place, _, names in walk for name in names)


def _is_zip(path: Path) -> bool:
    try:
        return path.suffix.lower() == ".zip" and path.is_file() and not path.name.startswith("._")
    except (OSError, ValueError):
        return False


def _members(path: Path) -> list[XRaySource]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(info.filename for info in archive.infolist()[: MAX_MEMBERS + 1] if not info.is_dir())
            wanted = [name for name in names if _looks_like_xray(archive, name)]
    except Exception as error:
        fault = f"cannot be read as a zip archive ({error}). Fetch it again, or name the images themselves."
        return [XRaySource(path.as_posix(), path, error=fault)]
    if len(names) > MAX_MEMBERS:
        return [XRaySource(path.as_posix(), path, error=f"holds more than {MAX_MEMBERS} files. Unpack it by hand.")]
    if not wanted:
        return [XRaySource(path.as_posix(), path, error="holds no X-ray files.")]
    return [XRaySource(f"{path.as_posix()}/{name}", path, name) for name in wanted]


def _looks_like_xray(archive: zipfile.ZipFile, name: str) -> bool:
    last = PurePosixPath(name)
    if last.name.startswith("._") or "__MACOSX" in last.parts or last.name.upper() == "DICOMDIR":
        return False
    if last.suffix.lower() in DICOM_ENDINGS + PICTURE_ENDINGS:
        return True
    try:
        with archive.open(name) as stream:
            return begins_like_xray(stream.read(132))
    except Exception:  # encrypted or damaged; said when it is asked for by its ending
        return False


def _listed(path: Path) -> list[XRaySource]:
    """Return the images that a DICOMDIR lists (PS3.3 F.3): names relative to it, one part for each folder."""
    try:
        records = pydicom.dcmread(path).DirectoryRecordSequence
        images = [record for record in records if record.get("DirectoryRecordType") == "IMAGE"]
        parts = [record.ReferencedFileID for record in images if "ReferencedFileID" in record]
    except Exception as error:
        return [XRaySource(path.as_posix(), path, error=f"cannot be read as a DICOMDIR ({error}). Name its folder.")]
    files = [path.parent.joinpath(*([part] if isinstance(part, str) else map(str, part))) for part in parts]
    # A name that leads out of the folder is no file of this medium.
    inside = [file for file in files if file.resolve().is_relative_to(path.parent.resolve())]
    return [XRaySource(file.as_posix(), file) for file in inside] or [
        XRaySource(path.as_posix(), path, error="this DICOMDIR lists no images. Name the folder that holds the images.")
    ]
