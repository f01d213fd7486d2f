"""Checked reading of csv files.

Knows tables; no images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """Read a csv whose header must hold the `required` columns; names and labels stay text."""
    try:
        # Names may be all digits: they are text all the same, with their zeros.
        text = {column: str for column in pd.read_csv(path, nrows=0).columns if column.strip() in ("name", "label")}
        table = pd.read_csv(path, dtype=text, keep_default_na=True)
    except (ValueError, OSError) as error:  # empty, binary, torn quotes: pandas has an exception for each
        raise ValueError(
            f"{path}: cannot be read as a csv ({error}); save it again as comma-separated UTF-8"
        ) from error
    table.columns = table.columns.str.strip()
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise ValueError(
            f"{path}: column {', '.join(missing)} is missing; its first line must be {','.join(required)}, "
            "with commas between"
        )
    return table
