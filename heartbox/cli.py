"""Find the heart in X-ray files: heartbox FILE_OR_FOLDER... --csv out.csv.

Knows the options and what is printed. Whatever needs time to load is imported after the options have been read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from heartbox import __version__

if TYPE_CHECKING:
    from heartbox.inference.archive import FilmJob, Journal, Outcome
    from heartbox.reporting.outputs import Outputs, WeightsCheck

FOLDERS = {"overlay": "overlays", "report": "reports", "sr": "dicom_sr", "sc": "dicom_sc"}  # kind of output -> option


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code.

    0; 1 if no image got an answer, or with ``--strict`` if one got none or a DICOM report is missing; 2 if there is
    nothing to work on or nowhere to write; 130 if it was interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["export"] and arguments[-1].endswith((".onnx", "-h", "--help")):  # else a folder of this name
        return _export(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except OSError as error:  # of reading there is a row for each; what is left is writing
        print(_cannot_be_written(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; with --csv the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="heartbox",
        description=__doc__.splitlines()[0],
        epilog="heartbox export WEIGHTS MODEL.onnx writes weights as ONNX: see heartbox export --help",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=_path_or_address,
        metavar="PATH",
        help="X-ray files, folders, zips, DICOMDIRs or addresses (s3://...), or lists of these in a .txt file",
    )
    parser.add_argument("--weights", help="a file or an https address; default: released, else those of notebook 03")
    parser.add_argument("--sha256", help="what the weights' SHA-256 must be; an address needs it")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write one row per image to this file; a name in .parquet is a folder of parts, for archives; default: "
        "print the answers",
    )
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="draw each answer into this folder")
    parser.add_argument("--reports", type=Path, metavar="DIR", help="write each answer there as pictures and JSON")
    parser.add_argument("--dicom-sr", type=Path, metavar="DIR", help="write a DICOM measurement report of each there")
    parser.add_argument("--dicom-sc", type=Path, metavar="DIR", help="write each overlay as a DICOM image there")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if even one image or DICOM report failed")
    parser.add_argument(
        "--workers",
        type=_count,
        default=1,
        metavar="N",
        help="processes that share the films, default 1, at most one per core; with 0 a film that crashes ends the run",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="let the workers of this dask cluster answer; needs --csv NAME.parquet"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="add the tracebacks of unexpected errors to this file")
    parser.add_argument("--version", action="version", version=f"heartbox {__version__}")
    return parser


def _export(arguments: list[str]) -> int:
    """Write weights as ONNX; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="heartbox export", description="Write weights as ONNX, for other programs and for faster answers."
    )
    parser.add_argument("weights", help="a weights file or an https address")
    parser.add_argument("target", type=Path, metavar="MODEL.onnx", help="the file to write; --weights takes it too")
    parser.add_argument("--sha256", help="what the weights' SHA-256 must be; an address needs it")
    options = parser.parse_args(arguments)
    from heartbox.models.onnx_files import export_onnx

    try:
        export_onnx(options.weights, options.target, options.sha256)
    except (OSError, ValueError) as error:
        print(_cannot_be_written(error) if isinstance(error, OSError) else error, file=sys.stderr)
        return 2
    return 0


def _path_or_address(text: str) -> str | Path:
    if not text:  # Path would take it for the folder that the command was given in
        raise argparse.ArgumentTypeError("an empty name: is a variable of your script unset?")
    return text if "://" in text else Path(text)  # as a path, s3://bucket would lose a slash


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    if options.csv and options.csv.is_symlink():
        options.csv = options.csv.resolve()  # the link stays, and its target is written
    if unusable := _unusable(options):
        print(unusable, file=sys.stderr)
        return 2
    jobs, passed_over = _find_jobs(options)
    if not jobs:
        return 2
    from heartbox.inference.archive import Journal, run_films
    from heartbox.reporting.outputs import Outputs
    from heartbox.utils.parallel import most_processes

    if options.workers > (most := most_processes()):
        print(f"--workers {options.workers}: {most} are used, the most for this machine's cores", file=sys.stderr)
    options.workers = min(options.workers, most, len(jobs))

    folders = {kind: getattr(options, name) for kind, name in FOLDERS.items() if getattr(options, name)}
    outputs = Outputs(options.weights, options.sha256, folders)
    processes = 1 if _in_parts(options) else options.workers  # a cluster has processes of its own
    checked = _check_weights(outputs, processes if len(jobs) > 1 else 0)
    if checked.error:
        print(checked.error, file=sys.stderr)
        return 2
    if _in_parts(options):
        return _answer_archive(options, jobs, outputs, checked.digest, passed_over)
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.csv, checked.digest) if options.csv else None
    if journal and journal.message:
        print(journal.message, file=sys.stderr)
    outcomes = run_films(jobs, outputs, journal, outputs.is_complete, options.workers, options.log)
    rows = _write_answers(options.csv, outcomes, journal)
    failed, flagged = (sum(row[column] is not None for row in rows) for column in ("error", "warnings"))
    if failed and options.csv:
        print(f"{options.csv}: the column error says why {failed} could not be read", file=sys.stderr)
    _print_summary(len(rows), failed, flagged, passed_over)
    refused = _print_refused(outcomes, [kind for kind in ("sr", "sc") if kind in folders])
    return int(failed == len(rows) or (options.strict and failed + refused > 0))


def _in_parts(options: argparse.Namespace) -> bool:
    return options.csv is not None and options.csv.suffix.lower() == ".parquet"


def _answer_archive(
    options: argparse.Namespace, jobs: list[FilmJob], outputs: Outputs, digest: str, passed_over: list[Path]
) -> int:
    from heartbox.reporting.parts import answer_archive

    counts = answer_archive(jobs, outputs, digest, options.csv, options.scheduler, options.workers, options.log)
    _print_summary(counts.films, counts.failed, counts.flagged, passed_over)
    return int(counts.failed == counts.films or (options.strict and counts.failed > 0))


def _unusable(options: argparse.Namespace) -> str:
    """Say why nothing could be written where the options want it, before any work is done; nothing if it could."""
    from heartbox.reporting.export import TABLE_COLUMNS

    csv = options.csv
    if _in_parts(options):
        return _unusable_for_parts(options)
    if options.scheduler:
        return "--scheduler: an archive's table is a folder of parts; name it with --csv NAME.parquet"
    if csv and csv.is_dir():
        return f"--csv {csv}: this is a folder; name a file in it"
    if csv and csv.exists() and not csv.is_file():
        return f"--csv {csv}: this is a device or a pipe; name a file, or leave --csv out to print the answers"
    if csv and csv.is_file():
        with csv.open(encoding="utf-8", errors="replace") as stream:
            first = stream.readline().strip()
        if first and not first.startswith(",".join(TABLE_COLUMNS[:3])):
            return f"--csv {csv}: this file is not a table of this command; name another"
    if options.reports and str(options.weights or "").endswith(".onnx"):
        return f"--reports: {options.weights} cannot be explained; name the weights that it was exported from"
    for name in FOLDERS.values():
        folder = getattr(options, name)
        if folder and folder.exists() and not folder.is_dir():
            return f"--{name.replace('_', '-')} {folder}: this is a file; name a folder"
    return ""


def _unusable_for_parts(options: argparse.Namespace) -> str:
    if options.csv.is_file():
        return f"--csv {options.csv}: this is a file; an archive's table is a folder of parts, so name another"
    if options.workers == 0 and not options.scheduler:
        return "--workers 0: a table in Parquet is made by at least one worker"
    others = [name for name in FOLDERS.values() if getattr(options, name)]
    if others:
        return f"--{others[0].replace('_', '-')}: pictures and reports need a table that is a csv"
    return ""


def _find_jobs(options: argparse.Namespace) -> tuple[list[FilmJob], list[Path]]:
    """Return the films to answer and the files that were passed over, or say why there are no films."""
    from heartbox.inference.archive import make_jobs, without_own_outputs
    from heartbox.xray.discovery import find_xrays

    passed_over: list[Path] = []
    folders = [getattr(options, name) for name in FOLDERS.values() if getattr(options, name)]
    jobs = make_jobs(without_own_outputs(find_xrays(options.paths, passed_over), folders, passed_over))
    if not jobs:
        named = ", ".join(path if isinstance(path, str) else path.as_posix() for path in options.paths)
        others = f"; {len(passed_over)} files of other kinds are there" if passed_over else ""
        print(f"{named}: no X-ray files (DICOM, PNG, JPEG, TIFF){others}", file=sys.stderr)
    return jobs, passed_over


def _check_weights(outputs: Outputs, processes: int) -> WeightsCheck:
    """Load the weights in all processes that will answer the films at once, or in this one if there are no others."""
    from heartbox.reporting.outputs import WeightsCheck, check_weights
    from heartbox.utils.parallel import Failure, parallel_map

    if not processes:
        return check_weights(outputs)
    answers = parallel_map(
        check_weights, [outputs] * processes, "weights", processes=processes, progress=False, keep_going=True
    )
    checks = [
        WeightsCheck(error=f"the weights cannot be loaded: {answer.message}") if isinstance(answer, Failure) else answer
        for answer in answers
    ]
    return next((check for check in checks if check.error), checks[0])


def _write_answers(csv: Path | None, outcomes: list[Outcome], journal: Journal | None) -> list[dict]:
    """Write the table, or print the answers; return the rows."""
    from heartbox.reporting.export import table_row, write_table

    rows = [outcome.row or table_row(outcome.name, None, outcome.problem.reason) for outcome in outcomes]
    if csv:
        write_table(csv, rows)
        journal.close()
    else:
        print("\n\n".join(describe(row) for row in rows))
    return rows


def describe(row: dict) -> str:
    """Return one row of the table in a few lines, for a screen."""
    if row["error"]:
        return f"{row['file']}\n  {row['error']}"
    edges = [row[f"heart_{edge}"] for edge in ("x_min", "x_max", "y_min", "y_max")]
    heart = "Heart: x {:.0f} to {:.0f}, y {:.0f} to {:.0f} pixels of the original image"
    lines = [row["file"], "  " + ("No heart was found." if None in edges else heart.format(*edges))]
    if row["ctr"] is not None:
        between = "" if row["ctr_low"] is None else f" ({row['ctr_low']:.2f} to {row['ctr_high']:.2f})"
        lines.append(f"  Cardiothoracic ratio: {row['ctr']:.2f}{between}")
    lines += [f"  {word}: {row[key]}" for word, key in (("Warning", "warnings"), ("Note", "notes")) if row[key]]
    return "\n".join(lines)


def _print_summary(films: int, failed: int, flagged: int, passed_over: list[Path]) -> None:
    print(
        f"{films} image{'s' * (films != 1)}, {films - failed} answered, {flagged} with warnings, "
        f"{failed} could not be read"
        + (f"; files of other kinds passed over: {len(passed_over)}" if passed_over else ""),
        file=sys.stderr,
    )


def _print_refused(outcomes: list[Outcome], kinds: list[str]) -> int:
    """Say how many DICOM files of each kind were written, and why not the others; return how many are missing."""
    missing = 0
    for kind in kinds:
        reasons = [
            f"{outcome.name}: {outcome.problem.reason if outcome.problem else outcome.refused[kind]}"
            for outcome in outcomes
            if outcome.problem or kind in outcome.refused
        ]
        missing += len(reasons)
        what = "reports" if kind == "sr" else "overlays"
        option = f"--{FOLDERS[kind].replace('_', '-')}"
        print(f"{option}: {len(outcomes) - len(reasons)} of {len(outcomes)} {what} written", file=sys.stderr)
        for reason in reasons:
            print(f"  {' '.join(reason.split())}", file=sys.stderr)
    return missing


def _cannot_be_written(error: OSError) -> str:
    if error.errno is None:  # an OutputError, which says all there is to say
        return str(error)
    return f"{error.filename or 'a file'}: cannot be written ({error.strerror or error})"


if __name__ == "__main__":
    sys.exit(main())
