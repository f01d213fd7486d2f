"""imgaug under NumPy 2: import imgaug from here, and it works.

imgaug 0.4.0, the last release, reads ``np.sctypes`` while it is imported; NumPy 2 took that table away.
Putting the table back before the import is all that is missing. Knows nothing of X-rays.
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
