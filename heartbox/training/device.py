"""The device to compute on, and the precision.

Knows torch only.
"""

from __future__ import annotations

import torch


def choose_device(name: str | None = None) -> torch.device:
    """Return the device of that name; without a name the best there is: CUDA, then MPS, then the CPU."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def mixed_precision(device: torch.device, training: bool = True) -> torch.autocast:
    """Return a context in which matrices are multiplied in bfloat16 where that is faster, and otherwise in float32.

    The result may be bfloat16, which has three digits: convert it to float32 before computing a loss.

    Parameters
    ----------
    device : torch.device
        The device used.
    training : bool
        Whether this is a training step. A CPU always answers in float32, so that the figures of an epoch are those of
        the saved network anywhere.
    """
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported()
    else:
        faster = device.type == "cpu" and training and _cpu_has_bfloat16()
    return torch.autocast(device.type, torch.bfloat16, enabled=faster)


def _cpu_has_bfloat16() -> bool:
    """Tell whether the processor multiplies in bfloat16 in hardware; emulation would be slower than float32."""
    # torch's own tests; they are private, and one of them is missing in some versions and on some processors.
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test() for test in tests if test)
