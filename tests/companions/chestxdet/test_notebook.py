"""The ChestX-Det notebook as its users run it: nothing red, nothing of this machine, the files promised."""

import json

import nbformat
import pytest
from chestxdet_films import NOTEBOOK
from helpers import output_of


@pytest.mark.slow
def test_the_notebook_on_its_sample(solved_companion):
    folder = solved_companion(NOTEBOOK)
    cells = nbformat.read(folder / NOTEBOOK, 4).cells
    assert [o["text"] for c in cells for o in c.get("outputs", []) if o.get("name") == "stderr"] == []
    assert str(folder) not in output_of(folder / NOTEBOOK)
    made = folder / "artifacts" / "chestxdet"
    metrics = json.loads((made / "metrics.json").read_text())
    assert metrics["films"]["test"] == 20
    assert set(metrics["stage1"]) == {"128 px", "everything is abnormal"}
    assert {"detector", "mean_boxes"} <= set(metrics["stage2"])
    assert (made / "study" / "study.db").is_file()
