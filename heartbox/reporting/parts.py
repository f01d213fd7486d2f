"""A run's table as a folder of Parquet files, each complete or absent, and the run over an archive that fills it.

Knows rows, parts and which of them are still to be made; no networks.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from heartbox import __version__
from heartbox.inference.archive import FilmJob, OutputError, log_traceback
from heartbox.inference.distributed import ClusterError, answer_on_cluster, connect, missing_extra
from heartbox.reporting.export import TABLE_COLUMNS, TEXT_COLUMNS, table_row
from heartbox.reporting.outputs import Outputs
from heartbox.utils.atomic import complete_or_absent
from heartbox.utils.progress import progress_bar

ENDING = ".parquet"
ROWS = 1000  # of a part: a megabyte, and a thousand files for a million films
MANIFEST = "_heartbox.json"  # readers of Parquet pass over names that begin with _ or .
CHANGED = {
    "version": "another version of Heartbox",
    "weights": "other weights",
    "films": "another list of films",
    "rows_of_a_part": "parts of another size",
}


class Parts:
    """The parts of one table, those of an earlier run among them.

    Parameters
    ----------
    folder : path
        Where they lie, ``part-00000.parquet`` and so on, beside a small file that says what they were made from.
    names : sequence of str
        The films, in the order of the table.
    weights : str
        SHA-256 of the weights.

    Raises
    ------
    OutputError
        If the folder holds anything else, or was made from other films or with other weights.
    """

    def __init__(self, folder: Path, names: Sequence[str], weights: str):
        self.folder, self.count = folder, len(names)
        films = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
        self._check({"version": __version__, "weights": weights, "films": films, "rows_of_a_part": ROWS})
        numbers = range(-(-self.count // ROWS))
        self.complete = {number for number in numbers if self.path(number).is_file()}
        self._rows: dict[int, dict[int, dict]] = {}

    def _check(self, made_from: dict) -> None:
        manifest = self.folder / MANIFEST
        if manifest.is_file():
            found = json.loads(manifest.read_text(encoding="utf-8"))
            if changed := [words for key, words in CHANGED.items() if found.get(key) != made_from[key]]:
                raise OutputError(f"--csv {self.folder}: was written with {' and '.join(changed)}; name another folder")
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise OutputError(f"--csv {self.folder}: this folder is not a table of this command; name another")
        else:
            with complete_or_absent(manifest) as part:
                part.write_text(json.dumps(made_from, indent=2) + "\n", encoding="utf-8")

    def path(self, number: int) -> Path:
        """Return the file of one part."""
        return self.folder / f"part-{number:05d}{ENDING}"

    def places_left(self) -> list[int]:
        """Return the films, by their place in the list, whose part is not there."""
        return [place for place in range(self.count) if place // ROWS not in self.complete]

    def add(self, place: int, row: dict) -> None:
        """Take the row of one film; its part is written with the last of its rows."""
        number = place // ROWS
        rows = self._rows.setdefault(number, {})
        rows[place] = row
        if len(rows) == min(ROWS, self.count - number * ROWS):
            _write(self.path(number), [rows[place] for place in sorted(rows)])
            self.complete.add(number)
            del self._rows[number]


def _write(path: Path, rows: list[dict]) -> None:
    """Write rows with the same types in each part, also where a column is empty in one of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(TABLE_COLUMNS, pa.float64()) | dict.fromkeys(TEXT_COLUMNS, pa.string())
    schema = pa.schema(types | {"rows": pa.int64(), "columns": pa.int64()})
    with complete_or_absent(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema), part, compression="zstd")


@dataclass(frozen=True)
class Counts:
    """How many films a table has, how many of them have a warning, and how many an error."""

    films: int
    flagged: int
    failed: int


def count_rows(folder: Path) -> Counts:
    """Count over all parts, without loading them together."""
    import pyarrow.dataset as ds

    table = ds.dataset(folder, format="parquet")
    flagged, failed = (table.count_rows(filter=ds.field(name).is_valid()) for name in ("warnings", "error"))
    return Counts(table.count_rows(), flagged, failed)


def answer_archive(
    jobs: Sequence[FilmJob],
    outputs: Outputs,
    weights: str,
    folder: Path,
    scheduler: str | None,
    workers: int,
    log: Path | None = None,
) -> Counts:
    """Answer the films whose part is missing on a cluster, and write each part as soon as its films are answered.

    Parameters
    ----------
    jobs : sequence of FilmJob
        The films.
    outputs : Outputs
        Says which weights. Workers look for a file of weights under the same path.
    weights : str
        SHA-256 of the weights, which is compared on each worker.
    folder : path
        Of the parts.
    scheduler, workers
        See :func:`heartbox.inference.distributed.connect`.
    log : path, optional
        Gets the tracebacks of unexpected exceptions.

    Raises
    ------
    OutputError
        If the folder is not one of this run, or cannot be written to.
    ClusterError
        If the cluster cannot be used. What is complete stays.
    """
    try:
        import pyarrow  # noqa: F401  asked for before any film is answered
    except ImportError as error:
        raise ClusterError(missing_extra(error)) from error
    parts = Parts(folder, [job.source.name for job in jobs], weights)
    places = parts.places_left()
    if places:
        named = outputs.weights
        file = named if named is None or "://" in named else str(Path(named).resolve())
        answer = replace(outputs, weights=file, parent=None, digest=weights)
        bar = progress_bar(None, "Films", total=len(jobs), initial=len(jobs) - len(places), file=sys.stderr)
        with connect(scheduler, workers) as client, bar:
            for index, outcome in answer_on_cluster(client, [jobs[place] for place in places], answer):
                log_traceback(log, outcome)
                row = outcome.row or table_row(outcome.name, None, outcome.problem.reason)
                parts.add(places[index], row)
                bar.update()
    return count_rows(folder)
