"""Heartbox: find the heart in a chest X-ray and show why."""

import lazy_loader

from heartbox.utils.threads import let_threads_sleep

__version__ = "0.3.0"

# Each name is imported when it is first asked for: the detector needs torch, which takes seconds to load.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inference.detector": ["HeartDetector"],
        "xray.errors": ["XRayError"],
        "xray.reader": ["read_xray"],
    },
)

let_threads_sleep()
