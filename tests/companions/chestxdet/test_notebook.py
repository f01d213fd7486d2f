"""The ChestX-Det notebook, executed as its readers do."""

import json
import shutil

import nbformat
import pytest
from chestxdet_films import NOTEBOOK
from helpers import ROOT, execute, output_of


@pytest.mark.slow
def test_notebook_on_the_sample(tmp_path):
    """Copied with what it needs, in fast mode: nothing red, nothing of this machine, the files promised."""
    for name in ("heartbox", "companions", "weights"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cardiac_dataset.py", tmp_path)
    run = execute(tmp_path, [f"companions/{NOTEBOOK}"])
    assert run.returncode == 0, run.stderr[-3000:]
    cells = nbformat.read(tmp_path / "companions" / NOTEBOOK, 4).cells
    assert [o["text"] for c in cells for o in c.get("outputs", []) if o.get("name") == "stderr"] == []
    assert str(tmp_path) not in output_of(tmp_path / "companions" / NOTEBOOK)
    metrics = json.loads((tmp_path / "artifacts" / "chestxdet" / "metrics.json").read_text())
    assert metrics["films"]["test"] == 20
    assert set(metrics["stage1"]) == {"128 px", "everything is abnormal"}
    assert {"detector", "mean_boxes"} <= set(metrics["stage2"])
    assert (tmp_path / "artifacts" / "chestxdet" / "study" / "study.db").is_file()
