"""What a folder of odd films gives: each file's box, or the reason why it has none.

    python benchmarks/reading_cases.py CASES            # a folder with one sub-folder for each kind of trouble

Each kind is read in a process of its own, because some files once ended the process. Writes names and numbers to
``benchmarks/results/reading_cases.md``; no file and no picture is copied.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import ROOT, write_table

from heartbox import HeartDetector, XRayError
from heartbox.models.weights import released_weights
from heartbox.xray import find_xrays


def answers(folder: Path) -> list[list[str]]:
    """Return [name, answer, notes] of each image of a kind; the answer is a box and codes, or the error."""
    detector = HeartDetector.from_weights(released_weights())
    rows = []
    directories = [path for path in folder.rglob("*") if path.name == "DICOMDIR"]
    for source in find_xrays(directories or [folder]):
        try:
            with source.file() as file:
                found = detector.detect(file)
        except XRayError as error:
            rows.append([source.name, f"refused: {str(error).partition(': ')[2]}", ""])
            continue
        x_min, y_min, x_max, y_max = found.heart
        ratio = "none" if found.ctr is None else f"{found.ctr:.3f}"
        box = f"x {x_min:.0f} to {x_max:.0f}, y {y_min:.0f} to {y_max:.0f}, ratio {ratio}"
        flags = ", ".join(found.warning_codes) or "no flag"
        rows.append([source.name, f"{box}; {flags}", " ".join(found.xray.notes)])
    return rows


def main() -> None:
    """Answer every file below a folder and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, metavar="CASES")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(answers(options.cases)))
        return
    lines = ["| kind | file | answer | notes of the reader |", "|---|---|---|---|"]
    folders = sorted(path for path in options.cases.iterdir() if path.is_dir())
    for folder in folders:
        run = subprocess.run([sys.executable, __file__, "--one", str(folder)], cwd=ROOT, capture_output=True, text=True)
        rows = [[str(folder), f"**the process ended** (exit code {run.returncode})", ""]]
        if run.returncode == 0:
            rows = json.loads(run.stdout.splitlines()[-1])
        for name, answer, notes in rows:
            shown = Path(name).relative_to(folder).as_posix()
            lines.append(f"| {folder.name} | {shown} | {answer} | {notes.replace('|', '/')} |")
            print(lines[-1], flush=True)
    about = [
        "# Odd films",
        "",
        "Files that went wrong for users of such software, one kind of trouble a row, and what they give with the",
        "released weights. Most are made from one film, and its answer comes again and again. The files themselves are",
        "not part of the project; the tests make such files from phantoms.",
        "",
    ]
    write_table(
        "reading_cases.md", [*about, *lines, "", "`python benchmarks/reading_cases.py CASES` makes this table."]
    )


if __name__ == "__main__":
    main()
