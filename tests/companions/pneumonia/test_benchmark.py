"""The pneumonia benchmark's report, on made answers."""

import companion_pneumonia
import numpy as np
import pandas as pd
from pneumonia_films import prepare_quietly, write_nih


def test_the_benchmark_reports_what_it_is_given(nih, tmp_path):
    """Made answers of a network that knows everything, over folds by patient, beside the shortcuts."""
    rows = []
    for i in range(48):
        label = "pneumonia" if i % 4 < 2 else "no finding"
        rows.append((f"{i // 2:08d}_{i % 2:03d}.jpg", label, "Lung Opacity" if i % 8 == 0 else "Normal"))
    write_nih(nih, rows)
    (nih / "opacity_boxes_512.csv").write_text("file,x,y,width,height\n00000000_000.jpg,0,0,256,512\n"
                                               "00000004_000.jpg,0,0,256,512\n")  # fmt: skip
    prepared = prepare_quietly(nih, tmp_path / "out", size=64)
    parts = companion_pneumonia.make_parts(prepared, 3)
    assert set(parts) == {0, 1, 2}
    assert pd.Series(parts).groupby(prepared.labels["patient"]).nunique().max() == 1
    targets = prepared.labels["target"].to_numpy()
    half = np.full((2, 2, 2), -1.0)
    half[:, :, 0] = 2  # all evidence in the left half, where the boxes are
    known = {"rows": np.arange(48), "logits": 4.0 * targets - 2, "weight": np.ones(48), "boxed": np.array([0, 8])}
    text = companion_pneumonia.report(prepared, parts, {"fine-tuned": known | {"maps": half}})
    assert "*Fine-tuned*: " in text and "*From scratch*" not in text  # what is not there needs no explaining
    assert "| ResNet18, fine-tuned | 1.000 (1.000 to 1.000) | 1.000 (1.000 to 1.000) |" in text
    assert "| ResNet18, fine-tuned | 24 | 0 | 0 | 24 | 1.000 | 1.000 | 1.000 | 1.000 |" in text
    assert "| the more common class | 24 | 0 | 24 | 0 | 0.500 | 0.500 | 1.000 | 0.000 |" in text
    assert "2 films with boxes: 100%; share of the area 50%" in text
    assert "view position of these films is not recorded" in text
    assert "| those labelled pneumonia | 6 / 18 | 0.500" in text
