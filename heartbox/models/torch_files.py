"""Reading what torch saved, without running code from it and without overlooking damage.

Knows torch's file format; nothing of what is inside.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_torch_file(path: Path, way_out: str, device: torch.device | str = "cpu") -> Any:
    """Return what `torch.save` wrote to a file.

    Parameters
    ----------
    path : Path
        The file.
    way_out : str
        What the reader of an error can do, for its message.
    device : device
        Where tensors are put.

    Raises
    ------
    ValueError
        If the file is damaged, was not written by torch, or holds more than plain types and tensors.
    """
    try:
        # torch ignores the checksums in its own files: a flipped bit would change a weight unnoticed.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            # torch writes neither attributes nor compressed records. An attribute can make a record a folder, which
            # torch reads as zeros.
            odd = [info.filename for info in archive.infolist() if info.external_attr or info.compress_type]
    except Exception as error:  # a damaged file fails in many ways: its names, its sizes, its compression
        raise ValueError(f"{path}: not a file that torch wrote, or a damaged one ({error}). {way_out}") from error
    if damaged or odd:
        raise ValueError(f"{path}: damaged ({damaged or odd[0]} does not match its checksum or header). {way_out}")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises whatever the unpickler fails with
        raise ValueError(
            f"{path}: damaged, or it holds something that could run code ({type(error).__name__}). {way_out}"
        ) from error


def all_finite(values: Any) -> bool:
    """Tell whether all numbers in nested dicts, lists and tensors are finite."""
    if isinstance(values, Tensor):
        return not values.is_floating_point() or bool(values.isfinite().all())
    if isinstance(values, dict):
        return all(all_finite(value) for value in values.values())
    if isinstance(values, list | tuple):
        return all(all_finite(value) for value in values)
    return not isinstance(values, float) or values - values == 0
