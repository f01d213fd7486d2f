"""Tables for people to read: measured figures under the names that people use.

Knows the keys of :func:`heartbox.evaluation.metrics.evaluate`; no networks.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from heartbox.boxes import EDGE_NAMES, EDGES

ROWS = {
    "mae": "error, px",
    **{f"mae_{edge}": f"  {name}, px" for edge, name in zip(EDGES, EDGE_NAMES, strict=True)},
    "iou_mean": "IoU, mean",
    "iou_median": "IoU, median",
    "iou_worst": "IoU, worst film",
    "iou_above_0.50": "films with IoU above 0.50",
    "iou_above_0.75": "films with IoU above 0.75",
    "thorax_mae": "error of the chest's box, px",
    "ctr_mae": "error of the cardiothoracic ratio",
}


def metrics_table(columns: Mapping[str, Mapping[str, float]], digits: int = 2) -> pd.DataFrame:
    """Put measured figures side by side.

    Parameters
    ----------
    columns : mapping
        For each column's title what :func:`heartbox.evaluation.metrics.evaluate` returned.
    digits : int
        Decimals of errors and IoU; the ratio gets one more.

    Returns
    -------
    DataFrame of str
        A row a figure; a dash where a network does not give it.
    """

    def cell(measured: Mapping[str, float], key: str) -> str:
        if key not in measured or pd.isna(measured[key]):
            return "-"
        if "above" in key:
            return f"{measured[key]:.0%}"
        return f"{measured[key]:.{digits + (key == 'ctr_mae')}f}"

    keys = [key for key in ROWS if any(key in measured for measured in columns.values())]
    table = {title: [cell(measured, key) for key in keys] for title, measured in columns.items()}
    return pd.DataFrame(table, index=[ROWS[key] for key in keys])
