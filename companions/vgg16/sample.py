"""The embedded sample: phantoms as ``.npy`` images with a csv of their boxes.

Knows the phantoms of :mod:`heartbox.phantom` and files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from companions.vgg16.data import read_npy, write_labels
from heartbox.boxes import EDGES
from heartbox.data.tables import ItemError
from heartbox.phantom import render, sample_subject
from heartbox.utils.atomic import complete_or_absent


def write_sample(folder: str | Path, count: int = 200, size: int = 96, seed: int = 0) -> Path:
    """Write `count` phantoms as float16 images with a side of `size` pixels; the same sample, if there, is kept."""
    folder = Path(folder)
    expected = [folder / "images" / f"{sample_subject(seed, i).film_id}.npy" for i in range(count)]
    existing = sorted((folder / "images").glob("*.npy"))
    if (folder / "labels.csv").is_file() and existing == sorted(expected) and _all_of_size(existing, size):
        return folder
    (folder / "labels.csv").unlink(missing_ok=True)  # first, and written last: without it the folder holds no data
    for path in existing:
        path.unlink()
    rows = []
    for i in range(count):
        phantom = render(sample_subject(seed, i), size)
        with complete_or_absent(folder / "images" / f"{phantom.subject.film_id}.npy") as part:
            np.save(part, phantom.image.astype(np.float16))
        rows.append([phantom.subject.film_id, *phantom.heart, phantom.subject.patient_id])
    return write_labels(folder, pd.DataFrame(rows, columns=["name", *EDGES, "patient"]))


def _all_of_size(paths: list[Path], size: int) -> bool:
    try:
        return all(read_npy(path).shape == (size, size) for path in paths)
    except ItemError:
        return False
