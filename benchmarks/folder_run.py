"""Folders with every bad file at hand mixed in, answered by a command that is killed again and again.

    python benchmarks/folder_run.py [--data FOLDER]

Phantoms make up the number; FOLDER may hold cases/ and data/dicom/ (files that went wrong, and real films), which are
mixed in. The command and its worker are killed at random moments, and the same command is given again until it ends by
itself. Then every film must have one row, in order, and the files that its row promises. The run is measured and not
the network, so the weights are of a network that always answers the same boxes, at 64 pixels, which costs little.
Writes benchmarks/results/folder_run.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import ROOT, write_table

from heartbox.models.build import build_model
from heartbox.models.weights import save_weights
from heartbox.phantom import write_phantoms

# Name of the column, films, outputs: pictures take most of the time, so the large folder has none.
PIECES = [
    ("csv and DICOM reports", 2000, ["dicom-sr"]),
    ("csv and all outputs", 150, ["overlays", "reports", "dicom-sr", "dicom-sc"]),
]
KILLS, LONGEST = 10, 30  # times killed, and seconds until then at most
DISTINCT, SIZE = 40, 256  # phantoms that are drawn; the others are copies of these, small so that the run is cheap
SAMPLE_SECONDS = 0.5
ENDINGS = {"overlays": ".png", "reports": ".json"}  # of the outputs that every answered film must have


@dataclass
class Run:
    """What was seen of the runs: memory of command and worker together, in MiB, over the seconds they ran."""

    exit_codes: list[int | None] = field(default_factory=list)
    seconds: float = 0.0
    memory: list[float] = field(default_factory=list)


def make_folder(folder: Path, films: int, data: Path | None) -> list[Path]:
    """Write phantoms and copy the bad files among them; return all files."""
    drawn = folder.parent / "phantoms"
    write_phantoms(drawn, DISTINCT, size=SIZE, progress=False)
    sources = sorted(drawn.rglob("*.dcm"))
    extra = [path for name in ("cases", "data/dicom") for path in sorted((data / name).rglob("*"))] if data else []
    extra = [path for path in extra if path.is_file() and path.suffix != ".md" and "zip" not in path.suffix]
    extra = [path for path in extra if path.name != "DICOMDIR" and path.suffix != ".csv"]
    for number in range(films - len(extra)):
        target = folder / f"{number % 10}" / f"film-{number:05d}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sources[number % DISTINCT], target)
    for number, path in enumerate(extra):
        target = folder / f"{number % 10}" / f"extra-{number:03d}-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_weights(path: Path) -> Path:
    """Write the weights of a network that always answers the same boxes, and is meant for phantoms."""
    torch.manual_seed(0)
    model = build_model("resnet18", "regression", targets=("heart", "thorax"), size=64)
    torch.nn.init.zeros_(model.last_layer.weight)
    model.start_at(torch.tensor([20.0, 16, 40, 40, 12, 8, 52, 56]))
    save_weights(path, model, {"mean": 0.5, "std": 0.25, "layout": "phantom"}, targets=["heart", "thorax"])
    return path


def run_once(command: list[str], run: Run, log: Path, kill_after: float | None) -> None:
    """Run the command, and kill it with its worker after so many seconds where that is wanted."""
    started = time.monotonic()
    with log.open("ab") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                run.memory.append(sum(one.memory_info().rss for one in family) / 2**20)
            except psutil.Error:
                continue
            if kill_after is not None and time.monotonic() - started > kill_after:
                for one in family:
                    if one.is_running():
                        one.kill()
            time.sleep(SAMPLE_SECONDS)
    run.exit_codes.append(process.returncode)
    run.seconds += time.monotonic() - started


def check(out: Path, files: list[Path], outputs: list[str]) -> dict[str, str]:
    """Compare the csv and the folders with the films; return the lines of the table."""
    table = pd.read_csv(out / "t.csv")
    answered, names = table["error"].isna(), table["file"]
    missing = 0
    for number in answered.to_numpy().nonzero()[0]:
        stem = f"{number + 1:05d}-{Path(names[number]).stem[:50]}"
        missing += sum(not (out / name / f"{stem}{ENDINGS[name]}").exists() for name in outputs if name in ENDINGS)
    refused = table["notes"].fillna("").str.contains("No DICOM report").sum()
    return {
        "films": f"{len(files)}",
        "rows": f"{len(table)}",
        "films without a row / with two rows": f"{len(files) - names.nunique()} / {names.duplicated().sum()}",
        "rows in the order of the films": "yes" if names.tolist() == [path.as_posix() for path in files] else "no",
        "answered / in error": f"{answered.sum()} / {(~answered).sum()}",
        "overlays and JSON reports missing": f"{missing}" if set(outputs) & set(ENDINGS) else "-",
        "DICOM reports written / refused with a reason": f"{len(list((out / 'dicom-sr').glob('*.dcm')))} / {refused}",
        "partial files left": f"{len([path for path in out.rglob('*') if '.part' in path.name])}",
    }


def run_piece(work: Path, films: int, outputs: list[str], data: Path | None) -> dict[str, str]:
    """Answer one folder, killed at random moments; return the lines of its column."""
    rng, run, out = random.Random(0), Run(), work / "out"
    files = make_folder(work / "films", films, data)
    command = [sys.executable, "-m", "heartbox", str(work / "films"), "--csv", str(out / "t.csv")]
    command += ["--weights", str(write_weights(work / "model.pt"))]
    for name in outputs:
        command += [f"--{name}", str(out / name)]
    for _ in range(KILLS):
        run_once(command, run, work / "log.txt", rng.uniform(1, LONGEST))
        print(f"exit code {run.exit_codes[-1]}, {run.seconds:.0f} s", flush=True)
    run.memory.clear()
    run_once(command, run, work / "log.txt", None)
    memory = [max(part) for part in np.array_split(run.memory, 3)]
    return check(out, files, outputs) | {
        "times killed": f"{sum(code not in (0, 1, 2) for code in run.exit_codes)}",
        "exit code of the run that ended by itself": f"{run.exit_codes[-1]}",
        "seconds, all runs together": f"{run.seconds:.0f}",
        "most memory in each third of the last run, MiB": " / ".join(f"{most:.0f}" for most in memory),
    }


def main() -> None:
    """Make the folders, run and kill, check, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with cases/ and data/dicom/ to mix in")
    data, columns = parser.parse_args().data, {}
    for title, films, outputs in PIECES:
        with tempfile.TemporaryDirectory() as work:
            columns[title] = run_piece(Path(work), films, outputs, data)
    lines = [
        "Folders of phantoms with bad files mixed in, answered by a command that was killed at random moments and",
        "given again. Memory is that of the command and its worker. Written by `python benchmarks/folder_run.py`.",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    lines += [f"| {row} | {' | '.join(column[row] for column in columns.values())} |" for row in columns[title]]
    write_table("folder_run.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
