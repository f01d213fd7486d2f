"""Sharing many equal jobs among processes, with a progress bar.

Knows nothing of the jobs.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")

# Starting a process takes about as long as this many jobs of the kind done here.
WORTH_A_PROCESS = 12


def parallel_map(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    description: str,
    unit: str = "film",
    processes: int | None = None,
    progress: bool = True,
) -> Iterator[Result]:
    """Yield ``function(job)`` for each job, in order.

    Parameters
    ----------
    function : callable
        Of one argument, defined at the top level of a module, so that other processes can find it.
    jobs : sequence
        Its arguments; they and the results must be picklable.
    description, unit : str
        For the bar on standard output.
    processes : int, optional
        How many; by default one a core, and none beside this one for a handful of jobs.
    progress : bool
        Whether to show the bar.

    Raises
    ------
    ValueError
        If `processes` is below 1.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    processes = processes or min(os.cpu_count() or 1, 1 + len(jobs) // WORTH_A_PROCESS)
    main = getattr(sys.modules["__main__"], "__file__", None)
    if main is not None and not Path(main).exists():
        processes = 1  # a program read from standard input cannot be started again in another process
    bar = {"total": len(jobs), "desc": description, "unit": unit, "file": sys.stdout, "mininterval": 0.5}
    if processes == 1:
        yield from tqdm(map(function, jobs), **bar, disable=not progress)
        return
    # A fresh interpreter each ("spawn"): forking under OpenCV's or torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    # The processes share the cores already, so OpenCV must not start threads of its own in each.
    with ProcessPoolExecutor(processes, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            yield from tqdm(pool.map(function, jobs, chunksize=4), **bar, disable=not progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
