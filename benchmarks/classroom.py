"""Measure how many learners a shared machine carries: several people run the four notebooks at the same time.

    python benchmarks/classroom.py [LEARNERS ...] [--full] [--write]

For each number of learners, every one gets a copy of the project and starts the four notebooks at the same moment, in
fast mode unless --full is given. Measured are the time until the last one is done, the processor time of all their
processes, and their memory together, with shared pages counted once. The synthetic sample is used. Prints a table; with
--write it also goes to benchmarks/results/classroom.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import ROOT, write_table

NOTEBOOKS = sorted(path.name for path in ROOT.glob("0*.ipynb"))
GIB = 2**30


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learners", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--full", action="store_true", help="all films and epochs instead of fast mode")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/classroom.md")
    arguments = parser.parse_args()
    mode = "with all films and epochs" if arguments.full else "in fast mode (`CARDIAC_FAST=1`)"
    lines = [
        f"The four notebooks, one after the other, {mode}, on {os.cpu_count()} CPU cores; all learners start",
        "at the same moment. *Time* is until the last one is done; *CPU time* is per learner; *memory* is the largest",
        "total of all their processes.",
        "",
        "Written by `python benchmarks/classroom.py --write`.",
        "",
        "| learners | time, min | CPU time, min | memory, GiB | memory per learner, GiB |",
        "|---|---|---|---|---|",
    ]
    for count in arguments.learners:
        seconds, busy, memory = run_class(count, arguments.full)
        gib = memory / GIB
        lines.append(f"| {count} | {seconds / 60:.1f} | {busy / 60 / count:.1f} | {gib:.1f} | {gib / count:.1f} |")
        print(lines[-1], flush=True)
    if arguments.write:
        write_table("classroom.md", lines)


def run_class(count: int, full: bool) -> tuple[float, float, float]:
    """Let `count` learners run the notebooks at once; return seconds, CPU seconds and the largest memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        seats = [copy_for(Path(folder) / str(number)) for number in range(count)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CARDIAC_")}
        environment |= {} if full else {"CARDIAC_FAST": "1"}
        command = [sys.executable, "-m", "jupyter", "execute", "--inplace", *NOTEBOOKS]
        start, busy, memory = time.perf_counter(), cpu_seconds_of_children(), 0.0
        learners = [subprocess.Popen(command, cwd=seat, env=environment, stderr=subprocess.DEVNULL) for seat in seats]
        while any(learner.poll() is None for learner in learners):
            memory = max(memory, sum(memory_of(learner.pid) for learner in learners))
            time.sleep(1)
        seconds, busy = time.perf_counter() - start, cpu_seconds_of_children() - busy
    failed = sum(learner.returncode != 0 for learner in learners)
    if failed:
        raise SystemExit(f"{failed} of {count} runs failed: nothing to report")
    return seconds, busy, memory


def cpu_seconds_of_children() -> float:
    """Return the processor time of all ended child processes (0 on Windows, which does not keep it)."""
    times = psutil.Process().cpu_times()
    return getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)


def copy_for(seat: Path) -> Path:
    """Copy what one learner needs."""
    seat.mkdir()
    for name in ("heartbox", "weights"):
        shutil.copytree(ROOT / name, seat / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cardiac_dataset.py", *NOTEBOOKS):
        shutil.copy(ROOT / name, seat)
    return seat


def memory_of(pid: int) -> float:
    """Return the bytes that a process and its children use, each shared page split among those that share it."""
    total = 0.0
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            try:
                full = one.memory_full_info()
                total += getattr(full, "pss", full.uss)
            except psutil.Error:  # it has just ended
                continue
    except psutil.Error:
        return 0.0
    return total


if __name__ == "__main__":
    main()
