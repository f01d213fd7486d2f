"""What was named on a command line -> the X-ray files in it: files, folders, DICOMDIRs, zip archives, lists, addresses.

Knows names, lists and archives; opens no image.
"""

from __future__ import annotations

import errno
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pydicom
from pydicom.errors import InvalidDicomError

from heartbox.xray.address import is_address, list_address
from heartbox.xray.errors import XRayError, one_line, printable
from heartbox.xray.picture import is_jsrt
from heartbox.xray.reader import DICOM_ENDINGS, PICTURE_ENDINGS, begins_like_xray, is_xray_file
from heartbox.xray.source import XRaySource

MAX_MEMBERS = 100_000
LIST_ENDING = ".txt"


def find_xrays(paths: Iterable[str | Path], passed_over: list[Path] | None = None) -> list[XRaySource]:
    """List the images in what was named.

    Parameters
    ----------
    paths : iterable of path
        Files, each taken as it is; folders, searched for X-ray files in and below them; DICOMDIR files, whose images
        are listed; zip archives, whose members are; addresses such as ``s3://bucket/folder``, searched like folders,
        but by name alone. A file that ends in ``.txt`` is a list with one of these on each line.
    passed_over : list of Path, optional
        Gets the files in folders that do not look like X-rays.

    Returns
    -------
    list of XRaySource
        In the order named, each folder's and archive's by name. What cannot be listed is one source with its error.
    """
    found = []
    everything = list(_with_lists(paths))
    for named in everything:
        path = Path(named)
        if is_address(named):
            found += _at_address(named, passed_over)
        elif _is_possible(path) and path.is_dir():
            locked: list[OSError] = []
            before = len(found)
            for one in _files_below(path, locked):
                if _is_zip(one):
                    found += _members(one)
                elif is_xray_file(one):
                    found.append(_source(one))
                elif passed_over is not None:
                    passed_over.append(one)
            for error in locked:
                found.append(_source(Path(error.filename), f"this folder cannot be opened ({error.strerror})."))
            if len(found) == before and len(everything) > 1:  # of a folder named alone, the caller says so
                found.append(_source(path, "this folder holds no X-ray files (DICOM, PNG, JPEG, TIFF)."))
        elif _is_zip(path):
            found += _members(path)
        elif path.name.upper() == "DICOMDIR" and _is_possible(path) and path.is_file():
            found += _listed(path)
        else:
            found.append(_source(path))  # one that is not there gets its error where it is read
    return found


def _with_lists(paths: Iterable[str | Path]) -> Iterator[str | Path]:
    """Yield what was named, and in place of a list, what it names."""
    for named in paths:
        path = Path(named)
        if path.suffix.lower() == LIST_ENDING and _is_possible(path) and path.is_file():
            with path.open(encoding="utf-8", errors="surrogateescape") as lines:
                yield from filter(None, map(str.strip, lines))
        else:
            yield named


def _at_address(address: str, passed_over: list[Path] | None) -> list[XRaySource]:
    try:
        films, others = list_address(address)
    except XRayError as error:
        return [_source(address, str(error).removeprefix(f"{printable(address)}: "))]
    if passed_over is not None:
        passed_over += map(Path, others)
    return [XRaySource(printable(film), Path(film), address=film) for film in films]


def _source(path: str | Path, error: str = "") -> XRaySource:
    return XRaySource(printable(path if is_address(path) else path.as_posix()), Path(path), error=error)


def _is_possible(path: Path) -> bool:
    """Tell whether the disk takes such a name; a name that is too long gets its error where it is read."""
    try:
        path.stat()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)
    except ValueError:
        return False
    return True


def _files_below(folder: Path, locked: list[OSError]) -> list[Path]:
    """Return everything in and below a folder that is not a folder, by name; what kept folders from being opened, too.

    Folders that are links are entered, each folder once: a link may lead back to where it stands. Those without a
    link go first, so that files are called by their own path where they have one here.
    """
    entered: set[tuple[int, int]] = set()
    files: list[Path] = []
    waiting = [folder]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            _walk(start, entered, files, links, locked)
        waiting = sorted(links)
    return sorted(files)


def _walk(start: Path, entered: set, files: list[Path], links: list[Path], locked: list[OSError]) -> None:
    for place, folders, names in os.walk(start, onerror=locked.append):
        try:
            status = Path(place).stat()
        except OSError as error:
            locked.append(error)
            status = None
        key = (status.st_dev, status.st_ino) if status else None
        if key in entered:
            folders.clear()
            continue
        entered.add(key)
        files += [Path(place) / name for name in names]
        links += [Path(place) / name for name in folders if (Path(place) / name).is_symlink()]


def _is_zip(path: Path) -> bool:
    try:
        return path.suffix.lower() == ".zip" and path.is_file() and not path.name.startswith("._")
    except (OSError, ValueError):
        return False


def _members(path: Path) -> list[XRaySource]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(info.filename, i) for i, info in enumerate(archive.infolist()) if not info.is_dir()]
            members = sorted(members[: MAX_MEMBERS + 1])
            inner = {i for name, i in members if _is_inner_zip(name)}
            wanted = [
                (name, i) for name, i in members if i in inner or _looks_like_xray(archive, archive.infolist()[i])
            ]
    except Exception as error:
        why = one_line(error)
        return [_source(path, f"cannot be read as a zip archive ({why}). Fetch it again, or name the images.")]
    if len(members) > MAX_MEMBERS:
        return [_source(path, f"holds more than {MAX_MEMBERS} files. Unpack it by hand.")]
    if not wanted:
        return [_source(path, "holds no X-ray files.")]
    found, times = [], Counter()
    for name, position in wanted:
        times[name] += 1
        again = f" (number {times[name]} of this name)" if times[name] > 1 else ""
        error = "a zip archive in a zip archive is not opened. Unpack it by hand." if position in inner else ""
        called = printable(f"{path.as_posix()}/{name}") + again
        found.append(XRaySource(called, path, name, error, position))
    return found


def _is_inner_zip(member: str) -> bool:
    path = PurePosixPath(member)
    return path.suffix.lower() == ".zip" and not path.name.startswith("._")


def _looks_like_xray(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    last = PurePosixPath(member.filename)
    if last.name.startswith("._") or "__MACOSX" in last.parts or last.name.upper() == "DICOMDIR":
        return False
    if last.suffix.lower() in DICOM_ENDINGS + PICTURE_ENDINGS:
        return True
    if is_jsrt(last.name, member.file_size):
        return True
    try:
        with archive.open(member) as stream:
            return begins_like_xray(stream.read(132))
    except Exception:  # encrypted or damaged; said when it is asked for by its ending
        return False


def _listed(path: Path) -> list[XRaySource]:
    """Return the images that a DICOMDIR lists (PS3.3 F.3): names relative to it, one part for each folder."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns once for every name that bends the standard
            records = pydicom.dcmread(path).DirectoryRecordSequence
            images = [record for record in records if record.get("DirectoryRecordType") == "IMAGE"]
            parts = [record.ReferencedFileID for record in images if record.get("ReferencedFileID")]
    except InvalidDicomError:
        return [_source(path, "cannot be read as a DICOMDIR: damaged, or another kind of file. Name its folder.")]
    except Exception as error:
        return [_source(path, f"cannot be read as a DICOMDIR ({one_line(error)}). Name its folder.")]
    # A name that leads out of the folder is not a file of this medium.
    root = path.parent.resolve()
    files = [_as_copied(path.parent, [part] if isinstance(part, str) else [str(one) for one in part]) for part in parts]
    inside = [file for file in files if file.resolve().is_relative_to(root)]
    found = [_source(file) for file in inside]
    outside = len(files) - len(inside)
    if outside:
        which = "" if inside else "lists no images in its folder, and "
        found.append(_source(path, f"{which}{outside} of its images lie outside its folder, and are not opened."))
    return found or [_source(path, "this DICOMDIR lists no images. Name the folder that holds the images.")]


def _as_copied(folder: Path, parts: list[str]) -> Path:
    """Return the file that a DICOMDIR means, as it was copied from its medium.

    Names in a DICOMDIR are capitals without an ending (PS3.10 8.2); on a disk they may be lower case, end in .dcm, or
    carry the version number of a CD's file system (ISO 9660, ``;1``).
    """
    for part in parts:
        exact = folder / part
        if not exact.exists() and folder.is_dir():
            alike = sorted(one for one in folder.iterdir() if _plain(one.name) == _plain(part))
            exact = alike[0] if alike else exact
        folder = exact
    return folder


def _plain(name: str) -> str:
    return name.partition(";")[0].casefold().removesuffix(".dcm").removesuffix(".")
