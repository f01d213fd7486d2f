"""An archive answered by one worker and by two: films a second, memory, and what a million films would cost.

    python benchmarks/scaling.py [--films 100 1000 10000] [--workers 1 2]

Folders are filled with hard links to a few phantoms of the usual size and answered as ``heartbox FOLDER --csv
NAME.parquet --workers N`` answers them, with the released weights. The time to start is that of the same command for
two films; what is left is the work. Memory is the most that a process held. The memory that a list of a million films
needs is measured on names alone. Writes benchmarks/results/scaling.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import ROOT, write_table

from heartbox.phantom import write_phantoms

DISTINCT, SIZE = 20, 1024  # phantoms that are drawn, and their side in pixels; the others are links to them
SAMPLE_SECONDS = 0.2
MILLION = 1_000_000
LISTED = """
import resource, sys
from pathlib import Path
from heartbox.inference.archive import make_jobs
from heartbox.xray.discovery import XRaySource
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
names = (f"archive/{number // 1000:04d}/film-{number:07d}.dcm" for number in range(int(sys.argv[1])))
jobs = make_jobs([XRaySource(name, Path(name)) for name in names])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@dataclass(frozen=True)
class Run:
    """One run of the command: its seconds, and the most MiB that it and any of its workers held."""

    seconds: float
    command: float
    worker: float


def link_films(drawn: list[Path], folder: Path, films: int) -> None:
    """Fill a folder with links to the phantoms, a thousand in each of its folders."""
    for number in range(films):
        target = folder / f"{number // 1000:04d}" / f"film-{number:07d}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(drawn[number % len(drawn)], target)


def run(folder: Path, table: Path, workers: int) -> Run:
    """Answer the folder and watch the memory of each process."""
    command = [sys.executable, "-m", "heartbox", str(folder), "--csv", str(table), "--workers", str(workers)]
    started, own, others = time.perf_counter(), 0.0, 0.0
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            for one in [watched, *_children(watched)]:
                held = _mebibytes(one)
                own, others = (max(own, held), others) if one is watched else (own, max(others, held))
            time.sleep(SAMPLE_SECONDS)
        seconds, said = time.perf_counter() - started, process.stderr.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{said}")
    return Run(seconds, own, others)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:  # it has just ended
        return []


def _mebibytes(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0


def bytes_of_a_row(table: Path) -> float:
    """Return what a row takes in Parquet where no two films have the same answer, as these copies of a few have."""
    rows = pd.read_parquet(table)
    numbers = rows.select_dtypes("number").columns
    rows[numbers] = rows[numbers] * np.random.default_rng(0).uniform(0.9, 1.1, (len(rows), len(numbers)))
    made = table.with_name("distinct.parquet")
    rows.to_parquet(made, compression="zstd", index=False)
    return made.stat().st_size / len(rows)


def measure(work: Path, sizes: list[int], workers: list[int]) -> list[str]:
    """Run each size with each number of workers; return the lines of the page."""
    write_phantoms(work / "drawn", DISTINCT, size=SIZE, progress=False)
    drawn = sorted((work / "drawn").rglob("*.dcm"))
    link_films(drawn, work / "two", 2)
    starts = {count: run(work / "two", work / f"two-{count}.parquet", count).seconds for count in workers}
    rows, costs = [], []
    for films in sizes:
        folder = work / f"{films}"
        link_films(drawn, folder, films)
        for count in workers:
            table = work / f"{films}-{count}.parquet"
            done = run(folder, table, count)
            seconds = done.seconds - starts[count]
            costs.append(seconds * count / films)
            rows.append(
                f"| {films} | {count} | {starts[count]:.1f} | {seconds:.0f} | {films / seconds:.1f} | {costs[-1]:.3f} "
                f"| {done.command:.0f} | {done.worker:.0f} |"
            )
            print(rows[-1], flush=True)
    row_bytes = bytes_of_a_row(table)
    film_bytes = sum(path.stat().st_size for path in drawn) / len(drawn)
    listed = subprocess.run(
        [sys.executable, "-c", LISTED, str(MILLION)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [
        f"Folders of links to {DISTINCT} phantoms of {SIZE} x {SIZE}, answered with the released weights on a machine "
        f"with {psutil.cpu_count()} cores. Start is the time of the same command for two films, which is taken off.",
        "Written by `python benchmarks/scaling.py`.",
        "",
        "| films | workers | start, s | work, s | films a second | worker-seconds a film | memory of the command, MiB "
        "| memory of its largest worker, MiB |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "| a million films, from these figures | |",
        "|---|---|",
        f"| core-hours, at the last row's cost | {costs[-1] * MILLION / 3600:.0f} |",
        f"| to read, if films are like these, GB | {film_bytes * MILLION / 1e9:.0f} |",
        f"| table in Parquet, where no two answers are the same, MB | {row_bytes * MILLION / 1e6:.0f} |",
        f"| memory of the command for the list of films, MiB | {float(listed):.0f} |",
    ]


def main() -> None:
    """Make the folders, run, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, nargs="+", default=[100, 1000, 10_000], help="in each folder")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        lines = measure(Path(work), options.films, options.workers)
    write_table("scaling.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
