"""Reading csv files with checks, and the record of whatever could not be used.

Every csv that a user brings is read here, for the notebooks and the companions alike. Knows tables; it does not know
images or layouts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from heartbox.utils.atomic import complete_or_absent


class Problem(NamedTuple):
    """An item that could not be used as it stands, and why.

    Attributes
    ----------
    name : str
        The film, subject or file concerned: a name, never a path of this machine.
    kind : str
        One word or two by which problems are counted:

        ==================  =====================================================================================
        ``label``           the row has no usable label or names no image
        ``box``             the box is empty, not finite, given as fractions, or outside its image
        ``frame``           the frame in which the box was drawn does not have the proportions of the image
        ``mask``            a mask is missing, empty, or of another size than its image
        ``duplicate``       a second row or file for the same image; the reason says which is used, if any
        ``contradiction``   two sources say different things about the same image
        ``no image``        labelled, but the image is missing
        ``no label``        an image without a label
        ``patient``         the patient is unknown, or is already in another split
        ``unreadable``      the image file is damaged, empty or not an image
        ``pickled``         the file holds Python objects, which can run code when they are read: it never is
        ``pixels``          the file is readable, but its array is not an image: shape, type, NaN, one grey
        ``spacing``         the voxel size is impossible, or differs from that of the other volumes
        ``error``           an exception that nobody expected; the log has its traceback
        ``crash``           reading this item ended the whole worker process
        ==================  =====================================================================================
    reason : str
        A sentence for the reader, with the way out where there is one.
    """

    name: str
    kind: str
    reason: str

    def __str__(self) -> str:
        """Return the problem as one line."""
        return f"{self.name}: {self.reason}"


class ItemError(ValueError):
    """One item that cannot be used; the loop over the items turns it into a :class:`Problem` and goes on."""

    def __init__(self, kind: str, reason: str):
        super().__init__(kind, reason)  # both, or it could not be sent from one process to another
        self.kind, self.reason = kind, reason

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason

    def problem(self, name: str) -> Problem:
        """Return the problem of the item with that name."""
        return Problem(name, self.kind, self.reason)


class TableError(ValueError):
    """A csv that cannot be used; the message names the file, the fault and the way out."""


def read_table(path: str | Path, required: Sequence[str], text: Iterable[str] = ()) -> pd.DataFrame:
    """Read a comma-separated file (UTF-8, with or without a byte-order mark) and check its columns.

    Parameters
    ----------
    path : path
        The csv.
    required : sequence of str
        Columns that must be there. Blanks around a header's names are dropped, and capitals do not matter: a column
        that differs from a name in `required` or `text` only in these gets that name.
    text : iterable of str
        Columns to keep as text, where they are there: blanks around a cell are dropped, an empty cell is ``""``, and
        ``"007"`` or ``"NA"`` stays what it is. The other columns get the type that pandas finds for them, with NaN
        for an empty cell.

    Returns
    -------
    DataFrame
        The rows in order; cells beyond the end of a short row are empty.

    Raises
    ------
    TableError
        If the file is missing, empty, binary, in another encoding or torn, or a required column is missing.
    """
    path, wanted = Path(path), {name.casefold(): name for name in (*text, *required)}
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        names = [str(cell).strip() or f"column {i + 1}" for i, cell in enumerate(first.iloc[0])]
        names = [wanted.get(name.casefold(), name) for name in names]
        if missing := [column for column in required if column not in names]:
            hint = " (semicolons seem to separate its columns)" if len(names) == 1 and ";" in names[0] else ""
            raise TableError(
                f"{path}: column {', '.join(missing)} is missing{hint}; its first line must name {','.join(required)}, "
                "separated by commas"
            )
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise TableError(f"{path}: column {', '.join(twice)} appears more than once; keep one of them")
        return _read_rows(path, names, set(text))
    except TableError:
        raise
    except (ValueError, OSError, OverflowError) as error:  # pandas raises another exception for each kind of damage
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise TableError(
            f"{path}: cannot be read as a csv ({reason}); save it again as comma-separated UTF-8"
        ) from error


def _read_rows(path: Path, names: list[str], text: set[str]) -> pd.DataFrame:
    """Read the rows under the given names; the columns in `text` stay strings, "NA" included."""
    options = {"names": names, "header": 0, "encoding": "utf-8-sig", "skipinitialspace": True}
    # Without index_col=False pandas takes the first of too many cells for a row's name, and moves all others.
    with warnings.catch_warnings(record=True, category=pd.errors.ParserWarning) as caught:
        warnings.simplefilter("always", pd.errors.ParserWarning)
        table = pd.read_csv(path, **options, index_col=False)
        strings = pd.read_csv(path, **options, index_col=False, dtype=str, keep_default_na=False)
    if caught:  # more cells than names: harmless only where a comma closes each row
        beyond = pd.read_csv(path, **options, dtype=str, keep_default_na=False).iloc[:, -1]
        if beyond.fillna("").str.strip().ne("").any():
            raise ValueError("its rows have more cells than its first line has names")
    for name in text.intersection(names):
        table[name] = strings[name].fillna("").str.strip()  # fillna: of a row that is too short
    return table


def write_problems(path: str | Path, problems: Iterable[Problem]) -> pd.DataFrame:
    """Write problems as a csv with the columns ``name, kind, reason``, and return that table."""
    table = pd.DataFrame(list(problems), columns=list(Problem._fields))
    with complete_or_absent(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")
    return table
