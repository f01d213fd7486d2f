"""The pneumonia notebook, executed as its readers do: on the sample, on real films, on a wrong folder."""

import json
import shutil

import nbformat
import pytest
from helpers import ROOT, execute, output_of
from pneumonia_films import NOTEBOOK


def copy_project(folder):
    """Copy the notebook with the folders that belong around it, and no sibling notebook."""
    folder.mkdir()
    for name in ("heartbox", "weights"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "cardiac_dataset.py", folder)
    shutil.copytree(ROOT / "companions", folder / "companions", ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    shutil.copy(ROOT / "companions" / NOTEBOOK, folder / "companions")
    return folder


def run_notebook(folder, **variables):
    """Execute the notebook in fast mode without a network; return the run and all that it printed."""
    run = execute(folder, [f"companions/{NOTEBOOK}"], **variables)
    cells = nbformat.read(folder / "companions" / NOTEBOOK, 4).cells
    assert [out["text"] for cell in cells for out in cell.get("outputs", []) if out.get("name") == "stderr"] == []
    return run, output_of(folder / "companions" / NOTEBOOK)


@pytest.mark.slow
def test_the_notebook_on_the_sample(tmp_path):
    folder = copy_project(tmp_path / "project")
    run, text = run_notebook(folder)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "synthetic" in text
    assert str(tmp_path) not in text
    metrics = json.loads((folder / "artifacts/pneumonia/metrics.json").read_text())
    assert metrics["layout"] == "sample"
    assert 0 <= metrics["network"]["auroc_low"] <= metrics["network"]["auroc"] <= metrics["network"]["auroc_high"] <= 1
    assert {"view position", "8 x 8 thumbnail"} <= set(metrics["shortcuts"])


@pytest.mark.slow
def test_the_notebook_on_nih_films(tmp_path, real_data):
    folder = copy_project(tmp_path / "project")
    run, text = run_notebook(folder, CARDIAC_DATA=str(real_data / "nih"), CARDIAC_ARTIFACTS=str(tmp_path / "out"))
    assert run.returncode == 0, run.stderr[-3000:]
    assert "view position is not recorded" in text
    assert json.loads((tmp_path / "out/pneumonia/metrics.json").read_text())["layout"] == "nih"
    assert not (folder / "data").exists()


@pytest.mark.slow
def test_the_notebook_refuses_a_wrong_folder(tmp_path):
    run, _ = run_notebook(copy_project(tmp_path / "project"), CARDIAC_DATA=str(tmp_path))
    assert run.returncode != 0
    assert "holds none of the layouts known here" in run.stderr
