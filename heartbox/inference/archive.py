"""A run over many films that no film can bring down: each is answered in a process that may die, and noted when done.

Knows films, outcomes and the journal of an unfinished run; it does not know what is written about a film.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from heartbox.data.tables import Problem
from heartbox.utils.parallel import Failure, parallel_map
from heartbox.utils.progress import progress_bar
from heartbox.xray.discovery import XRaySource
from heartbox.xray.errors import printable

OWN_NAME = re.compile(r"\d{5}-.*\.(png|json|dcm)$")
LONGEST_STEM = 50  # letters; most file systems take 255 bytes, and a letter may need four
UNSAFE = re.compile(r'[\\/:*?"<>|]')  # in a file name on one system or another
LINE = re.compile(rb"([0-9a-f]{8}) (\{.*\})")  # of the journal: a checksum and a record
LINE_BEGUN = re.compile(rb"[0-9a-f]{0,8}|[0-9a-f]{8} (\{[ -~]*)?")  # what a stopped run may leave of one


@dataclass(frozen=True, slots=True)  # an archive has a million of them
class FilmJob:
    """One film of a run.

    Attributes
    ----------
    source : XRaySource
        Where it is read from.
    stem : str
        Name of the files written about it, without their endings.
    """

    source: XRaySource
    stem: str


@dataclass(frozen=True)
class Outcome:
    """What became of one film.

    Attributes
    ----------
    name : str
        The film, as it is called in tables.
    row : dict or None
        Its row of the table; None where there is no answer.
    problem : Problem or None
        Why there is no answer: of the kind ``unreadable``, ``error`` or ``crash``.
    refused : dict
        Why a report could not be written, for each kind of report that is missing.
    tracebacks : str
        Of exceptions that nobody expected, for a log file.
    fatal : str
        Why the run cannot go on: the disk is full, for instance.
    """

    name: str
    row: dict | None = None
    problem: Problem | None = None
    refused: dict[str, str] = field(default_factory=dict)
    tracebacks: str = ""
    fatal: str = ""


class OutputError(OSError):
    """Results cannot be written, so that going on to the next film is of no use."""


def make_jobs(sources: Sequence[XRaySource]) -> list[FilmJob]:
    """Give each film a number, because two folders may hold files of the same name."""
    jobs = []
    for number, source in enumerate(sources, start=1):
        name = UNSAFE.sub("_", printable(Path(source.name).stem))[:LONGEST_STEM]
        jobs.append(FilmJob(source, f"{number:05d}-{name}"))
    return jobs


def run_films(
    jobs: Sequence[FilmJob],
    answer: Callable[[FilmJob], Outcome],
    journal: Journal | None = None,
    is_complete: Callable[[FilmJob, Outcome], bool] = lambda job, outcome: True,
    workers: int = 1,
    log: Path | None = None,
) -> list[Outcome]:
    """Answer every film, those of an unfinished run from its journal.

    Parameters
    ----------
    jobs : sequence of FilmJob
        The films.
    answer : callable
        Returns the outcome of one film, and raises nothing for a bad one. Picklable, as is what it returns.
    journal : Journal, optional
        Of the unfinished run, if there is one; outcomes are added to it one by one.
    is_complete : callable
        Whether the files that an outcome of the journal speaks of are still there.
    workers : int
        Number of processes to answer films in. A film that ends its process costs only itself. A single film is
        answered in this process, and so are all with 0 workers.
    log : path, optional
        Gets the tracebacks of unexpected exceptions.

    Returns
    -------
    list of Outcome
        In the order of `jobs`.

    Raises
    ------
    OutputError
        If results cannot be written. What was answered so far is in the journal.
    """
    known = [journal.recall(job) if journal else None for job in jobs]
    known = [
        None if outcome is None or not is_complete(job, outcome) else outcome
        for job, outcome in zip(jobs, known, strict=True)
    ]
    left = [job for job, outcome in zip(jobs, known, strict=True) if outcome is None]
    fresh = _answers(left, answer, workers if len(jobs) > 1 else 0)
    outcomes, done = [], len(jobs) - len(left)
    with progress_bar(None, "Films", total=len(jobs), initial=done, show=len(jobs) > 1, file=sys.stderr) as bar:
        for job, outcome in zip(jobs, known, strict=True):
            if outcome is None:
                outcome = next(fresh)
                if outcome.fatal:
                    raise OutputError(outcome.fatal)
                if journal:
                    journal.note(job, outcome)
                log_traceback(log, outcome)
                bar.update()
            outcomes.append(outcome)
    return outcomes


def _answers(jobs: Sequence[FilmJob], answer: Callable[[FilmJob], Outcome], workers: int) -> Iterator[Outcome]:
    if workers == 0:
        yield from map(answer, jobs)
        return
    answers = parallel_map(answer, jobs, "films", processes=workers, progress=False, keep_going=True)
    for job, outcome in zip(jobs, answers, strict=True):
        yield without_answer(job, outcome) if isinstance(outcome, Failure) else outcome


def without_answer(job: FilmJob, failure: Failure) -> Outcome:
    """Return the outcome of a film whose process failed."""
    name = printable(job.source.name)
    kind, way_out = ("crash", "Leave it out") if failure.died else ("error", "Run it alone to see where")
    problem = Problem(name, kind, f"no answer: {failure.message}. {way_out}.")
    return Outcome(name, problem=problem, tracebacks=failure.traceback or failure.message)


def log_traceback(log: Path | None, outcome: Outcome) -> None:
    """Add the traceback of an unexpected exception to a log file, where there are both."""
    if log and outcome.tracebacks:
        _append(log, f"{outcome.name}\n{outcome.tracebacks}\n")


def _append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)


class Journal:
    """The outcomes of an unfinished run, one line each, beside the output csv.

    A record counts only for the same weights and the same file, by its size and its time of change. Each line has a
    checksum. A line that was being written when the run stopped is passed over; where there is anything else in the
    file, it is set aside, and its sound lines are used.

    Parameters
    ----------
    csv : path
        The output csv.
    weights : str
        SHA-256 of the weights.

    Attributes
    ----------
    message : str
        What is wrong with the journal that was there; empty where nothing is.
    """

    def __init__(self, csv: Path, weights: str):
        self.path = csv.with_name(f"{csv.name}.unfinished")
        self.weights, self.message = weights, ""
        self.records: dict[tuple[str, str], dict] = {}
        lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        sound = [line for line in lines if self._take(line)]
        if any(not LINE_BEGUN.fullmatch(line) for line in lines):
            aside = self.path.with_name(f"{self.path.name}.damaged")
            self.path.replace(aside)
            _append(self.path, "".join(f"{line.decode('ascii')}\n" for line in sound))
            self.message = (
                f"{self.path}: damaged, or of another version. It is kept as {aside.name}; films that it does not name "
                "any more are answered again."
            )
        _append(self.path, "\n")  # ends whatever the last run was writing

    def _take(self, line: bytes) -> bool:
        """Keep the record of a line, and tell whether it is sound."""
        whole = LINE.fullmatch(line)
        if not whole or zlib.crc32(whole[2]) != int(whole[1], 16):
            return False
        record = json.loads(whole[2])
        self.records[record.pop("key"), record.pop("stem")] = record
        return True

    def _key(self, source: XRaySource) -> str | None:
        try:
            state = source.path.stat()
        except (OSError, ValueError):
            return None  # not there, or no possible name: look again next time
        return f"{self.weights[:16]} {state.st_size} {state.st_mtime_ns} {source.name}"

    def recall(self, job: FilmJob) -> Outcome | None:
        """Return the outcome that an earlier run had for a film under the same stem, or None."""
        key = self._key(job.source)
        record = None if key is None else self.records.get((key, job.stem))
        return None if record is None else Outcome(**record)

    def note(self, job: FilmJob, outcome: Outcome) -> None:
        """Keep an answer; it is in the file when this returns. A problem is not kept: its cause may be mended."""
        key = self._key(job.source)
        if key is None or outcome.problem is not None:
            return
        kept = {name: value for name, value in asdict(outcome).items() if name in ("name", "row", "refused")}
        record = json.dumps({"key": key, "stem": job.stem} | kept)
        _append(self.path, f"{zlib.crc32(record.encode()):08x} {record}\n")

    def close(self) -> None:
        """Forget the records, once they all stand in the csv."""
        self.path.unlink()


def without_own_outputs(sources: list[XRaySource], folders: list[Path], passed_over: list[Path]) -> list[XRaySource]:
    """Leave out what an earlier run wrote into the output folders, where those lie among the films."""
    places = {folder.resolve() for folder in folders}
    kept = []
    for source in sources:
        own = OWN_NAME.match(source.path.name) and source.path.parent.resolve() in places
        (passed_over if own else kept).append(source.path if own else source)
    return kept
