"""Figures under the names people use, with a dash for what a network does not give."""

import heartbox.reporting
from heartbox.reporting.metrics_table import metrics_table


def test_metrics_table():
    full = {"mae": 1.234, "mae_x_min": 1, "iou_mean": 0.9, "iou_above_0.75": 0.7, "ctr_mae": 0.0136, "images": 3}
    table = metrics_table({"full": full, "bare": {"mae": 2, "ctr_mae": float("nan")}})
    assert list(table.columns) == ["full", "bare"]
    assert table.loc["error, px"].tolist() == ["1.23", "2.00"]
    assert table.loc["  left border, px"].tolist() == ["1.00", "-"]
    assert table.loc["films with IoU above 0.75"].tolist() == ["70%", "-"]
    assert table.loc["error of the cardiothoracic ratio"].tolist() == ["0.014", "-"]
    assert not [name for name in table.index if "images" in name]


def test_the_package_hands_on_every_name():
    for name in heartbox.reporting.__all__:
        assert getattr(heartbox.reporting, name) is not None
    assert heartbox.reporting.metrics_table is metrics_table  # the function, not the module of its name
