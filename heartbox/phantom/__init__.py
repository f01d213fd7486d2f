"""Synthetic chest X-rays with exact labels: a patient is drawn, rays are cast, a plate reads them.

The story runs subject -> anatomy -> rays -> detector -> DICOM, a file each; this is the front door to them.
It knows no torch, and of Heartbox only how files are written whole and work is shared.

Start reading at `film.render`: it is the whole story in a dozen lines.

>>> film = render(sample_subject(seed=0, index=7))
>>> film.image.shape, film.heart_mask.any()
((1024, 1024), np.True_)
"""

from .dicom import write_phantoms
from .render import Phantom, boxes, render
from .subject import CTR_RANGE, Subject, sample_subject

__all__ = ["CTR_RANGE", "Phantom", "Subject", "boxes", "render", "sample_subject", "write_phantoms"]
