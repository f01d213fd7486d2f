"""Measure how many learners a shared machine carries: several people run the four notebooks at the same time.

    python benchmarks/classroom.py [LEARNERS ...] [--full] [--write]

For each number of learners (1, 2 and 4 by default), every one gets a copy of the project and starts the four notebooks
at the same moment, in fast mode unless --full is given. Measured are the time until the last one is done, the processor
time of all their processes, and their memory together, with shared pages counted once. The synthetic sample is used.
Prints a table; with --write it also goes to benchmarks/results/classroom.md after each number of learners, where rows
of other numbers stay if they were measured in the same way, so that the numbers can be measured one at a time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import NOTEBOOKS, RESULTS, ProcessTree, copy_project, user_environment, write_table


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learners", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--full", action="store_true", help="all films and epochs instead of fast mode")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/classroom.md")
    arguments = parser.parse_args()
    mode = "with all films and epochs" if arguments.full else "in fast mode (`CARDIAC_FAST=1`)"
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    head = [
        "# Several learners on one machine",
        "",
        f"The four notebooks, one after the other, {mode}, on {os.cpu_count()} CPU cores; threads of each learner:",
        f"{threads}. All learners start at the same moment. *Time* is until the last one is done; *CPU time* is per",
        "learner; *memory* is the largest total of all their processes.",
        "",
        "Written by `python benchmarks/classroom.py --write`.",
        "",
        "| learners | time, min | CPU time, min | memory, GiB | memory per learner, GiB |",
        "|---|---|---|---|---|",
    ]
    rows = rows_under(head, RESULTS / "classroom.md")
    for count in arguments.learners:
        seconds, busy, memory = run_class(count, arguments.full)
        gib = memory / 2**30
        rows[count] = f"| {count} | {seconds / 60:.1f} | {busy / 60 / count:.1f} | {gib:.1f} | {gib / count:.1f} |"
        print(rows[count], flush=True)
        if arguments.write:
            write_table("classroom.md", head + [rows[number] for number in sorted(rows)])


def rows_under(head: list[str], path: Path) -> dict[int, str]:
    """Return the rows of an earlier table by their number of learners, if it was measured in the same way."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if lines[: len(head)] != head:
        return {}
    return {int(line.split("|")[1]): line for line in lines[len(head) :]}


def run_class(count: int, full: bool) -> tuple[float, float, float]:
    """Let `count` learners run the notebooks at once; return seconds, CPU seconds and the largest memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        seats = [copy_project(Path(folder) / str(number)) for number in range(count)]
        command = [sys.executable, "-m", "jupyter", "execute", "--inplace", *NOTEBOOKS]
        options = {"env": user_environment(fast=not full), "stderr": subprocess.DEVNULL}
        start = time.perf_counter()
        learners = [subprocess.Popen(command, cwd=seat, **options) for seat in seats]
        trees = [ProcessTree(learner) for learner in learners]
        memory = 0.0
        while any(learner.poll() is None for learner in learners):
            memory = max(memory, sum(tree.memory() for tree in trees))
            time.sleep(0.5)
        seconds = time.perf_counter() - start
    failed = sum(learner.returncode != 0 for learner in learners)
    if failed:
        raise SystemExit(f"{failed} of {count} runs failed: nothing to report")
    return seconds, sum(tree.cpu_seconds for tree in trees), memory


if __name__ == "__main__":
    main()
