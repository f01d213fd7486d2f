"""What the tests of reading share."""

import io

import pydicom
import pytest
from helpers import encoded

from heartbox.xray import XRay, load_xray


@pytest.fixture
def load(tmp_path):
    """Write a dataset and load it again."""

    def write_and_load(ds, name="film.dcm", **options) -> XRay:
        path = tmp_path / name
        ds.save_as(path, **{"enforce_file_format": True, **options})
        return load_xray(path)

    return write_and_load


@pytest.fixture
def film(phantom_pixels):
    """Return a function that gives a phantom as a dataset of some transfer syntax."""

    def encode(syntax) -> pydicom.Dataset:
        return pydicom.dcmread(io.BytesIO(encoded(phantom_pixels, syntax)[0]))

    return encode
