"""Find the heart in X-ray files from the command line: python -m heartbox FILE_OR_FOLDER... --csv out.csv.

Knows the detector and the report; an unreadable file gets its error in its own row, and the others go on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: a server has no screen

import pandas as pd  # noqa: E402
from tqdm import tqdm  # noqa: E402

from heartbox.detector import HeartDetector  # noqa: E402
from heartbox.files import complete_or_absent  # noqa: E402
from heartbox.report import TABLE_COLUMNS, draw_found, save_figure, table_row  # noqa: E402
from heartbox.xray import XRayError, is_xray_file  # noqa: E402

RELEASED = Path(__file__).resolve().parents[1] / "weights" / "heart-resnet18.pt"  # beside this folder
WEIGHTS = (Path("weights/heart-resnet18.pt"), RELEASED, Path("artifacts/model/model.pt"))


def list_images(paths: list[Path]) -> list[Path]:
    """Return the files named, and for each folder named the X-ray files in it and below, in order of names."""
    images = []
    for path in paths:
        if path.is_dir():
            images += sorted(inside for inside in path.rglob("*") if inside.is_file() and is_xray_file(inside))
        else:
            images.append(path)  # one that is not there gets its error in its row
    return images


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 if not one image got an answer, 2 if there is nothing to work on."""
    parser = argparse.ArgumentParser(prog="python -m heartbox", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="X-ray files, or folders of them")
    parser.add_argument("--weights", help="a file or an https address; default: released, else those of notebook 03")
    parser.add_argument("--sha256", help="what the weights' SHA-256 must be; an address needs it")
    parser.add_argument("--csv", type=Path, help="write one row an image there; default: print them")
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="draw each answer into this folder")
    options = parser.parse_args(arguments)
    weights = options.weights or next((path for path in WEIGHTS if path.is_file()), WEIGHTS[-1])
    try:
        detector = HeartDetector.from_weights(weights, options.sha256)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    images = list_images(options.paths)
    if not images:
        print("no X-ray files in what was named", file=sys.stderr)
        return 2
    rows = []
    for number, path in enumerate(tqdm(images, unit="film", disable=len(images) < 2), start=1):
        try:
            found = detector.detect(path)
        except XRayError as error:
            rows.append(table_row(path.as_posix(), None, str(error)))
            continue
        rows.append(table_row(path.as_posix(), found))
        if options.overlays:
            # Numbered, because two folders may hold files of the same name.
            save_figure(options.overlays / f"{number:05d}-{path.stem}.png", draw_found(found))
    table = pd.DataFrame(rows, columns=TABLE_COLUMNS)
    if options.csv:
        with complete_or_absent(options.csv) as part:
            table.to_csv(part, index=False, float_format="%.3f", lineterminator="\n")
    else:
        print(table[["file", "ctr", "warnings", "error"]].astype(object).fillna("").to_string(index=False))
    failed = int(table["error"].notna().sum())
    print(f"{len(table)} images, {len(table) - failed} answered, {failed} could not be read", file=sys.stderr)
    return int(failed == len(table))


if __name__ == "__main__":
    sys.exit(main())
