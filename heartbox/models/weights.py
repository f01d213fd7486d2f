"""Weights files: written, read back safely, and fetched once from an https address.

A file is a plain state dict and a dict of settings. Knows networks; nothing of training or of X-rays.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from torch import nn

from heartbox.models.build import build_model
from heartbox.utils.atomic import complete_or_absent

# Stands in the config of every weights file, so that a file of something else is refused.
WEIGHTS_FORMAT = "heartbox-weights-1"
# The weights that come with the project; their model card lies beside them.
RELEASED_NAME = "heart-resnet18.pt"
CONFIG_KEYS = ("backbone", "head", "size", "targets", "mean", "std", "layout")


def released_weights() -> Path:
    """Return the path of the released weights: inside the installed package, or ``weights/`` of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "weights" / RELEASED_NAME, package.parent / "weights" / RELEASED_NAME
    return installed if installed.is_file() else checkout


def save_weights(path: str | Path, model: nn.Module, stats: dict, half: bool = False, **notes) -> None:
    """Save a model as a plain state dict and a dict of what is needed to use it.

    Parameters
    ----------
    path : path
        Where to write.
    model : nn.Module
        From :func:`heartbox.models.build.build_model`.
    stats : dict
        The training statistics of ``stats.json``; mean, std, size, layout and contrast are kept.
    half : bool
        Store in half precision: half the size, and edges that move by some hundredths of a pixel.
    **notes
        ``targets``, and anything else worth keeping, of plain types: ``calibration``, ``recipe``, ``metrics``.

    Raises
    ------
    ValueError
        If `stats` or `notes` lack something that the weights cannot be used without.
    """
    config = {
        "format": WEIGHTS_FORMAT,
        "backbone": model.backbone,
        "head": model.head_name,
        "size": model.size,
        **({"hidden": list(model.hidden)} if model.hidden else {}),
        **{key: stats[key] for key in ("mean", "std", "layout")},
        **({"contrast": stats["contrast"]} if "contrast" in stats else {}),
        **notes,
    }
    missing = [key for key in CONFIG_KEYS if key not in config]
    if missing:
        raise ValueError(f"weights without {', '.join(missing)} could not be used again: give it to save_weights")
    with complete_or_absent(path) as part:
        state = {
            name: (value.half() if half and value.is_floating_point() else value).contiguous().cpu()
            for name, value in model.state_dict().items()
            if not name.startswith("mask_head.")  # of use in training only
        }
        torch.save({"config": config, "state_dict": state}, part)


def load_weights(source: str | Path, sha256: str | None = None) -> tuple[nn.Module, dict]:
    """Read a weights file and build the network that it is of.

    Parameters
    ----------
    source : path or str
        A file, or an https address, which is fetched once (:func:`fetch_weights`).
    sha256 : str, optional
        What the file's SHA-256 must be, 64 hexadecimal digits; an address needs one.

    Returns
    -------
    tuple of nn.Module and dict
        The network, ready to answer, and the config it was saved with.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not the one that `sha256` names, is not one of ours or does not fit the network it names.
    OSError
        If it cannot be fetched.
    """
    if isinstance(source, str) and "://" in source:
        path = fetch_weights(source, sha256)
    elif not isinstance(source, str | Path):
        raise ValueError(f"{type(source).__name__}: no weights; give the path of a file or an https address")
    else:
        path = Path(source)
        if path.is_dir():
            raise FileNotFoundError(f"{path}: a folder; name the weights file in it, such as model.pt")
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such weights file; check the path (the released ones lie in weights/ beside "
                "heartbox/), or run 03-Model-Training.ipynb, which makes one"
            )
        if sha256 is not None and (found := file_sha256(path)) != _digest(sha256):
            raise ValueError(f"{path}: its SHA-256 is {found}, not {sha256}: another version, or a damaged file")
    try:
        # torch does not look at the checksums in its own files: a flipped byte would move an edge without a word.
        with zipfile.ZipFile(path) as archive:
            torn = archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error):
        torn = None  # whatever it is, the next step says so
    if torn:
        raise ValueError(f"{path}: damaged ({torn} does not match its checksum); fetch it again")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the unpickler stumbles over
        raise ValueError(
            f"{path}: no weights file, or a damaged one, or one that could run code ({type(error).__name__}). Name one "
            "that notebook 03 wrote or the released one, or fetch it again"
        ) from error
    config = saved.get("config") if isinstance(saved, dict) else None
    if not isinstance(config, dict) or config.get("format") != WEIGHTS_FORMAT or "state_dict" not in saved:
        raise ValueError(f"{path}: not a Heartbox weights file (no config of the format {WEIGHTS_FORMAT})")
    missing = [key for key in CONFIG_KEYS if key not in config]
    if missing:
        raise ValueError(f"{path}: not a whole Heartbox weights file, its config lacks {', '.join(missing)}")
    try:
        shape = {key: config[key] for key in ("targets", "size", "hidden") if key in config}
        model = build_model(config["backbone"], config["head"], **shape)
        # Stored in half precision where that is enough; the network computes in single.
        model.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in saved["state_dict"].items()}
        )
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: the weights do not fit the network that their config names: {error}") from error
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise ValueError(f"{path}: holds weights that are no numbers; train it again, or fetch it again")
    return model.eval(), config


def fetch_weights(url: str, sha256: str | None, cache: str | Path | None = None) -> Path:
    """Return the local copy of a weights file, fetching it if it is not there yet.

    Parameters
    ----------
    url : str
        An https address.
    sha256 : str
        SHA-256 of the file, 64 hexadecimal digits, as its model card gives it.
    cache : path, optional
        Where copies are kept; by default ``heartbox`` in torch's own cache, which ``TORCH_HOME`` moves.

    Returns
    -------
    Path
        The copy. Once it is there no network is needed.

    Raises
    ------
    ValueError
        If the address is not https, the SHA-256 is missing, or what came has another one.
    OSError
        If it cannot be fetched or written.
    """
    if urlsplit(url).scheme != "https":
        raise ValueError(f"{url}: weights are fetched over https only; give an https address or a path")
    if not sha256:
        raise ValueError(f"{url}: weights from an address need sha256=..., which their model card gives")
    digest = _digest(sha256)
    folder = Path(cache) if cache else Path(torch.hub.get_dir()) / "heartbox"
    path = folder / f"{digest[:16]}-{PurePosixPath(urlsplit(url).path).name or 'weights.pt'}"
    if path.is_file() and file_sha256(path) == digest:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with complete_or_absent(path) as part:
            torch.hub.download_url_to_file(url, str(part), progress=False)
            if (found := file_sha256(part)) != digest:
                raise ValueError(
                    f"{url}: what came has the SHA-256 {found}, not {digest}; nothing was kept. Compare the address "
                    "and the digest with the model card; behind a proxy, open the address in a browser once"
                )
    except OSError as error:  # urllib's errors among them
        raise OSError(
            f"{url}: could not be fetched ({error}). Without a network, download it elsewhere and give its path"
        ) from error
    return path


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(sha256: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", str(sha256)):
        raise ValueError(f"sha256={sha256!r}: a SHA-256 is 64 hexadecimal digits")
    return sha256.lower()
