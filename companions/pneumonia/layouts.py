"""Raw folders of chest X-rays labelled "pneumonia" or not: which layout a folder has and which films it holds.

Recognises RSNA's layout and that of the NIH subset, and checks the labels without opening an image. Knows files and
tables; it does not know prepared folders or networks.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from heartbox.data.layouts import DataSource, find_source
from heartbox.data.tables import Problem, read_table

RSNA_IMAGES, RSNA_LABELS = "stage_2_train_images", "stage_2_train_labels.csv"
RSNA_CLASSES = "stage_2_detailed_class_info.csv"  # optional: what the readers said besides yes and no
# Optional: the NIH film behind each RSNA image, published by the makers of the challenge. Only this names the patient.
RSNA_ORIGINS = "pneumonia-challenge-dataset-mappings_2018.json"
NIH_IMAGES, NIH_LABELS, NIH_BOXES = "images", "labels.csv", "opacity_boxes_512.csv"
NIH_HEADERS = "Data_Entry_2017*.csv"  # optional: NIH's own table, which has the view position
NIH_TARGETS = {"no finding": 0, "pneumonia": 1}
NIH_FRAME = (512, 512)  # rows and columns of the frame in which NIH_BOXES gives its boxes
SAMPLE_MARK = "sample.json"  # lies beside phantoms, so that nobody mistakes them for patients
READER_OPACITY = "Lung Opacity"
EXPECTED = f"{RSNA_IMAGES}/*.dcm and {RSNA_LABELS} (RSNA), or {NIH_IMAGES}/*.jpg and {NIH_LABELS} (NIH)"
BOX_COLUMNS = ("x", "y", "width", "height")
NO_BOX = ("",) * len(BOX_COLUMNS)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PneumoniaXRay:
    """One labelled film in the raw folder.

    Attributes
    ----------
    name : str
        File name without its ending.
    path : Path
        The image file.
    target : int
        1 for pneumonia, 0 for none.
    boxes : tuple of Box
        Opacities as ``x_min, y_min, x_max, y_max``; empty if there are none, or none that can be used.
    frame : tuple of int or None
        Rows and columns of the frame in which the boxes are given; None for the frame of the image itself.
    patient : str
        The patient; empty if only the header of the file can say.
    view : str
        ``"PA"``, ``"AP"``, or empty if the tables do not say.
    reader_class : str
        The class given by RSNA's readers; empty if they did not read this film.
    follow_up : int or None
        Number of the film in the patient's series, if the file name has it.
    """

    name: str
    path: Path
    target: int
    boxes: tuple[Box, ...] = ()
    frame: tuple[int, int] | None = None
    patient: str = ""
    view: str = ""
    reader_class: str = ""
    follow_up: int | None = None


# ---------------------------------------------------------------- where the raw data is


def recognise_layout(folder: str | Path) -> str | None:
    """Return the layout of `folder`: ``"rsna"``, ``"sample"`` (phantoms in RSNA's layout), ``"nih"``, or None."""
    folder = Path(folder)
    if (folder / RSNA_LABELS).is_file() and (folder / RSNA_IMAGES).is_dir():
        return "sample" if (folder / SAMPLE_MARK).is_file() else "rsna"
    if (folder / NIH_LABELS).is_file() and (folder / NIH_IMAGES).is_dir():
        return "nih"
    return None


def find_data(default: str | Path, make_sample: Callable[[Path], object]) -> DataSource:
    """Find the raw films: in the folder that ``CARDIAC_DATA`` names, else in `default`, else make the sample.

    Parameters
    ----------
    default : path
        Where to look without ``CARDIAC_DATA``; the sample goes beside it.
    make_sample : callable
        Makes the sample in the folder it is given (:func:`companions.pneumonia.sample.write_sample`).

    Raises
    ------
    FileNotFoundError
        See :func:`heartbox.data.layouts.find_source`.
    """
    return find_source(recognise_layout, EXPECTED, default, make_sample, synthetic=("sample",))


# ---------------------------------------------------------------- which films there are


def list_xrays(folder: str | Path) -> tuple[list[PneumoniaXRay], list[Problem]]:
    """List the labelled films of a raw folder, and everything about them that does not fit.

    A film whose label is doubtful is left out; a film with a doubtful box keeps its label and loses its boxes.

    Returns
    -------
    tuple of list
        The films, sorted by name, and the problems.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    ValueError
        If a table cannot be used (:class:`heartbox.data.tables.TableError`), or if the usable films are all of one
        class.
    """
    folder = Path(folder)
    layout = recognise_layout(folder)
    if layout is None:
        raise FileNotFoundError(f"{folder}: has neither RSNA's layout nor that of the NIH films. Expected: {EXPECTED}")
    films, problems = _list_nih(folder) if layout == "nih" else _list_rsna(folder)
    counts = Counter(film.target for film in films)
    if len(counts) < 2:
        first = f"; the first problem is {problems[0]}" if problems else ""
        raise ValueError(
            f"{folder}: {counts[1]} usable films with pneumonia and {counts[0]} without; both are needed{first}"
        )
    return sorted(films, key=lambda film: film.name), problems


def nih_patient(name: str) -> str:
    """Return the patient's eight digits, with which NIH's file names begin, or "" for any other name."""
    match = re.match(r"(\d{8})_\d{3}(?!\d)", name)
    return match[1] if match else ""


def _list_rsna(folder: Path) -> tuple[list[PneumoniaXRay], list[Problem]]:
    table = _read_text(folder / RSNA_LABELS, ("patientId", *BOX_COLUMNS, "Target"))
    classes, origins = {}, {}
    if (folder / RSNA_CLASSES).is_file():
        rows = _read_text(folder / RSNA_CLASSES, ("patientId", "class"))
        classes = dict(zip(rows["patientId"], rows["class"], strict=True))
    if (folder / RSNA_ORIGINS).is_file():
        origins = _read_origins(folder / RSNA_ORIGINS)
    paths = {path.stem: path for path in _files(folder / RSNA_IMAGES, ".dcm")}
    films, problems = [], _unlabelled(paths, table["patientId"], RSNA_LABELS)
    unknown = [name for name in paths if name not in origins] if (folder / RSNA_ORIGINS).is_file() else []
    if unknown:
        reason = f"{len(unknown)} of {len(paths)} images are not in it, {unknown[0]} for example; each of them counts "
        problems.append(Problem(RSNA_ORIGINS, "patient", reason + "as a patient of its own"))
    for name, rows in _rows_by_name(table, "patientId"):
        targets = {row["Target"].removesuffix(".0") for row in rows}
        cells = _box_cells(rows)
        label_problem = _check_rsna_label(name, targets, len(rows), bool(cells), classes.get(name))
        if label_problem:
            problems.append(label_problem)
        elif name not in paths:
            problems.append(_without_image(name, f"{RSNA_IMAGES}/{name}.dcm"))
        else:
            boxes, box_problems = _parse_boxes(name, cells)
            if targets == {"1"} and not cells:
                box_problems = [Problem(name, "box", "Target is 1, but there is no box; the label is used")]
            problems += box_problems
            details = {"patient": nih_patient(origins.get(name, "")), "reader_class": classes.get(name, "")}
            films.append(PneumoniaXRay(name, paths[name], int(*targets), boxes, **details))
    return films, problems


def _check_rsna_label(
    name: str, targets: Collection[str], rows: int, has_box: bool, reader_class: str | None
) -> Problem | None:
    """Return what is wrong with the label of one film, or None."""
    if not set(targets) <= {"0", "1"}:
        strange = ", ".join(repr(target) for target in sorted(set(targets) - {"0", "1"}))
        return Problem(name, "label", f"Target is {strange}; expected 0 or 1")
    if len(targets) > 1:
        return Problem(name, "contradiction", f"Target is both 0 and 1 in its {rows} rows")
    if targets == {"0"} and has_box:
        return Problem(name, "contradiction", "Target is 0, but there is a box")
    if reader_class is not None and (reader_class == READER_OPACITY) != (targets == {"1"}):
        reason = f"Target is {min(targets)}, but {RSNA_CLASSES} says {reader_class!r}"
        return Problem(name, "contradiction", reason)
    return None


def _list_nih(folder: Path) -> tuple[list[PneumoniaXRay], list[Problem]]:
    table = _read_text(folder / NIH_LABELS, ("file", "nih_label"), ("rsna_class", "view"))
    paths = {path.name: path for path in _files(folder / NIH_IMAGES)}
    boxes, views = {}, {}
    if (folder / NIH_BOXES).is_file():
        boxes = dict(_rows_by_name(_read_text(folder / NIH_BOXES, ("file", *BOX_COLUMNS)), "file"))
    for path in sorted(folder.glob(NIH_HEADERS)):
        rows = _read_text(path, ("Image Index", "View Position"))
        views |= {Path(name).stem: view for name, view in zip(rows["Image Index"], rows["View Position"], strict=True)}
    films, problems = [], _unlabelled(paths, table["file"], NIH_LABELS)
    for name in sorted(set(boxes) - set(table["file"])):
        problems.append(Problem(name, "box", f"has a box in {NIH_BOXES}, but no row in {NIH_LABELS}"))
    for name, rows in _rows_by_name(table, "file"):
        labels = {row["nih_label"].lower() for row in rows}
        stem = Path(name).stem
        label_problem = _check_nih_label(name, labels, len(rows), len(boxes.get(name, ())))
        if label_problem:
            problems.append(label_problem)
        elif name not in paths:
            problems.append(_without_image(name, f"{NIH_IMAGES}/{name}"))
        else:
            kept, box_problems = _parse_boxes(name, _box_cells(boxes.get(name, ())))
            problems += box_problems
            details = {
                "patient": nih_patient(stem),
                "view": (rows[0].get("view") or views.get(stem, "")).upper(),
                "reader_class": rows[0].get("rsna_class", ""),
                "follow_up": int(stem.partition("_")[2]) if nih_patient(stem) else None,
            }
            films.append(PneumoniaXRay(stem, paths[name], NIH_TARGETS[labels.pop()], kept, NIH_FRAME, **details))
    return films, problems


def _check_nih_label(name: str, labels: Collection[str], rows: int, boxes: int) -> Problem | None:
    """Return what is wrong with the label of one film, or None."""
    if not name:
        return Problem(NIH_LABELS, "label", f"{rows} of its rows do not name a file")
    if len(labels) > 1:
        return Problem(name, "contradiction", f"its {rows} rows say {' and '.join(map(repr, sorted(labels)))}")
    if not set(labels) <= set(NIH_TARGETS):
        expected = " or ".join(map(repr, NIH_TARGETS))
        return Problem(name, "label", f"nih_label is {min(labels)!r}; expected {expected}")
    if set(labels) == {"no finding"} and boxes:
        return Problem(name, "contradiction", f"nih_label is 'no finding', but {NIH_BOXES} has {boxes} for it")
    return None


# ---------------------------------------------------------------- files, rows and boxes


def _files(folder: Path, ending: str = "") -> list[Path]:
    """Return the files of a folder, without hidden ones (such as macOS's ``._x``) and dangling links."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() == ending or not ending]
    return [path for path in paths if not path.name.startswith(".") and path.is_file()]


def _read_text(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table whose cells stay text; a cell that says "nan" is empty."""
    return read_table(path, required, text=(*required, *optional)).replace({"nan": "", "NaN": ""})


def _rows_by_name(table: pd.DataFrame, key: str) -> Iterable[tuple[str, list[dict[str, str]]]]:
    """Return the rows of each name in order of first appearance: a film has one row for each of its boxes."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in table.to_dict("records"):  # many times faster than pandas' groupby with thousands of groups
        groups.setdefault(row[key], []).append(row)
    return groups.items()


def _without_image(name: str, file: str) -> Problem:
    return Problem(name, "no image", f"labelled, but there is no {file}")


def _unlabelled(paths: Collection[str], labelled: pd.Series, table: str) -> list[Problem]:
    return [Problem(name, "no label", f"no row in {table}") for name in sorted(set(paths) - set(labelled))]


def _box_cells(rows: Sequence[dict[str, str]]) -> list[tuple[str, ...]]:
    """Return the four cells of each row that has a box; a row repeated word for word is one box."""
    cells = dict.fromkeys(tuple(str(row[column]) for column in BOX_COLUMNS) for row in rows)
    return [row for row in cells if row != NO_BOX]


def _parse_boxes(name: str, rows: Sequence[Sequence[str]]) -> tuple[tuple[Box, ...], list[Problem]]:
    """Return a film's boxes; none of them if one is wrong, since the share of the evidence needs them all."""
    boxes: list[Box] = []
    for cells in rows:
        try:
            x, y, width, height = (float(cell) for cell in cells)
        except ValueError:
            x = y = width = height = math.nan
        words = f"x, y, width, height = {', '.join(cells)}"
        if not (width > 0 and height > 0 and math.isfinite(x + y + width + height)):
            return (), [Problem(name, "box", f"{words} is not a box; this film's boxes are not used")]
        if min(width, height) < 1:
            reason = f"{words} is less than a pixel wide or high: use pixels, not fractions of the image; "
            return (), [Problem(name, "box", reason + "this film's boxes are not used")]
        boxes.append((x, y, x + width, y + height))
    return tuple(boxes), []


def _read_origins(path: Path) -> dict[str, str]:
    """Return the NIH film from which each RSNA image was made."""
    try:
        origins = {entry["subset_img_id"]: entry["img_id"] for entry in json.loads(path.read_text(encoding="utf-8"))}
        if not origins:
            raise TypeError("it is empty")
        if not all(isinstance(name, str) for pair in origins.items() for name in pair):
            raise TypeError("an id is not text")
        return origins
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not the mapping of RSNA images to NIH films ({type(error).__name__}: {error}); download it "
            "again, or remove it to split by RSNA's own patientId"
        ) from error
