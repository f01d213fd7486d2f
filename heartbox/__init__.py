"""Heartbox: find the heart in a chest X-ray and show why."""

import importlib
import os
import sys

__version__ = "0.2.0"
__all__ = ["HeartDetector", "XRayError", "read_xray"]

# Each is imported when it is first asked for: the detector needs torch, which takes seconds to load.
_HOMES = {
    "HeartDetector": "heartbox.inference.detector",
    "XRayError": "heartbox.xray.errors",
    "read_xray": "heartbox.xray.reader",
}
_WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

# torch's threads wait for their next task in a loop that keeps a core busy, so two programs on one machine would take
# each other's time. Asleep they cost nothing. OpenMP reads this once, when torch is loaded.
if "torch" not in sys.modules and not any(name in os.environ for name in _WAIT_SETTINGS):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def __getattr__(name: str):
    """Import a public name when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'heartbox' has no attribute {name!r}")
