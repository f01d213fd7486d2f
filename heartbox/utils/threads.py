"""Threads of OpenMP that sleep while they wait, so that several programs on one machine do not slow each other down.

torch computes with OpenMP. Between two tasks its threads wait in a loop that keeps a core busy for some milliseconds:
a little faster for one program alone, and many times slower for two programs that share the cores. Knows OpenMP; no
networks.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # a user's own choice, which is left alone
MAPS = Path("/proc/self/maps")  # the files that this process has loaded, on Linux
PARKED = "heartbox-openmp"  # name of the thread that holds idle OpenMP threads


def let_threads_sleep() -> None:
    """Make OpenMP's threads sleep while they wait, unless the environment says how they are to wait.

    OpenMP reads its settings when torch is loaded. Before that a variable is set. After it, as in a notebook that
    imports torch first, GNU's OpenMP (torch on Linux) is led to do the same: it stops waiting in loops when it has
    more threads than there are processors (``gomp_managed_threads`` in its ``config/linux/wait.h``), so that many idle
    threads are started. Other implementations of OpenMP keep their setting in this case.
    """
    if any(name in os.environ for name in WAIT_SETTINGS):
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # for processes started from this one, too
    if "torch" in sys.modules and MAPS.is_file():
        for library in {line.split()[-1] for line in MAPS.read_text().splitlines() if "libgomp" in line}:
            _park_threads(library)


def _park_threads(library: str) -> None:
    """Start one more idle OpenMP thread than there are processors; they sleep as long as the process lives."""
    import ctypes

    try:
        openmp = ctypes.CDLL(library)
        run, nothing, processors = openmp.GOMP_parallel, openmp.omp_get_num_threads, openmp.omp_get_num_procs()
    except (OSError, AttributeError):  # deleted since it was loaded, or of another kind
        return
    started = threading.Event()

    def park() -> None:
        run(nothing, None, processors + 2, 0)  # a parallel region that does nothing, in that many threads
        started.set()
        threading.Event().wait()  # the threads of a region end with the thread that began it

    threading.Thread(target=park, name=PARKED, daemon=True).start()
    started.wait()
