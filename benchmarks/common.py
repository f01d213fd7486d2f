"""What the benchmark scripts share: where things lie, what must be there before a run starts, how a table is written.

Importing this module makes ``heartbox``, ``cardiac_dataset`` and ``companions`` importable from a checkout, so that a
script runs as ``python benchmarks/NAME.py`` without installing the project.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"
NOTEBOOKS = sorted(path.name for path in ROOT.glob("0*.ipynb"))


def parser_for(description: str) -> argparse.ArgumentParser:
    """Return a command-line parser that shows a script's docstring as it stands and takes the data folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of real X-rays")
    return parser


def require(data: Path, *parts: str) -> None:
    """Stop before anything is measured if a file or folder is missing, so that no published table is half replaced."""
    missing = [part for part in parts if not (data / part).exists()]
    if missing:
        raise SystemExit(f"{data}: {' and '.join(missing)} missing; nothing was measured and nothing was written")


def evenly_spaced(items: Sequence, count: int) -> list:
    """Return at most `count` items, evenly spaced over the sequence."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def write_table(name: str, lines: Sequence[str]) -> None:
    """Write a result to ``benchmarks/results/``, complete or not at all."""
    from heartbox.utils.atomic import complete_or_absent

    with complete_or_absent(RESULTS / name) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def split_nih(folder: Path) -> tuple[list[Path], list[Path]]:
    """Split the NIH films into two parts that share no patient: one to learn from, one to measure on.

    Films that RSNA's readers also read, and all other films of those patients, are for measuring: their left and right
    borders can be compared with RSNA's boxes. The rest may be used for training without labels.

    Parameters
    ----------
    folder : Path
        Holds ``images/`` and ``labels.csv``; the first eight digits of a file name identify the patient.

    Returns
    -------
    tuple of list of Path
        Films to learn from, and films to measure on.
    """
    films = pd.read_csv(folder / "labels.csv").sort_values("file")
    patients = films["file"].str[:8]
    measured = patients.isin(patients[films["rsna_id"].notna()])
    learn, measure = ([folder / "images" / name for name in films["file"][part]] for part in (~measured, measured))
    return learn, measure


def copy_project(folder: Path, companions: bool = False) -> Path:
    """Copy the notebooks and what lies beside them into a new folder, and return it."""
    folder.mkdir(parents=True)
    for name in ("heartbox", "weights", *(("companions",) if companions else ())):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cardiac_dataset.py", *NOTEBOOKS):
        shutil.copy(ROOT / name, folder)
    return folder


def user_environment(fast: bool) -> dict[str, str]:
    """Return the environment of somebody who runs a notebook on the synthetic sample, in fast mode or in full."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CARDIAC_") and key != "MPLBACKEND"}
    return kept | ({"CARDIAC_FAST": "1"} if fast else {})


class ProcessTree:
    """Processor time and memory of a process and all its descendants, as far as one looks.

    Parameters
    ----------
    process : subprocess.Popen
        Already started.
    """

    def __init__(self, process: subprocess.Popen):
        self.pid, self.seen = process.pid, {}

    def look(self) -> list[psutil.Process]:
        """Note the processor time of each process, and return all that run.

        What a process does after the last look at it is not counted.
        """
        try:
            root = psutil.Process(self.pid)
            family = [root, *root.children(recursive=True)]
        except psutil.Error:  # it has ended
            return []
        for one in family:
            try:
                times = one.cpu_times()
                self.seen[one.pid, one.create_time()] = times.user + times.system
            except psutil.Error:  # it has just ended
                continue
        return family

    def memory(self) -> float:
        """Look, and return the bytes that all of them use; shared pages are split among those that share them."""
        total = 0.0
        for one in self.look():
            try:
                full = one.memory_full_info()
                total += getattr(full, "pss", full.uss)
            except psutil.Error:
                continue
        return total

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all processes seen so far, in seconds."""
        return sum(self.seen.values())
