"""Labels that the network contradicts, ranked for a person to look at.

Knows boxes and tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heartbox.boxes import EDGES, box_iou


def audit_labels(names: Sequence[str], predicted: NDArray, truth: NDArray) -> pd.DataFrame:
    """Rank labels by how far the network contradicts them, so that a person looks at the right ones first.

    A film is ranked by its most contradicted edge, in units of what is usual for that edge (the median error), for
    a top edge that is off by 8 px may be as good as a side that is off by 3. Either may be wrong, label or network:
    look before anything is left out.

    Parameters
    ----------
    names : sequence of str
        Of the films.
    predicted, truth : ndarray, shape (N, 4 * targets)
        Boxes in pixels, predicted by networks that were trained without the film; a label that was learnt by heart
        is not contradicted.

    Returns
    -------
    DataFrame
        A row a film, the most contradicted first: ``name``, ``times_usual``, ``edge``, ``error`` in pixels (found -
        label) and the heart's ``iou``. The index is the film's place in `names`.
    """
    targets = ("heart", "thorax")[: predicted.shape[1] // 4]
    edges = np.array([f"{target}_{edge}" for target in targets for edge in EDGES])
    error = predicted - truth
    # A tenth of a pixel at least: no label is better than that, and nothing can be divided by nothing.
    usual = np.abs(error) / np.maximum(pd.DataFrame(np.abs(error)).median().to_numpy(), 0.1)
    worst = np.where(np.isnan(usual), -1.0, usual).argmax(axis=1)
    films = np.arange(len(error))
    table = pd.DataFrame(
        {
            "name": list(names),
            "times_usual": usual[films, worst],
            "edge": edges[worst],
            "error": error[films, worst],
            "iou": box_iou(predicted[:, :4], truth[:, :4]),
        }
    )
    return table.sort_values("times_usual", ascending=False, kind="stable")
