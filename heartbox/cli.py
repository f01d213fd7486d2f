"""Find the heart in X-ray files from the command line: python -m heartbox FILE_OR_FOLDER... --csv out.csv.

Knows the detector and the report; an unreadable file gets its error in its own row, and the others go on. A run that
is stopped leaves its rows beside the csv that is to be, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: a server has no screen

import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
from tqdm import tqdm  # noqa: E402

from heartbox.inference.archive import Journal, without_own_outputs
from heartbox.inference.detector import HeartDetector  # noqa: E402
from heartbox.models.weights import RELEASED_NAME, released_weights  # noqa: E402
from heartbox.reporting.detection_plots import draw_detection  # noqa: E402
from heartbox.reporting.dicom_sr import write_measurement_report, write_secondary_capture  # noqa: E402
from heartbox.reporting.export import TABLE_COLUMNS, table_row, write_report  # noqa: E402
from heartbox.reporting.plots import save_figure  # noqa: E402
from heartbox.utils.atomic import complete_or_absent  # noqa: E402
from heartbox.xray.discovery import XRaySource, find_xrays  # noqa: E402
from heartbox.xray.errors import XRayError  # noqa: E402

# Of the pictures and reports written here; most file systems take 255 bytes, and a letter may need four.
LONGEST_STEM = 50
# Asked for in this order where --weights is not given.
WEIGHTS = (Path("weights") / RELEASED_NAME, released_weights(), Path("artifacts/model/model.pt"))


def answer(detector: HeartDetector, source: XRaySource, wanted: dict[str, Path]) -> dict:
    """Return one image's row, and write what is wanted of its answer: ``overlay``, ``report``, ``sr``, ``sc``."""
    try:
        with source.file() as path:
            found = detector.detect(path)
            row = table_row(source.name, found)
            if "overlay" in wanted:
                save_figure(wanted["overlay"], draw_detection(found))
            if "report" in wanted:
                stem = wanted["report"].stem
                write_report(wanted["report"].parent, source.name, found, detector.explain(found.xray), stem)
            try:
                if "sr" in wanted:
                    write_measurement_report(wanted["sr"], path, found)
                if "sc" in wanted:
                    figure = draw_detection(found)
                    try:
                        write_secondary_capture(wanted["sc"], path, figure)
                    finally:
                        plt.close(figure)
            except XRayError as error:  # a picture file, say: the answer stands, its report cannot be
                why = str(error).replace(str(path), source.name)  # a member of an archive lies elsewhere for now
                row["notes"] = " ".join(filter(None, [row["notes"], f"No DICOM report: {why}"]))
    except XRayError as error:
        return table_row(source.name, None, str(error))
    return row


def describe(row: dict) -> str:
    """Say one row of the table in a few lines, for a screen."""
    if row["error"]:
        return f"{row['file']}\n  {row['error']}"
    place = [row[f"heart_{edge}"] for edge in ("x_min", "x_max", "y_min", "y_max")]
    heart = "Heart: x {:.0f} to {:.0f}, y {:.0f} to {:.0f} pixels of the original image"
    lines = [row["file"], "  " + ("No heart was found." if None in place else heart.format(*place))]
    if row["ctr"] is not None:
        between = "" if row["ctr_low"] is None else f" ({row['ctr_low']:.2f} to {row['ctr_high']:.2f})"
        lines.append(f"  Cardiothoracic ratio: {row['ctr']:.2f}{between}")
    lines += [f"  {word}: {row[key]}" for word, key in (("Warning", "warnings"), ("Note", "notes")) if row[key]]
    return "\n".join(lines)


def _unusable(options: argparse.Namespace) -> str:
    """Say why nothing could be written where it is wanted, before anything is worked on; nothing if it could."""
    if options.csv and options.csv.is_dir():
        return f"--csv {options.csv}: this is a folder; name a file in it"
    if options.csv and options.csv.is_file():
        with options.csv.open(encoding="utf-8", errors="replace") as stream:
            first = stream.readline().strip()
        if first and first != ",".join(TABLE_COLUMNS):
            return f"--csv {options.csv}: there is a file that is no table of this command; name another"
    for name in ("overlays", "reports", "dicom_sr", "dicom_sc"):
        folder = getattr(options, name)
        if folder and folder.exists() and not folder.is_dir():
            return f"--{name.replace('_', '-')} {folder}: this is a file; name a folder"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code.

    0; 1 if not one image got an answer, or with ``--strict`` if one got none; 2 if there is nothing to work on or
    nowhere to write; 130 if it was interrupted.
    """
    try:
        return _run(arguments)
    except OSError as error:  # of reading there is a row for each; what is left is writing
        print(f"{error.filename or 'a file'}: cannot be written ({error.strerror or error})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; with --csv the same command goes on from here", file=sys.stderr)
        return 130


def _run(arguments: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="heartbox", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="X-ray files, folders, zips or DICOMDIRs")
    parser.add_argument("--weights", help="a file or an https address; default: released, else those of notebook 03")
    parser.add_argument("--sha256", help="what the weights' SHA-256 must be; an address needs it")
    parser.add_argument("--csv", type=Path, help="write one row an image there; default: print them")
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="draw each answer into this folder")
    parser.add_argument("--reports", type=Path, metavar="DIR", help="write each answer there as pictures and JSON")
    parser.add_argument("--dicom-sr", type=Path, metavar="DIR", help="write a DICOM measurement report of each there")
    parser.add_argument("--dicom-sc", type=Path, metavar="DIR", help="write each overlay as a DICOM picture there")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if even one image could not be read")
    options = parser.parse_args(arguments)
    weights = options.weights or next((path for path in WEIGHTS if path.is_file()), WEIGHTS[-1])
    try:
        detector = HeartDetector.from_weights(weights, options.sha256)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    problem = _unusable(options)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    passed_over: list[Path] = []
    folders = [folder for folder in (options.overlays, options.reports, options.dicom_sr, options.dicom_sc) if folder]
    images = without_own_outputs(find_xrays(options.paths, passed_over), folders, passed_over)
    if not images:
        named = ", ".join(path.as_posix() for path in options.paths)
        others = f"; {len(passed_over)} files of other kinds are there" if passed_over else ""
        print(f"{named}: no X-ray files (DICOM, PNG, JPEG, TIFF){others}", file=sys.stderr)
        return 2
    journal = Journal(options.csv, detector) if options.csv else None
    rows = []
    for number, source in enumerate(tqdm(images, unit="film", disable=len(images) < 2), start=1):
        # Numbered, because two folders may hold files of the same name.
        name = f"{number:05d}-{Path(source.name).stem[:LONGEST_STEM]}"
        wanted = {
            kind: folder / f"{name}{ending}"
            for kind, folder, ending in (
                ("overlay", options.overlays, ".png"),
                ("report", options.reports, ".json"),
                ("sr", options.dicom_sr, ".dcm"),
                ("sc", options.dicom_sc, ".dcm"),
            )
            if folder
        }
        output = name if wanted else ""
        row = journal.recall(source, output) if journal else None
        if row is None or not all(path.is_file() for path in wanted.values()):
            row = answer(detector, source, wanted)
            if journal:
                journal.note(source, output, row)
        rows.append(row)
    table = pd.DataFrame(rows, columns=TABLE_COLUMNS).astype({"rows": "Int64", "columns": "Int64"})
    if options.csv:
        with complete_or_absent(options.csv) as part:
            table.to_csv(part, index=False, float_format="%.3f", lineterminator="\n")
        journal.close()
    else:
        print("\n\n".join(describe(row) for row in rows))
    failed, flagged = int(table["error"].notna().sum()), int(table["warnings"].notna().sum())
    print(
        f"{len(table)} image{'s' * (len(table) != 1)}, {len(table) - failed} answered, {flagged} with warnings, "
        f"{failed} could not be read"
        + (f"; files of other kinds passed over: {len(passed_over)}" if passed_over else ""),
        file=sys.stderr,
    )
    return int(failed == len(table) or (options.strict and failed > 0))


if __name__ == "__main__":
    sys.exit(main())
