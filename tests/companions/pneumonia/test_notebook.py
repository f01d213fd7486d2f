"""The pneumonia notebook as its users run it: on the sample, on real films, on a wrong folder."""

import json

import nbformat
import pytest
from helpers import copy_companion, execute, output_of
from pneumonia_films import NOTEBOOK


@pytest.mark.slow
def test_the_notebook_on_its_sample(solved_companion):
    folder = solved_companion(NOTEBOOK)
    text = output_of(folder / NOTEBOOK)
    assert "synthetic" in text
    assert str(folder) not in text
    cells = nbformat.read(folder / NOTEBOOK, 4).cells
    assert [o["text"] for c in cells for o in c.get("outputs", []) if o.get("name") == "stderr"] == []
    metrics = json.loads((folder / "artifacts/pneumonia/metrics.json").read_text())
    assert metrics["layout"] == "sample"
    assert 0 <= metrics["network"]["auroc_low"] <= metrics["network"]["auroc"] <= metrics["network"]["auroc_high"] <= 1
    assert {"view position", "8 x 8 thumbnail"} <= set(metrics["shortcuts"])


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the notebook with everything that belongs around it."""
    return copy_companion(tmp_path / "copy")


@pytest.mark.slow
def test_the_notebook_on_nih_films(folder, tmp_path, real_data):
    run = execute(folder, [NOTEBOOK], CARDIAC_DATA=str(real_data / "nih"), CARDIAC_ARTIFACTS=str(tmp_path / "out"))
    assert run.returncode == 0, run.stderr[-3000:]
    assert "view position is not recorded" in output_of(folder / NOTEBOOK)
    assert json.loads((tmp_path / "out/pneumonia/metrics.json").read_text())["layout"] == "nih"
    assert not (folder / "data").exists()


@pytest.mark.slow
def test_the_notebook_refuses_a_wrong_folder(folder, tmp_path):
    run = execute(folder, [NOTEBOOK], CARDIAC_DATA=str(tmp_path))
    assert run.returncode != 0
    assert "holds none of the layouts known here" in run.stderr
