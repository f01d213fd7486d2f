"""Answers as rows of a table, as JSON and as files on disk.

Knows results and tables; no networks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from numpy.typing import NDArray

from heartbox.boxes import EDGES
from heartbox.utils.atomic import complete_or_absent
from heartbox.xray.errors import printable

if TYPE_CHECKING:
    from heartbox.inference.result import HeartDetection

TABLE_COLUMNS = [
    "file",
    *(f"heart_{edge}" for edge in EDGES),
    *(f"heart_{edge}_{end}" for edge in EDGES for end in ("low", "high")),
    *(f"thorax_{edge}" for edge in EDGES),
    *("ctr", "ctr_low", "ctr_high", "heart_width_mm", "heart_height_mm"),
    *("rows", "columns", "view", "warnings", "warning_codes", "notes", "error"),
]
TEXT_COLUMNS = ("file", "view", "warnings", "warning_codes", "notes", "error")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with one of these a cell begins that a spreadsheet computes


def as_dict(name: str, found: HeartDetection) -> dict:
    """Return an answer as plain values for a JSON file. Nothing of the patient is in it.

    Parameters
    ----------
    name : str
        What to call the image.
    found : HeartDetection
        The answer.
    """
    row = table_row(name, found)
    del row["error"]
    low_high = None if found.heart_interval is None else found.heart_interval.tolist()
    return {
        "file": row["file"],
        "rows": row["rows"],
        "columns": row["columns"],
        "view": row["view"],
        "heart": dict(zip(EDGES, found.heart.tolist(), strict=True)) if found.has_heart else None,
        "heart_interval": dict(zip(EDGES, low_high, strict=True)) if low_high else None,
        "thorax": None if found.thorax is None else dict(zip(EDGES, found.thorax.tolist(), strict=True)),
        "cardiothoracic_ratio": found.ctr,
        "cardiothoracic_ratio_interval": found.ctr_interval,
        "interval_level": found.level,
        "heart_width_mm": row["heart_width_mm"],
        "heart_height_mm": row["heart_height_mm"],
        "heart_margins_mm": found.margins_mm,
        "warnings": [{"code": flag.code, "message": flag.message} for flag in found.warnings],
        "notes": list(found.notes),
        "unit": "boxes and intervals in pixels of the original image, x to the right and y down",
        "purpose": "teaching and research; not a medical device",
    }


def write_report(
    folder: str | Path, name: str, found: HeartDetection, maps: NDArray | None = None, stem: str | None = None
) -> list[Path]:
    """Write the answer for one X-ray as a picture and as JSON, and its evidence maps as another picture.

    Parameters
    ----------
    folder : path
        Where ``<stem>.png``, ``<stem>.json`` and, with maps, ``<stem>-why.png`` are written.
    name : str
        What to call the image.
    found : HeartDetection
        The answer.
    maps : ndarray, shape (4, rows, columns), optional
        As :meth:`heartbox.inference.detector.HeartDetector.explain` returns them.
    stem : str, optional
        Name of the files, if it is not the image's name without its ending.

    Returns
    -------
    list of Path
        The files written.
    """
    folder, stem = Path(folder), stem or Path(name).stem
    written = [folder / f"{stem}.png", folder / f"{stem}.json"]
    from heartbox.reporting.detection_plots import draw_detection, draw_evidence  # a table alone needs no matplotlib
    from heartbox.reporting.plots import save_figure

    save_figure(written[0], draw_detection(found))
    with complete_or_absent(written[1]) as part:
        part.write_text(json.dumps(as_dict(name, found), indent=2) + "\n", encoding="utf-8")
    if maps is not None:
        written.append(folder / f"{stem}-why.png")
        save_figure(written[2], draw_evidence(found, maps))
    return written


def table_row(name: str, found: HeartDetection | None, error: str = "") -> dict:
    """Return one image's row of a results table; without an answer, only its name and the error.

    Parameters
    ----------
    name : str
        What to call the image.
    found : HeartDetection or None
        The answer.
    error : str
        Why there is no answer.

    Returns
    -------
    dict
        A value or None for each of `TABLE_COLUMNS`. Control characters in text are escaped, so that a row is a line.
    """
    row = dict.fromkeys(TABLE_COLUMNS) | {"file": name, "error": error}
    if found is not None:
        row |= _numbers(found) | {
            "view": found.xray.view,
            "warnings": " ".join(map(str, found.warnings)),
            "warning_codes": ";".join(found.warning_codes),
            "notes": " ".join(found.notes),
        }
    return row | {column: printable(row[column] or "") or None for column in TEXT_COLUMNS}


def _numbers(found: HeartDetection) -> dict:
    rows, columns = found.xray.image.shape
    row = {"rows": rows, "columns": columns, "ctr": found.ctr}
    if found.has_heart:
        row |= {f"heart_{edge}": float(value) for edge, value in zip(EDGES, found.heart, strict=True)}
    if found.has_heart and found.heart_interval is not None:
        for edge, (low, high) in zip(EDGES, found.heart_interval, strict=True):
            row |= {f"heart_{edge}_low": float(low), f"heart_{edge}_high": float(high)}
    if found.thorax is not None:
        row |= {f"thorax_{edge}": float(value) for edge, value in zip(EDGES, found.thorax, strict=True)}
    if found.ctr_interval is not None:
        row["ctr_low"], row["ctr_high"] = found.ctr_interval
    if found.heart_mm is not None:
        row["heart_width_mm"], row["heart_height_mm"] = found.heart_mm
    return row


def write_table(path: str | Path, rows: Sequence[dict]) -> None:
    """Write rows of :func:`table_row` as a csv, complete or not at all.

    Text that a spreadsheet would compute is written with a quote before it, which keeps it text (OWASP, "CSV
    injection").
    """
    table = pd.DataFrame(list(rows), columns=TABLE_COLUMNS).astype({"rows": "Int64", "columns": "Int64"})
    for column in TEXT_COLUMNS:
        table[column] = table[column].map(_as_text, na_action="ignore")
    with complete_or_absent(path) as part:
        table.to_csv(part, index=False, float_format="%.3f", lineterminator="\n", encoding="utf-8")


def _as_text(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell
