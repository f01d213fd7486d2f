"""Grade handed-in notebooks with the notebooks' own checks.

    python docs/grade.py ORIGINAL.ipynb HANDED_IN.ipynb ... [--csv FILE]

Takes only the answer cells from each handed-in notebook, puts them into a clean copy of the original and runs it, so
that a changed check or a pasted output counts for nothing. Writes one row per notebook and one column per exercise:
right, not yet, no answer, or error. The results of earlier notebooks are those of the original's folder. This runs
other people's code: use an account and a machine that hold nothing of value.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient

VERDICTS = {"Right.": "right", "Not yet.": "not yet", "No answer yet.": "no answer"}


def cells_with(notebook: nbformat.NotebookNode, role: str) -> dict[str, nbformat.NotebookNode]:
    """Return the exercises' cells of one role, ``answer`` or ``check``, by the tag of their exercise."""
    found = {}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        names = [tag for tag in tags if re.fullmatch(r"exercise-\d+", tag)]
        if role in tags and names:
            found[names[0]] = cell
    return found


def with_answers(original: Path, handed_in: Path) -> nbformat.NotebookNode:
    """Return the original notebook with the answers of another one."""
    notebook, given = nbformat.read(original, 4), cells_with(nbformat.read(handed_in, 4), "answer")
    for name, cell in cells_with(notebook, "answer").items():
        if name in given:
            cell.source = given[name].source
            cell.metadata["tags"] = [*cell.metadata["tags"], "raises-exception"]  # one wrong answer stops no other
    return notebook


def grade(original: Path, handed_in: Path) -> dict[str, str]:
    """Run the answers of one notebook in the original's folder and return the verdict on each exercise."""
    notebook = with_answers(original, handed_in)
    for cell in cells_with(notebook, "check").values():
        cell.metadata["tags"] = [*cell.metadata["tags"], "raises-exception"]
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(original.resolve().parent)}}).execute()
    verdicts = {}
    for name, cell in cells_with(notebook, "check").items():
        text = "".join(output.get("text", "") for output in cell.outputs)
        verdicts[name] = next((word for start, word in VERDICTS.items() if text.startswith(start)), "error")
    return verdicts


def main(arguments: list[str] | None = None) -> int:
    """Grade the notebooks and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("handed_in", type=Path, nargs="+")
    parser.add_argument("--csv", type=Path, help="write the table there instead of printing it")
    options = parser.parse_args(arguments)
    rows = []
    for path in options.handed_in:
        print(path, file=sys.stderr, flush=True)
        try:
            rows.append({"notebook": str(path), **grade(options.original, path)})
        except Exception as error:  # a damaged file or an endless loop is one learner's, not the class's
            rows.append({"notebook": str(path), "problem": f"{type(error).__name__}: {str(error)[:200]}"})
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    else:
        print(table.to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
