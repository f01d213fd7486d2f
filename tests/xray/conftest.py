"""What the tests of reading share."""

import pytest

from heartbox.xray import XRay, load_xray


@pytest.fixture
def load(tmp_path):
    """Write a dataset and load it again."""

    def write_and_load(ds, name="film.dcm", **options) -> XRay:
        path = tmp_path / name
        ds.save_as(path, **{"enforce_file_format": True, **options})
        return load_xray(path)

    return write_and_load
