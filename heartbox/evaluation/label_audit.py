"""Labels that the network contradicts, ranked for a person to look at.

Knows boxes and tables; no networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heartbox.boxes import EDGES, HEART, box_iou, has_thorax

MIN_USUAL_ERROR = 0.1  # px; no label is better than that, and it avoids division by zero


def audit_labels(names: Sequence[str], predicted: NDArray, truth: NDArray) -> pd.DataFrame:
    """Rank films by how strongly the network contradicts their label.

    A film is ranked by its most contradicted edge, in units of the usual error of that edge (the median): an error of
    8 px at the top may be as ordinary as one of 3 px at a side. Either the label or the network may be wrong, so look
    at a film before leaving it out.

    Parameters
    ----------
    names : sequence of str
        Names of the films.
    predicted, truth : ndarray, shape (N, 4 * targets)
        Boxes in pixels, predicted by networks that were trained without the film: a memorised label is not
        contradicted.

    Returns
    -------
    DataFrame
        One row per film, the most contradicted first: ``name``, ``times_usual``, ``edge``, ``error`` in pixels
        (predicted - label) and the heart's ``iou``. The index is the film's position in `names`.
    """
    targets = ("heart", "thorax") if has_thorax(predicted) else ("heart",)
    edges = np.array([f"{target}_{edge}" for target in targets for edge in EDGES])
    error = predicted - truth
    median = pd.DataFrame(np.abs(error)).median().to_numpy()  # NaN, an unknown label, does not count
    times_usual = np.abs(error) / np.maximum(median, MIN_USUAL_ERROR)
    worst = np.where(np.isnan(times_usual), -1.0, times_usual).argmax(axis=1)
    films = np.arange(len(error))
    table = pd.DataFrame(
        {
            "name": list(names),
            "times_usual": times_usual[films, worst],
            "edge": edges[worst],
            "error": error[films, worst],
            "iou": box_iou(predicted[:, HEART], truth[:, HEART]),
        }
    )
    return table.sort_values("times_usual", ascending=False, kind="stable")
