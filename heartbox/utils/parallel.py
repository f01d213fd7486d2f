"""Sharing many equal jobs among processes, with a progress bar.

Knows nothing of the jobs. The processes are those of loky, joblib's backend: unlike the standard library's they need
no ``if __name__ == "__main__"``, so everything here also works from a script without one, from a notebook and from a
program on standard input.
"""

from __future__ import annotations

import os
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cv2
from loky import ProcessPoolExecutor, get_reusable_executor
from loky.process_executor import TerminatedWorkerError

from heartbox.utils.progress import progress_bar

Job = TypeVar("Job")
Result = TypeVar("Result")

JOBS_PER_PROCESS = 12  # starting a process takes about as long as this many jobs of the kind done here
AHEAD = 4  # jobs handed out per process: enough to keep it busy, few enough to keep finished results out of memory
WORKER_ENVIRONMENT = {
    "PYTHONFAULTHANDLER": "",  # set, a process that dies would print a page of stack trace; a Failure already says it
    # loky takes a process that grows by 300 MB for a memory leak, restarts it and warns. Importing torch is enough.
    "LOKY_MAX_MEMORY_LEAK_SIZE": "2e9",
}
TRIES_ALONE = 2  # of a job in whose presence a process ended: something else may have ended it
DIED = "it ended the whole process, twice: an abort in a library, or too little memory"
IDLE_SECONDS = 20  # an idle process waits this long for the next call before it ends


@dataclass(frozen=True)
class Failure:
    """What :func:`parallel_map` yields in place of a job's result when that job failed.

    Attributes
    ----------
    message : str
        The exception's type and message, in one line.
    traceback : str
        The full traceback; empty where the process died.
    died : bool
        Whether the job ended its whole process: an abort in a C++ library, or the system out of memory.
    """

    message: str
    traceback: str = ""
    died: bool = False


@dataclass(frozen=True)
class _Guarded(Generic[Job, Result]):
    """A function that returns a Failure where the original one raises."""

    function: Callable[[Job], Result]

    def __call__(self, job: Job) -> Result | Failure:
        try:
            return self.function(job)
        except Exception as error:
            return failure_of(error)


def most_processes() -> int:
    """Return how many processes may work at once: one per core, and two on a single core.

    More only slow each other down, and each holds a network of its own: some hundred bring a machine to a standstill.
    """
    return max(2, os.cpu_count() or 1)


def parallel_map(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    description: str,
    unit: str = "film",
    processes: int | None = None,
    progress: bool = True,
    keep_going: bool = False,
) -> Iterator[Result | Failure]:
    """Yield ``function(job)`` for each job, in order.

    Parameters
    ----------
    function : callable
        Of one argument; it, the jobs and the results must be picklable.
    jobs : sequence
        Its arguments.
    description, unit : str
        For the bar on standard output.
    processes : int, optional
        How many, at most :func:`most_processes`; by default one per core, or only this one for a handful of jobs.
    progress : bool
        Whether to show the bar.
    keep_going : bool
        Whether a job that raises an exception or ends its process yields a :class:`Failure`, and the others go on.
        All jobs then run outside this process, so that none can bring it down. Without it the first exception ends
        the run.

    Raises
    ------
    ValueError
        If `processes` is below 1.
    RuntimeError
        If a process died and `keep_going` is off.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    processes = min(processes or 1 + len(jobs) // JOBS_PER_PROCESS, most_processes())
    if keep_going:
        results = _run(_Guarded(function), jobs, processes, keep_going=True)
    else:
        results = map(function, jobs) if processes == 1 else _run(function, jobs, processes, keep_going=False)
    yield from progress_bar(results, description, unit, total=len(jobs), show=progress)


def _run(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int, keep_going: bool
) -> Iterator[Result | Failure]:
    """Run the jobs in other processes, a few ahead of the one whose result is yielded next."""
    left, running = deque(jobs), deque()
    pool = _pool(processes)
    try:
        while left or running:
            while left and len(running) < AHEAD * processes:
                job = left.popleft()
                running.append((job, _submit(pool, function, job)))
            job, future = running[0]
            try:
                yield future.result()
                running.popleft()
            except TerminatedWorkerError as error:
                if not keep_going:
                    raise RuntimeError(f"a worker process died ({error})") from error
                # Which of the jobs in flight ended its process cannot be told: each runs again by itself.
                yield from _run_apart(function, running)
                running.clear()
                pool = _pool(processes)
            except Exception as error:  # the result cannot be pickled, for instance
                if not keep_going:
                    raise
                yield failure_of(error)
                running.popleft()
    except BaseException:  # an interrupt, an exception of a job, or a caller that stops early
        pool.shutdown(wait=False, kill_workers=True)
        raise


def _pool(processes: int) -> ProcessPoolExecutor:
    return get_reusable_executor(processes, timeout=IDLE_SECONDS, **_settings(processes))


def _settings(processes: int) -> dict[str, Any]:
    """Return how worker processes start: several share the cores, so that none starts as many threads as there are."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))
    environment = WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": threads}
    return {"initializer": cv2.setNumThreads, "initargs": (1,), "env": environment}


def _submit(pool: ProcessPoolExecutor, function: Callable[[Job], Result], job: Job) -> Future:
    try:
        return pool.submit(function, job)
    except TerminatedWorkerError as error:  # it broke a moment ago: found when this job's turn comes
        future = Future()
        future.set_exception(error)
        return future


def _run_apart(function: Callable[[Job], Result], running: Sequence[tuple[Job, Future]]) -> Iterator[Result | Failure]:
    """Yield what is finished, and run each of the others in a process that nothing else uses at the same time."""
    pool = None
    try:
        for job, future in running:
            if future.done() and not future.cancelled() and future.exception() is None:
                yield future.result()
                continue
            for _ in range(TRIES_ALONE):
                pool = pool or ProcessPoolExecutor(1, **_settings(1))
                try:
                    result = pool.submit(function, job).result()
                    break
                except TerminatedWorkerError:
                    pool, result = None, Failure(DIED, died=True)
                except Exception as error:
                    result = failure_of(error)
                    break
            yield result
    finally:
        if pool is not None:
            pool.shutdown(wait=False, kill_workers=True)


def failure_of(error: Exception) -> Failure:
    """Return what a job's exception says, and its traceback."""
    words = " ".join(str(error).split())
    return Failure(f"{type(error).__name__}: {words}", "".join(traceback.format_exception(error)))
