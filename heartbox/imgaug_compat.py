"""imgaug under NumPy 2: imported from here, it works.

imgaug 0.4.0, the last release, reads ``np.sctypes`` while it is imported, and NumPy 2 removed that table. Putting
it back before the import is enough. Knows imgaug and NumPy; it does not know X-rays.
"""

from __future__ import annotations

import numpy as np

if not hasattr(np, "sctypes"):  # noqa: NPY201
    np.sctypes = {  # noqa: NPY201
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64],
        "complex": [np.complex64, np.complex128],
        "others": [bool, object, bytes, str, np.void],
    }

import imgaug  # noqa: E402
from imgaug import augmenters  # noqa: E402
from imgaug.augmentables import KeypointsOnImage  # noqa: E402

__all__ = ["KeypointsOnImage", "augmenters", "imgaug"]
