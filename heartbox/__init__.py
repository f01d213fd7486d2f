"""Heartbox: find the heart in a chest X-ray and show why."""

from heartbox.xray.errors import XRayError
from heartbox.xray.reader import read_xray

__version__ = "0.2.0"
__all__ = ["HeartDetector", "XRayError", "read_xray"]


def __getattr__(name: str):
    """Load the detector, and with it torch, only when it is asked for: reading a file needs neither."""
    if name == "HeartDetector":
        from heartbox.inference.detector import HeartDetector

        return HeartDetector
    raise AttributeError(f"module 'heartbox' has no attribute {name!r}")
