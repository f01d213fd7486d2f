"""Fetch a weights file from an https address once, and keep it.

A server that stops sending, sends too slowly or sends too much is given up, and nothing of it is kept. Knows
addresses and files; nothing of what is in them.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch

from heartbox.utils.atomic import complete_or_absent

BLOCK = 2**18  # bytes read at a time
MAX_BYTES = 2**31  # four times a VGG16 in single precision
SILENCE = 30.0  # s without a byte
PATIENCE = 60.0  # s before the speed is looked at
SLOWEST = 10_000  # bytes a second, on average: the released weights then take 40 minutes


def fetch_weights(url: str, sha256: str | None, cache: str | Path | None = None) -> Path:
    """Return the local copy of a weights file, and fetch it if there is none yet.

    Parameters
    ----------
    url : str
        An https address.
    sha256 : str
        SHA-256 of the file, 64 hexadecimal digits, from its model card.
    cache : path, optional
        Folder of the copies; by default ``heartbox`` in torch's own cache, which ``TORCH_HOME`` moves.

    Returns
    -------
    Path
        The copy. Once it exists, no network is needed.

    Raises
    ------
    ValueError
        If the address is not https, the SHA-256 is missing, or the file fetched has a different one.
    OSError
        If the file cannot be fetched or written.
    """
    if urlsplit(url).scheme != "https":
        raise ValueError(f"{url}: weights are fetched over https only; give an https address or a path")
    if not sha256:
        raise ValueError(f"{url}: weights from an address need sha256=..., which their model card gives")
    digest = as_digest(sha256)
    folder = Path(cache) if cache else Path(torch.hub.get_dir()) / "heartbox"
    path = folder / f"{digest[:16]}-{PurePosixPath(urlsplit(url).path).name or 'weights.pt'}"
    if path.is_file() and file_sha256(path) == digest:
        return path
    try:
        with complete_or_absent(path) as part:
            download(url, part)
            if (found := file_sha256(part)) != digest:
                raise ValueError(
                    f"{url}: the file fetched has the SHA-256 {found}, not {digest}; nothing was kept. Compare the "
                    "address and the digest with the model card; behind a proxy, open the address in a browser once"
                )
    except OSError as error:  # urllib's errors among them
        raise OSError(
            f"{url}: could not be fetched ({error}). Without a network, download it elsewhere and give its path"
        ) from error
    return path


def download(url: str, path: Path) -> None:
    """Write what an address sends to a file.

    Raises
    ------
    OSError
        If the address cannot be reached, breaks off, is silent for `SILENCE` seconds, is slower than `SLOWEST` after
        `PATIENCE` seconds, or sends more than `MAX_BYTES`. What had come by then is left in the file.
    """
    started, received = time.monotonic(), 0
    try:
        with urllib.request.urlopen(url, timeout=SILENCE) as answer, path.open("wb") as file:
            announced = int(answer.headers.get("Content-Length") or -1)
            # read1 returns what there is: read would wait for a whole block, however slowly it comes.
            while announced <= MAX_BYTES and received <= MAX_BYTES and (block := answer.read1(BLOCK)):
                file.write(block)
                received += len(block)
                elapsed = time.monotonic() - started
                if elapsed > PATIENCE and received < SLOWEST * elapsed:
                    raise OSError(f"only {received:,} bytes came in {elapsed:.0f} s")
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"the answer is not usable: {error}") from error
    except TimeoutError as error:
        raise OSError(f"no byte came for {SILENCE:g} s") from error
    if max(announced, received) > MAX_BYTES:
        raise OSError(f"it sends more than {MAX_BYTES:,} bytes, which no weights file has")
    if received < announced:
        raise OSError(f"the connection broke off after {received:,} of {announced:,} bytes")


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def as_digest(sha256: str) -> str:
    """Return a SHA-256 in small letters.

    Raises
    ------
    ValueError
        If it is not 64 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", str(sha256)):
        raise ValueError(f"sha256={sha256!r}: a SHA-256 is 64 hexadecimal digits")
    return sha256.lower()
