"""Weights and an X-ray -> the heart's box, its ratio to the chest, margins and quality flags."""

import lazy_loader

# Names are imported when they are first asked for: the command shares films among processes without loading torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "detector": ["HeartDetector"],
        "quality_checks": ["FLAG_CODES", "QualityFlag"],
        "result": ["HeartDetection"],
    },
)
