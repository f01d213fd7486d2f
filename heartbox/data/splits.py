"""Folds for out-of-fold measuring: every film answered by a network that was trained without its patient.

Knows names and numbers only; :func:`heartbox.data.store.write_split` makes a processed folder of each fold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heartbox.data.layouts import LabelledXRay

TRAIN, VAL, TEST, UNUSED = "train", "val", "test", "unused"  # the splits, as labels.csv names them
# The published exercise trains on the first 400 rows of its csv and validates on the other 96.
RSNA_PUBLISHED_TRAIN = 400


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


def split_by_patient(
    patients: list[str], sources: list[str], seed: int = 0, validation_share: float = 0.2
) -> list[str]:
    """Give every film to ``"train"`` or ``"val"``, a patient's films all to the same side.

    Parameters
    ----------
    patients, sources : list of str
        Patient and collection of each film; each collection is split apart, so that both sides hold all of them.
    seed : int
        Decides which patients validate.
    validation_share : float
        Share of the films that validate, between 0 and 1; met to within one patient's films.

    Returns
    -------
    list of str
        The side of each film, in order.

    Raises
    ------
    ValueError
        If there are fewer than two patients, so that one side would be empty.
    """
    if len(set(patients)) < 2:
        raise ValueError("one patient alone cannot be split into training and validation: add X-rays of others")
    validating: set[str] = set()
    rng = np.random.default_rng(seed)
    for source in sorted(set(sources)):
        films = Counter(patient for patient, origin in zip(patients, sources, strict=True) if origin == source)
        wanted = max(1, round(films.total() * validation_share))
        taken = sum(films[patient] for patient in validating)  # met in an earlier collection already
        for patient in rng.permutation(sorted(films)):
            if taken >= wanted:
                break
            if patient not in validating:
                validating.add(str(patient))
                taken += films[patient]
    if validating >= set(patients):
        validating.remove(sorted(validating)[0])
    return ["val" if patient in validating else "train" for patient in patients]


def choose_split(
    films: list[LabelledXRay], patients: list[str], layout: str, seed: int, share: float
) -> tuple[list[str], str]:
    """Return the side of each film ("unused" to leave it out) and the name of the rule that decided."""
    if layout == "rsna" and max(film.row for film in films) >= RSNA_PUBLISHED_TRAIN:
        split = ["train" if film.row < RSNA_PUBLISHED_TRAIN else "val" for film in films]
        validating = {patient for patient, side in zip(patients, split, strict=True) if side == "val"}
        # The published split goes by rows. Should it ever cut through a patient, training gives way.
        pairs = zip(patients, split, strict=True)
        split = ["unused" if side == "train" and patient in validating else side for patient, side in pairs]
        if "train" in split:
            return split, f"published: the first {RSNA_PUBLISHED_TRAIN} rows of the csv train, the rest validate"
    return split_by_patient(patients, [film.source for film in films], seed, share), f"by patient, seed {seed}"
