"""What the benchmark scripts share: where things lie, what must be there before a run starts, how a table is written.

Importing this module makes ``heartbox``, ``cardiac_dataset`` and ``companions`` importable from a checkout, so that a
script runs as ``python benchmarks/NAME.py`` without installing the project.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"


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
