"""Checkpoints: the state of a run after each epoch, written whole, and checked against its checksum when it is read.

Knows files and torch; nothing of what is learnt.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from pathlib import Path
from typing import Any

import torch

from heartbox.models.torch_files import all_finite, read_torch_file
from heartbox.utils.atomic import complete_or_absent

# The SHA-256 of a file is appended to it, where torch does not look. The checksums inside, those of zip files, cover
# the numbers and not everything around them.
SEAL = b"heartbox sha256:"
KEYS = {"fingerprint", "epoch", "history", "seconds", "model", "optimizer", "schedule", "average"}


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    folder : Path
        Holds ``last.pt``, from which a run goes on, and ``best.pt``, the network with the highest score.
    fingerprint : str
        From :func:`heartbox.training.fingerprint.fingerprint`.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.last, self.best = folder / "last.pt", folder / "best.pt"
        self.fingerprint = fingerprint

    def write_last(self, state: dict[str, Any]) -> None:
        """Write the state after an epoch; everything in :data:`KEYS` but the fingerprint."""
        with complete_or_absent(self.last) as part:
            torch.save({"fingerprint": self.fingerprint, **state}, part)
            digest = _sha256_without(part, trailing=0)
            with part.open("ab") as file:
                file.write(SEAL + digest)

    def write_best(self, epoch: int, weights: dict[str, torch.Tensor]) -> None:
        """Write the weights of the best epoch so far."""
        with complete_or_absent(self.best) as part:
            torch.save({"epoch": epoch, "model": weights}, part)

    def read_last(self) -> dict[str, Any] | None:
        """Return the state that this run goes on from, or None where it starts anew.

        The checkpoint of another run (other settings, data, seed or code) is ignored, and replaced after the first
        epoch. A damaged one, or one of an earlier version, is renamed, and a warning says so.
        """
        if not self.last.is_file():
            return None
        try:
            state = _read(self.last)
        except ValueError as error:
            aside = _set_aside(self.last)
            warnings.warn(f"{error} It was renamed to {aside.name}, and training starts anew.", stacklevel=3)
            return None
        return state if state["fingerprint"] == self.fingerprint else None


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises
    ------
    ValueError
        If it is damaged or incomplete; the message names the file and the fault.
    """
    trailing = len(SEAL) + hashlib.sha256().digest_size
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - trailing))
        seal = file.read()
    if not seal.startswith(SEAL):
        state = read_torch_file(path, way_out="Its checksum is missing.")
        if isinstance(state, dict) and "identity" in state:
            raise ValueError(f"{path}: a checkpoint of an earlier version, which did not record the code of its loss.")
        raise ValueError(f"{path}: damaged, its checksum is missing.")
    if seal[len(SEAL) :] != _sha256_without(path, trailing):
        raise ValueError(f"{path}: damaged, it does not match its checksum.")
    state = read_torch_file(path, way_out="")
    if not isinstance(state, dict) or state.keys() != KEYS:
        raise ValueError(f"{path}: not a checkpoint of a training run.")
    if not isinstance(state["history"], list) or len(state["history"]) != state["epoch"]:
        raise ValueError(f"{path}: its history does not have a row for each of its {state['epoch']} epochs.")
    if not all_finite([state["model"], state["average"], state["optimizer"]]) or not math.isfinite(state["seconds"]):
        raise ValueError(f"{path}: holds NaN or infinite values.")
    return state


def _sha256_without(path: Path, trailing: int) -> bytes:
    """Return the SHA-256 of a file without its last bytes."""
    digest, left = hashlib.sha256(), path.stat().st_size - trailing
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
    return digest.digest()


def _set_aside(path: Path) -> Path:
    """Rename a file so that it is out of the way and still there; nothing is overwritten."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    return path.rename(aside)
