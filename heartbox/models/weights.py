"""Weights files: a plain state dict and a config, written whole and read back safely.

Knows networks and their config; nothing of training or of X-rays.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from heartbox.models.build import build_model
from heartbox.models.config import WEIGHTS_FORMAT, Calibration, WeightsConfig
from heartbox.models.fetch import as_digest, fetch_weights, file_sha256
from heartbox.models.heads import BoxNet
from heartbox.models.orientation import ORIENTATIONS
from heartbox.models.torch_files import all_finite, read_torch_file
from heartbox.utils.atomic import complete_or_absent

# The weights that come with the project; their model card lies beside them.
RELEASED_NAME = "heart-resnet18.pt"


def released_weights() -> Path:
    """Return the path of the released weights: inside the installed package, or ``weights/`` of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "weights" / RELEASED_NAME, package.parent / "weights" / RELEASED_NAME
    return installed if installed.is_file() else checkout


def save_weights(path: str | Path, model: BoxNet, stats: Mapping[str, Any], half: bool = False, **notes: Any) -> None:
    """Save a network as a plain state dict and the config that is needed to use it.

    Parameters
    ----------
    path : path
        The file to write.
    model : BoxNet
        From :func:`heartbox.models.build.build_model`.
    stats : mapping
        The training statistics of ``stats.json``, of which ``mean``, ``std``, ``layout`` and ``contrast`` are kept.
    half : bool
        Whether to store half precision, which halves the file and moves edges by a few hundredths of a pixel.
    **notes
        ``targets``, and anything else worth keeping, in plain types: ``calibration`` (a :class:`Calibration`),
        ``recipe``, ``metrics``.

    Raises
    ------
    ValueError
        If something that the weights cannot be used without is missing or wrong. Nothing is written then.
    """
    config = {
        "format": WEIGHTS_FORMAT,
        "backbone": model.backbone,
        "head": model.head_name,
        "size": model.size,
        **({"hidden": list(model.hidden)} if model.hidden else {}),
        **({"orientations": list(ORIENTATIONS)} if model.orientation_head else {}),
        **{key: stats[key] for key in ("mean", "std", "layout", "contrast") if key in stats},
        **notes,
    }
    if isinstance(config.get("calibration"), Calibration):
        config["calibration"] = config["calibration"].to_dict()
    try:
        WeightsConfig.from_dict(config)
    except ValueError as error:
        raise ValueError(f"{path}: not written, these weights could not be used again: {error}") from error
    with complete_or_absent(path) as part:
        state = {
            name: (value.half() if half and value.is_floating_point() else value).contiguous().cpu()
            for name, value in model.state_dict().items()
            if not name.startswith("mask_head.")  # used in training only
        }
        torch.save({"config": config, "state_dict": state}, part)


def load_weights(source: str | Path, sha256: str | None = None) -> tuple[BoxNet, WeightsConfig]:
    """Read a weights file and build its network.

    Parameters
    ----------
    source : path or str
        A file, or an https address, which is fetched once (:func:`heartbox.models.fetch.fetch_weights`).
    sha256 : str, optional
        The SHA-256 that the file must have, 64 hexadecimal digits; required for an address.

    Returns
    -------
    tuple of BoxNet and WeightsConfig
        The network, in evaluation mode, and its config.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file has another SHA-256, is damaged or is not a Heartbox weights file, if its config is wrong, or if its
        weights do not fit the network that the config names.
    OSError
        If it cannot be fetched.
    """
    path = locate_weights(source, sha256)
    saved = read_torch_file(path, "Name a file that notebook 03 wrote, or the released one, or fetch it again")
    try:
        if not isinstance(saved, dict) or not isinstance(saved.get("state_dict"), Mapping):
            raise ValueError(f"not a Heartbox weights file (no config of the format {WEIGHTS_FORMAT})")
        config = WeightsConfig.from_dict(saved.get("config"))
        model = build_model(config.backbone, config.head, False, config.targets, config.size, config.hidden)
        if config.orientations:
            model.add_orientation_head()
        # Stored in half precision where that is enough; the network computes in single precision.
        model.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in saved["state_dict"].items()}
        )
        if not all_finite(model.state_dict()):
            raise ValueError("holds NaN or infinite weights")
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Use the released weights, or train with notebook 03 again") from error
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: the weights do not fit the network that their config names: {error}") from error
    return model.eval(), config


def locate_weights(source: str | Path, sha256: str | None) -> Path:
    """Return the path of a weights file, fetched if need be, and check that it is the one meant."""
    if isinstance(source, str) and "://" in source:
        return fetch_weights(source, sha256)
    if not isinstance(source, str | Path):
        raise ValueError(f"{type(source).__name__}: not a weights file; give the path of one or an https address")
    path = Path(source)
    if path.is_dir():
        raise FileNotFoundError(f"{path}: a folder; name the weights file in it, such as model.pt")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such weights file; check the path (the released ones lie in weights/ beside "
            "heartbox/), or run 03-Model-Training.ipynb, which makes one"
        )
    if sha256 is not None and (found := file_sha256(path)) != as_digest(sha256):
        raise ValueError(f"{path}: its SHA-256 is {found}, not {sha256}: another version, or a damaged file")
    return path
