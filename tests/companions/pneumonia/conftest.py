"""Made folders of films; without scikit-learn none of these tests can run."""

import pytest

pytest.importorskip("sklearn")

from pneumonia_films import make_nih, make_rsna


@pytest.fixture
def rsna(tmp_path):
    """Return a folder of eight films in RSNA's layout: a, b, c and d with pneumonia, b with two boxes."""
    return make_rsna(tmp_path / "rsna")


@pytest.fixture
def nih(tmp_path):
    """Return a folder of six films of three patients in the layout of the NIH films."""
    return make_nih(tmp_path / "nih")
