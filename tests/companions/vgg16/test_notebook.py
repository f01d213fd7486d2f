"""The VGG16 notebook as its users run it."""

import json

import nbformat
import pytest
from helpers import output_of

NOTEBOOK = "companions/VGG16-Heart-Detection.ipynb"


@pytest.mark.slow
def test_the_notebook_on_its_sample(solved_companion):
    folder = solved_companion(NOTEBOOK)
    output = output_of(folder / NOTEBOOK)
    assert "synthetic" in output
    assert str(folder) not in output
    cells = nbformat.read(folder / NOTEBOOK, 4).cells
    assert [o["text"] for c in cells for o in c.get("outputs", []) if o.get("name") == "stderr"] == []
    metrics = json.loads((folder / "artifacts" / "vgg16" / "metrics.json").read_text())
    assert {"mean box", "published", "mended"} <= set(metrics["predictions"])
    assert (folder / "data" / "vgg16-sample" / "labels.csv").is_file()
