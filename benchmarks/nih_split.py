"""The NIH films of shared data in two parts that share no patient: one to learn from without labels, one to measure.

Films that RSNA's readers read too, and all films of those patients, are for measuring: their sides can be compared
with RSNA's boxes. The others may train. labels.csv says which is which; the first eight digits of a name are the
patient.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def two_parts(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the films of an NIH folder (``images/``, ``labels.csv``) to learn from, and those to measure on."""
    films = pd.read_csv(folder / "labels.csv").sort_values("file")
    patients = films["file"].str[:8]
    measured = patients.isin(patients[films["rsna_id"].notna()])
    learn, measure = ([folder / "images" / name for name in films["file"][side]] for side in (~measured, measured))
    return learn, measure
