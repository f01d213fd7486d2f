"""The table of the VGG16 benchmark."""

import companion_vgg16 as benchmark
import numpy as np

from companions.vgg16.model import RECIPES, load_splits


def test_the_table_of_the_benchmark(processed, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    _, val = load_splits(processed, RECIPES["mended"])
    measured = {"predicted": val.boxes.reshape(-1, 4) + 1, "epochs": np.array(7), "seconds": np.array(61.2)}
    measured |= {"layers": np.array(["image", "block 1"]), "differences": np.array([0.5, 0.125])}
    measured["directions"] = np.array([3.25, 2.0])
    benchmark.write_results({"mended": measured}, processed)
    text = (tmp_path / "companion_vgg16.md").read_text()
    assert "24 training and 12 validation images" in text
    assert "| mended | 7 of 24 | 3.50 |" in text  # one pixel of 64 on every edge
    assert "- mended: image 50.00% (3.2), block 1 12.50% (2.0)" in text
    assert "Not measured yet: published." in text
