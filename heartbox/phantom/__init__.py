"""Synthetic chest X-rays with exact labels: a patient is sampled, rays are cast, a detector plate records them.

The steps are subject -> anatomy and body -> projection and attenuation -> detector response -> DICOM, one file each.
An ill patient is a subject that went through `make_ill`: what fills the lung hides the border of the heart, while boxes
and masks stay exact.

The package does not use torch; of the rest of Heartbox it uses only ``utils`` and a name from ``xray.header``.

Start reading at `render.render`, which runs all the steps in some twenty lines.

>>> film = render(sample_subject(seed=0, index=7))
>>> film.image.shape, film.heart_mask.any()
((1024, 1024), np.True_)
"""

from .dicom import write_phantoms
from .render import Phantom, boxes, render
from .subject import CTR_RANGE, Subject, sample_subject
from .ward import make_ill

__all__ = ["CTR_RANGE", "Phantom", "Subject", "boxes", "make_ill", "render", "sample_subject", "write_phantoms"]
