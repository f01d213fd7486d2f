"""Synthetic chest X-rays with exact labels: a patient is sampled, rays are cast, a detector plate records them.

The steps are subject -> anatomy and body -> projection and attenuation -> detector response -> DICOM, one file each.
The package does not use torch; of the rest of Heartbox it uses only ``utils``.

Start reading at `render.render`, which runs all the steps in some twenty lines.

>>> film = render(sample_subject(seed=0, index=7))
>>> film.image.shape, film.heart_mask.any()
((1024, 1024), np.True_)
"""

from .dicom import write_phantoms
from .render import Phantom, boxes, render
from .subject import CTR_RANGE, Subject, sample_subject

__all__ = ["CTR_RANGE", "Phantom", "Subject", "boxes", "render", "sample_subject", "write_phantoms"]
