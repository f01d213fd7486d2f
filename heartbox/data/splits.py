"""Splits into training and validation, and folds for cross-validation, always by patient.

Knows names and numbers; :func:`heartbox.data.store.write_split` makes a processed folder from a split.
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
    """Give each film the number of the fold in which it is held out.

    Parameters
    ----------
    patients, sources : sequence
        Patient and collection of each film. All films of a patient are in the same fold, and each collection is
        spread evenly over the folds.
    folds : int
        Number of folds.
    seed : int
        Decides which patient goes to which fold.

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
        for patient, home in homes.items():  # patients who also have films in an earlier collection
            here[home] += counts.get(patient, 0)
        for patient in rng.permutation(counts.index.to_numpy()):
            if patient not in homes:
                # Of the folds with the fewest films of this collection, the one with the fewest films overall.
                homes[patient] = int(np.where(here <= here.min() + 1, load + here, np.inf).argmin())
                here[homes[patient]] += counts[patient]
        load += here
    return table["patient"].map(homes).to_numpy()


def split_by_patient(
    patients: list[str], sources: list[str], seed: int = 0, validation_share: float = 0.2
) -> list[str]:
    """Assign every film to ``"train"`` or ``"val"``, all films of a patient to the same split.

    Parameters
    ----------
    patients, sources : list of str
        Patient and collection of each film. Each collection is split separately, so that both splits contain it.
    seed : int
        Decides which patients go to the validation split.
    validation_share : float
        Share of the films in the validation split, between 0 and 1; exact to within one patient's films.

    Returns
    -------
    list of str
        The split of each film, in order.

    Raises
    ------
    ValueError
        If there are fewer than two patients, so that one split would be empty.
    """
    if len(set(patients)) < 2:
        raise ValueError("the films of one patient cannot be split: add X-rays of other patients")
    validating: set[str] = set()
    rng = np.random.default_rng(seed)
    for source in sorted(set(sources)):
        films = Counter(patient for patient, origin in zip(patients, sources, strict=True) if origin == source)
        wanted = max(1, round(films.total() * validation_share))
        taken = sum(films[patient] for patient in validating)  # also in an earlier collection
        for patient in rng.permutation(sorted(films)):
            if taken >= wanted:
                break
            if patient not in validating:
                validating.add(str(patient))
                taken += films[patient]
    if validating >= set(patients):
        validating.remove(sorted(validating)[0])
    return [VAL if patient in validating else TRAIN for patient in patients]


def choose_split(
    films: list[LabelledXRay], patients: list[str], layout: str, seed: int, share: float
) -> tuple[list[str], str]:
    """Return the split of each film (UNUSED to leave it out) and the name of the rule that decided it."""
    if layout == "rsna" and max(film.row for film in films) >= RSNA_PUBLISHED_TRAIN:
        split = [TRAIN if film.row < RSNA_PUBLISHED_TRAIN else VAL for film in films]
        validating = {patient for patient, name in zip(patients, split, strict=True) if name == VAL}
        # The published split goes by rows. A patient whom it puts into both splits is used for validation only.
        pairs = zip(patients, split, strict=True)
        split = [UNUSED if name == TRAIN and patient in validating else name for patient, name in pairs]
        if TRAIN in split:
            return split, f"published: the first {RSNA_PUBLISHED_TRAIN} rows of the csv train, the rest validate"
    return split_by_patient(patients, [film.source for film in films], seed, share), f"by patient, seed {seed}"
