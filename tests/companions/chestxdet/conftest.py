"""A prepared folder; without the companions' packages none of these tests can run."""

import pytest

pytest.importorskip("optuna")
pytest.importorskip("torchmetrics")
pytest.importorskip("pycocotools")

from chestxdet_films import prepare_quietly, write_bright_squares

from companions.chestxdet.data import Collection


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Collection:
    """Return a prepared folder of 40 films of 64 px; abnormal ones have a bright square, a 'Mass'."""
    folder = write_bright_squares(tmp_path_factory.mktemp("bright-squares"))
    return prepare_quietly(folder, folder / "out", size=64)
