"""Folds for out-of-fold measuring: every film answered by a network that was trained without its patient.

Knows names and numbers only; :func:`heartbox.processed.write_split` makes a processed folder of each fold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def assign_folds(patients: Sequence, sources: Sequence[str], folds: int = 5, seed: int = 0) -> NDArray[np.int64]:
    """Give each film the number of the fold in which it is held back.

    Parameters
    ----------
    patients, sources : sequence
        Patient and collection of each film. All films of a patient share a fold; each collection is spread
        evenly over the folds.
    folds : int
        How many.
    seed : int
        Decides who goes where.

    Returns
    -------
    ndarray of int, shape (N,)
        0 to ``folds - 1``.

    Raises
    ------
    ValueError
        If there are fewer patients than folds.
    """
    table = pd.DataFrame({"patient": list(patients), "source": list(sources)})
    if table["patient"].nunique() < folds:
        raise ValueError(f"{table['patient'].nunique()} patients cannot be spread over {folds} folds: use fewer folds")
    rng = np.random.default_rng(seed)
    homes, load = {}, np.zeros(folds, dtype=int)
    for _, films in table.groupby("source", sort=True):
        counts = films["patient"].value_counts(sort=False).sort_index()
        here = np.zeros(folds, dtype=int)
        for patient, home in homes.items():  # those who were met in an earlier collection
            here[home] += counts.get(patient, 0)
        for patient in rng.permutation(counts.index.to_numpy()):
            if patient not in homes:
                # The emptiest fold of all among those that this collection has hardly reached.
                homes[patient] = int(np.where(here <= here.min() + 1, load + here, np.inf).argmin())
                here[homes[patient]] += counts[patient]
        load += here
    return table["patient"].map(homes).to_numpy()
