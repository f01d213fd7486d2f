"""Heartbox: find the heart in a chest X-ray and show why."""

import importlib

from heartbox.utils.threads import let_threads_sleep

__version__ = "0.3.0"
__all__ = ["HeartDetector", "XRayError", "read_xray"]

# Each is imported when it is first asked for: the detector needs torch, which takes seconds to load.
_HOMES = {
    "HeartDetector": "heartbox.inference.detector",
    "XRayError": "heartbox.xray.errors",
    "read_xray": "heartbox.xray.reader",
}

let_threads_sleep()


def __getattr__(name: str):
    """Import a public name when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'heartbox' has no attribute {name!r}")
