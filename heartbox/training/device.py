"""Where to compute, and in which precision.

Knows torch only.
"""

from __future__ import annotations

import torch


def choose_device(name: str | None = None) -> torch.device:
    """Return the device of that name, or the best there is: CUDA, then MPS, then the CPU."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def mixed_precision(device: torch.device, training: bool = True) -> torch.autocast:
    """Return a context in which matrices are multiplied in bfloat16, where that is faster, or in which nothing changes.

    What comes out of it may be bfloat16, three digits: turn it to float32 before a loss is computed.

    Parameters
    ----------
    device : torch.device
        Where is computed.
    training : bool
        Whether a training step is computed. A CPU answers in float32 all the same, so that what is measured after an
        epoch is what the saved network answers elsewhere.
    """
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported()
    else:
        faster = device.type == "cpu" and training and _cpu_has_bfloat16()
    return torch.autocast(device.type, torch.bfloat16, enabled=faster)


def _cpu_has_bfloat16() -> bool:
    """Tell whether the processor multiplies in bfloat16 itself: where it only pretends to, it is slower."""
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask() for ask in asks if ask)
