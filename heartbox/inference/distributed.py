"""Films answered by the workers of a dask cluster, so that neither a film nor a machine that dies costs an answer.

Knows films, outcomes and dask.distributed, which is an optional extra; it does not know what is written about a film.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from heartbox.inference.archive import FilmJob, Outcome, OutputError, without_answer
from heartbox.utils.parallel import TRIES_ALONE, Failure
from heartbox.xray.errors import one_line

if TYPE_CHECKING:
    from distributed import Client, Future

FILMS_PER_TASK = 16  # a second or two: long beside the scheduler's millisecond a task, short to do again
AHEAD = 4  # tasks handed out per thread
LEAST_AHEAD = 32  # tasks handed out while the cluster has hardly begun to grow
WAIT_SECONDS = 60  # for the scheduler, and for its first worker
DIED_ALONE = "its worker died twice while it did nothing else: an abort in a library, or too little memory"
LOCAL_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,  # other tries are made here, with the film alone
    "distributed.scheduler.worker-saturation": 1.0,  # no task waits on a worker that another one may end
    # Dask lets workers give each freed block back to the system, and a network frees large ones in every layer: a third
    # of its time would go by in asking for them again.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
}


class ClusterError(OSError):
    """There is no cluster, or it cannot answer films."""


@contextlib.contextmanager
def connect(scheduler: str | None, workers: int) -> Iterator[Client]:
    """Give a client of a running dask scheduler, or of a cluster on this machine that ends with the block.

    Parameters
    ----------
    scheduler : str or None
        Address of a dask scheduler, ``tcp://host:8786``.
    workers : int
        Number of processes of a cluster on this machine, where no scheduler is named.

    Raises
    ------
    ClusterError
        If dask is not installed, or no scheduler or no worker answers.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ClusterError(missing_extra(error)) from error
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            stack.enter_context(dask.config.set(LOCAL_SETTINGS))
            options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
            try:
                scheduler = stack.enter_context(LocalCluster(**options))
            except RuntimeError as error:  # new processes run a script's own lines first, and so on
                raise ClusterError(
                    "the worker processes did not start. In a script, put the lines that call Heartbox below "
                    f'if __name__ == "__main__": ({one_line(error)})'
                ) from error
        try:
            client = stack.enter_context(Client(scheduler, timeout=WAIT_SECONDS))
            client.wait_for_workers(1, timeout=WAIT_SECONDS)
        except (OSError, ValueError) as error:
            raise ClusterError(f"{scheduler}: no dask scheduler with a worker answers ({one_line(error)})") from error
        yield client


def missing_extra(error: ImportError) -> str:
    """Return what to do where a package of the extra is missing."""
    return (
        f"tables in Parquet, answered by a cluster, need more packages ({error}). In the folder of Heartbox: "
        'python -m pip install ".[scale]"'
    )


def answer_on_cluster(
    client: Client, jobs: Sequence[FilmJob], answer: Callable[[FilmJob], Outcome]
) -> Iterator[tuple[int, Outcome]]:
    """Yield each film's place in `jobs` and its outcome, once, in the order in which they are finished.

    Films are handed out a few at a time. Where a worker dies, dask gives its task to another one, as often as the
    scheduler's setting ``distributed.scheduler.allowed-failures`` says, and then reports ``KilledWorker``. It blames
    every task that the dead worker held, begun or not, so that the report does not say which film it was. The films of
    such a task are therefore tried one by one while the cluster does nothing else. A film that ends its worker twice
    in this way gets the outcome ``crash``, and no other does.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster. Each worker must have this version of Heartbox, and see the films under the same paths.
    jobs : sequence of FilmJob
        The films.
    answer : callable
        As in :func:`heartbox.inference.archive.run_films`.

    Raises
    ------
    ClusterError
        If the scheduler is gone, or its workers cannot run `answer`.
    OutputError
        If an outcome is fatal.
    """
    from distributed import as_completed

    def submit(task: range) -> Future:
        future = client.submit(_answer_each, answer, [_absolute(jobs[place]) for place in task], pure=False)
        running[future.key] = task
        return future

    running: dict[str, range] = {}
    places = range(len(jobs))
    waiting = (places[start : start + FILMS_PER_TASK] for start in places[::FILMS_PER_TASK])
    while first := list(itertools.islice(waiting, max(LEAST_AHEAD, AHEAD * sum(client.nthreads().values())))):
        blamed: list[range] = []
        done = as_completed(map(submit, first))
        for future in done:
            task = running.pop(future.key)
            outcomes = _outcomes(future)
            if outcomes is None:
                blamed.append(task)
            else:
                yield from zip(task, outcomes, strict=True)
            if not blamed:  # else what is running is finished first
                done.update(map(submit, itertools.islice(waiting, 1)))
        for place in itertools.chain.from_iterable(blamed):
            tries = (_outcomes(submit(places[place : place + 1])) for _ in range(TRIES_ALONE))
            (outcome,) = next(filter(None, tries), [without_answer(jobs[place], Failure(DIED_ALONE, died=True))])
            yield place, outcome


def _answer_each(answer: Callable[[FilmJob], Outcome], jobs: Sequence[FilmJob]) -> list[Outcome]:
    return [answer(job) for job in jobs]


def _absolute(job: FilmJob) -> FilmJob:
    """Return a job that finds its file from a worker's folder, too."""
    return job if job.source.address else replace(job, source=replace(job.source, path=job.source.path.absolute()))


def _outcomes(future: Future) -> list[Outcome] | None:
    """Wait for the outcomes of a task; None where it is blamed for the end of a worker."""
    from distributed import CancelledError, KilledWorker

    try:
        outcomes = future.result()
    except KilledWorker:
        return None
    except CancelledError as error:
        raise ClusterError("the dask scheduler is gone; the same command goes on from here") from error
    except Exception as error:
        raise ClusterError(
            f"the workers cannot answer films ({type(error).__name__}: {one_line(error)}). They need the same packages "
            "as this process, Heartbox among them."
        ) from error
    if fatal := next((outcome.fatal for outcome in outcomes if outcome.fatal), ""):
        raise OutputError(fatal)
    return outcomes
