"""Fetch the public Cardiothoracic Ratio dataset (JSRT and Wingspan films with masks) without an account.

The resulting folder is complete and checked, or absent. Knows the dataset's address and layout; it does not know boxes,
training or other datasets.
"""

from __future__ import annotations

import argparse
import http.client
import re
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import cv2
import numpy as np

from heartbox.utils.progress import progress_bar

CTR_PAGE = "https://github.com/eveningdong/cardiothoracic_ratio_estimation_dataset"
CTR_COMMIT = "38768ecc17d0bb236057faa726959264cd624cba"  # pinned, so that everyone gets the same films and masks
CTR_URL = f"{CTR_PAGE}/archive/{CTR_COMMIT}.zip"
CTR_COUNTS = {"wingspan": 259, "jsrt": 247}  # films, each with three masks, as published
ORGANS = ("heart", "left_lung", "right_lung")
WANTED = re.compile(rf"(?:^|/)((?:{'|'.join(CTR_COUNTS)})/(?:png|mask/(?:{'|'.join(ORGANS)}))/[^/]+\.png)$")
MAX_FILE_BYTES = 2**25  # of one unpacked file; the largest is some 300 kB
MAX_TOTAL_BYTES = 2**31  # of the archive, and of all that is unpacked from it
BLOCK = 2**18


class DownloadError(RuntimeError):
    """The dataset could not be fetched; the message says what failed, what to do and how to do it by hand."""


def download_ctr(
    folder: str | Path = "data/ctr",
    url: str = CTR_URL,
    progress: bool = True,
    counts: Mapping[str, int] | None = CTR_COUNTS,
    timeout: float = 30.0,
) -> Path:
    """Fetch the Cardiothoracic Ratio dataset, check it and put it in place.

    The dataset (MIT licence) holds 506 frontal films of 512 x 512 pixels in `{wingspan,jsrt}/png/`, each with
    masks of the same name in `{wingspan,jsrt}/mask/{heart,left_lung,right_lung}/`. Cite Dong 2018 (Wingspan),
    Shiraishi 2000 (JSRT) and van Ginneken 2006 (JSRT masks).

    An interrupted transfer leaves `<folder>.zip.part` beside the folder. The next call continues it if the server
    allows, and otherwise starts over.

    Parameters
    ----------
    folder : path
        Where the dataset goes. If a complete one is there already, nothing is fetched.
    url : str
        A zip archive with the folders `wingspan` and `jsrt` anywhere in it.
    progress : bool
        Whether to print bars and messages to standard output.
    counts : mapping or None
        Number of films in each set; None accepts any number above zero.
    timeout : float
        Seconds to wait for the server, at the start and for each block.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    DownloadError
        If it cannot be fetched, is damaged or differs from the published one. No partial folder is left behind.
    """
    folder = Path(folder)
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    part = folder.with_name(folder.name + ".zip.part")
    try:
        if _is_complete(folder, counts, progress):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        resumed = _fetch(url, part, timeout, progress)
        try:
            _unpack(part, folder, counts, progress)
        except zipfile.BadZipFile:
            part.unlink()
            if not resumed:
                raise
            # The two parts may come from different archives: fetch it again in one piece.
            _fetch(url, part, timeout, progress)
            _unpack(part, folder, counts, progress)
        part.unlink()
    except DownloadError as error:
        raise DownloadError(f"{error} {_by_hand(folder)}") from error.__cause__
    except zipfile.BadZipFile as error:
        part.unlink(missing_ok=True)
        raise DownloadError(
            f"What {url} sent is not a usable zip archive ({error}). Run it again; behind a proxy or a login page, "
            f"open the address in a browser first. {_by_hand(folder)}"
        ) from error
    except OSError as error:
        raise DownloadError(
            f"{folder} cannot be written ({error}). Check the disk's free space and the folder's permissions."
        ) from error
    if progress:
        print(f"{folder} is complete.")
    return folder


def check_ctr(folder: str | Path, counts: Mapping[str, int] | None = CTR_COUNTS, progress: bool = False) -> None:
    """Check that a folder holds the dataset: numbers, names, and every picture decoded.

    Parameters
    ----------
    folder : path
        The folder with `wingspan/` and `jsrt/`.
    counts : mapping or None
        As in `download_ctr`.
    progress : bool
        Whether to show a bar.

    Raises
    ------
    DownloadError
        If a film or mask is missing, superfluous, unreadable or of another size than its film.
    """
    folder = Path(folder)
    films = []
    for name in CTR_COUNTS:
        names = {path.name for path in (folder / name / "png").glob("*.png")}
        wanted = None if counts is None else counts[name]
        if not names or wanted not in (None, len(names)):
            raise DownloadError(
                f"{folder / name / 'png'} has {len(names)} films where {wanted or 'some'} are expected."
            )
        for organ in ORGANS:
            masks = {path.name for path in (folder / name / "mask" / organ).glob("*.png")}
            if masks != names:
                odd = sorted(masks ^ names)[0]
                what = "has no film" if odd in masks else "is missing"
                raise DownloadError(f"The mask {folder / name / 'mask' / organ / odd} {what}.")
        films += [(name, film) for film in sorted(names)]
    for name, film in progress_bar(films, "Checking", show=progress):
        size = _picture_size(folder / name / "png" / film)
        for organ in ORGANS:
            mask = folder / name / "mask" / organ / film
            if _picture_size(mask) != size:
                raise DownloadError(f"The mask {mask} does not have the size of its film, {size[0]} x {size[1]}.")


def _picture_size(path: Path) -> tuple[int, int]:
    picture = cv2.imdecode(np.frombuffer(path.read_bytes() or b"\0", np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise DownloadError(f"The picture {path} is damaged.")
    return picture.shape[:2]


def _by_hand(folder: Path) -> str:
    return (
        f"By hand: open {CTR_PAGE} in a browser, choose Code, then Download ZIP, unpack it, and put its folders "
        f"wingspan and jsrt into {folder}."
    )


def _is_complete(folder: Path, counts: Mapping[str, int] | None, progress: bool) -> bool:
    """Tell whether a complete dataset is there; anything else there belongs to the user and is not touched."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        check_ctr(folder, counts, progress)
    except DownloadError as error:
        raise DownloadError(
            f"{folder} exists but is not the complete dataset: {error} Move it away or delete it, then run again."
        ) from error
    if progress:
        print(f"{folder} is already complete; nothing was fetched.")
    return True


# ------------------------------------------------------------------------------------------- the network


def _fetch(url: str, part: Path, timeout: float, progress: bool) -> bool:
    """Download to a part file and tell whether an earlier part was continued.

    Raises
    ------
    DownloadError
        With the part file kept, so that the next call can go on from there.
    """
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"{url} is not an http or https address.")
    done = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "heartbox"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            continues = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
            if answer.status == 206 and not continues:
                raise DownloadError(f"{url} sent a different part from the one requested. Delete {part} and run again.")
            with part.open("ab" if continues else "wb") as file:
                _copy(answer, file, done if continues else 0, progress)
            return continues
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and done:  # nothing is left to send: an earlier run fetched all of it
            return True
        raise DownloadError(f"{url} answers {error.code} ({error.reason}). Has the address changed?") from error
    except TimeoutError as error:
        raise DownloadError(f"{url} did not answer within {timeout:g} seconds. Run it again later.") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise DownloadError(f"{url} is not a usable address ({error}).") from error
    except http.client.HTTPException as error:
        raise _interrupted(part, error) from error
    except urllib.error.URLError as error:
        raise DownloadError(
            f"{url} cannot be reached ({error.reason}). Is this computer online, and is a proxy needed "
            "(environment variable https_proxy)?"
        ) from error


def _copy(answer: http.client.HTTPResponse, file: BinaryIO, done: int, progress: bool) -> None:
    """Copy the body of a response to a file, and check that all announced bytes have arrived."""
    left = answer.headers.get("Content-Length")  # GitHub packs while it sends and does not announce the size
    total = done + int(left) if left and left.isdigit() else None
    with progress_bar(None, "Fetching", "B", total, initial=done, show=progress, unit_scale=True) as bar:
        while block := _read(answer):
            done += len(block)
            if done > MAX_TOTAL_BYTES:
                raise DownloadError(
                    f"{answer.url} sends more than {MAX_TOTAL_BYTES // 2**20} MiB, so it is not this dataset."
                )
            file.write(block)
            bar.update(len(block))
    if total is not None and done < total:
        raise http.client.IncompleteRead(b"", total - done)


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(BLOCK)
    except TimeoutError:
        raise
    except OSError as error:  # told apart from a full disk, which is an OSError too
        raise http.client.HTTPException(str(error)) from error


def _interrupted(part: Path, error: Exception) -> DownloadError:
    size = part.stat().st_size if part.exists() else 0
    return DownloadError(
        f"The transfer was interrupted after {size / 1e6:.1f} MB ({type(error).__name__}). Run it again: it continues "
        "from there if the server allows."
    )


# ------------------------------------------------------------------------------------------- the archive


def _unpack(archive: Path, folder: Path, counts: Mapping[str, int] | None, progress: bool) -> None:
    """Unpack into a temporary folder beside the target, check it there and rename it into place.

    Raises
    ------
    zipfile.BadZipFile
        If the archive cannot be read.
    DownloadError
        If what it holds is not the dataset; the archive is deleted, because a second attempt would not help.
    """
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        fresh = Path(temporary) / folder.name  # one level down, because other users cannot read the outer one
        fresh.mkdir()
        try:
            with zipfile.ZipFile(archive) as zipped:
                _extract(zipped, fresh, progress)
            check_ctr(fresh, counts, progress)
        except DownloadError as error:
            archive.unlink()
            # The temporary folder is gone by the time the message is read.
            message = str(error).replace(str(fresh), "the archive's " + folder.name)
            raise DownloadError(f"The archive is not the dataset as published: {message}") from error
        except (zlib.error, EOFError, RuntimeError, ValueError) as error:  # damaged, encrypted, unknown packing
            raise zipfile.BadZipFile(str(error)) from error
        if folder.is_dir():
            folder.rmdir()  # it is empty, and Windows does not rename onto a folder
        fresh.replace(folder)


def _extract(zipped: zipfile.ZipFile, fresh: Path, progress: bool) -> None:
    """Write the members that are wanted, and refuse an archive that tries to write elsewhere."""
    members = {}
    for member in zipped.infolist():
        name = member.filename.replace("\\", "/")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or ":" in name:
            raise DownloadError(f"It contains a path that leads out of its folder ({member.filename!r}).")
        target = None if member.is_dir() else _target(path)
        if target is None:
            continue
        if target in members:
            raise DownloadError(f"It contains {target} twice.")
        members[target] = member
    sizes = [member.file_size for member in members.values()]
    if sizes and (max(sizes) > MAX_FILE_BYTES or sum(sizes) > MAX_TOTAL_BYTES):
        raise DownloadError("It would unpack to far more than this dataset has.")
    for target, member in progress_bar(members.items(), "Unpacking", "file", show=progress):
        path = fresh / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zipped.read(member))  # the checksum is compared here


def _target(path: PurePosixPath) -> PurePosixPath | None:
    """Return where a member belongs in the dataset's folder, or None if it is not needed."""
    if path.name.startswith("._"):  # macOS's shadow of a file
        return None
    if len(path.parts) <= 2 and path.stem.upper() in ("LICENSE", "README"):
        return PurePosixPath(path.name)
    found = WANTED.search(str(path))
    return PurePosixPath(found[1]) if found else None


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return 0, or 1 after a plain sentence to standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m heartbox.data.download", description="Fetch the public Cardiothoracic Ratio dataset."
    )
    parser.add_argument("folder", nargs="?", default="data/ctr", help="where to put it (default: data/ctr)")
    parser.add_argument("--url", default=CTR_URL, help="another address of the zip archive")
    options = parser.parse_args(arguments)
    try:
        download_ctr(options.folder, options.url)
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
