"""Every transfer syntax that a chest X-ray comes in gives the same image as the uncompressed film.

The films are encoded here: by pydicom and its plugins where these can, by imagecodecs where they only decode.
"""

import numpy as np
import pytest
from helpers import BY_PYDICOM, ENCODERS, UNCOMPRESSED, at_depth, encoded

from heartbox.xray.reader import load_xray


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *BY_PYDICOM, *ENCODERS], ids=lambda syntax: syntax.name)
def test_the_image_is_that_of_the_uncompressed_film(phantom_pixels, tmp_path, syntax):
    data, bits, tolerance = encoded(phantom_pixels, syntax)
    (tmp_path / "film.dcm").write_bytes(data)
    film = load_xray(tmp_path / "film.dcm")
    assert film.transfer_syntax == syntax.name
    assert film.bits_stored == bits
    expected = at_depth(phantom_pixels, bits) / (2**bits - 1)
    assert film.image.shape == expected.shape
    difference = np.abs(film.image - expected).max()
    assert difference <= max(tolerance, 1e-6)
    if tolerance:
        assert difference > 1e-4  # really lossy: the file is what its syntax says
