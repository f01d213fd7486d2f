"""Raw folders of chest films with a yes or no: which layout lies in one, and which labelled films it holds.

Recognises RSNA's layout and that of the NIH subset, and checks the labels without opening an image. Knows files and
tables; no processed folder, no networks.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from heartbox.data.layouts import look_for_data

RSNA_IMAGES, RSNA_LABELS = "stage_2_train_images", "stage_2_train_labels.csv"
RSNA_CLASSES = "stage_2_detailed_class_info.csv"  # what the readers said beside yes and no; optional
# Which NIH film each RSNA image was: published by the challenge's makers, and the only way to its patient. Optional.
RSNA_ORIGINS = "pneumonia-challenge-dataset-mappings_2018.json"
NIH_IMAGES, NIH_LABELS, NIH_BOXES = "images", "labels.csv", "opacity_boxes_512.csv"
NIH_HEADERS = "Data_Entry_2017*.csv"  # NIH's own table, which knows the view position; optional
NIH_TARGETS = {"no finding": 0, "pneumonia": 1}
NIH_FRAME = (512, 512)  # rows and columns of the frame in which NIH_BOXES gives its boxes
SAMPLE_MARK = "sample.json"  # beside the phantoms, so that nobody takes them for patients
READER_OPACITY = "Lung Opacity"
EXPECTED = f"{RSNA_IMAGES}/*.dcm and {RSNA_LABELS} (RSNA), or {NIH_IMAGES}/*.jpg and {NIH_LABELS} (NIH)"
BOX_COLUMNS = ("x", "y", "width", "height")

Box = tuple[float, float, float, float]


class Problem(NamedTuple):
    """Something in the raw folder that could not be used as it stands."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class PneumoniaXRay:
    """One labelled film as it lies in the raw folder.

    Attributes
    ----------
    name : str
        File name without its ending.
    path : Path
        The image file.
    target : int
        1 for pneumonia, 0 for none.
    boxes : tuple of Box
        Opacities as ``x_min, y_min, x_max, y_max``, empty where there are none or none that can be used.
    frame : tuple of int or None
        Rows and columns of the frame that the boxes are given in; None for the image's own.
    patient : str
        Whose film it is; empty where only the file's header can tell.
    view : str
        ``"PA"``, ``"AP"``, or empty where only the file's header can tell, or nothing.
    reader_class : str
        What RSNA's readers said, empty where they did not read it.
    follow_up : int or None
        Number of the film within its patient's, where the file name says so.
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
    """Tell which layout lies in `folder`: ``"rsna"``, ``"sample"`` (phantoms in RSNA's), ``"nih"``, or None."""
    folder = Path(folder)
    if (folder / RSNA_LABELS).is_file() and (folder / RSNA_IMAGES).is_dir():
        return "sample" if (folder / SAMPLE_MARK).is_file() else "rsna"
    if (folder / NIH_LABELS).is_file() and (folder / NIH_IMAGES).is_dir():
        return "nih"
    return None


def find_data(data: str | Path) -> tuple[Path, str | None]:
    """Find the raw films: in the folder that ``CARDIAC_DATA`` names; where that is unset, in `data`.

    Returns
    -------
    tuple of Path and str or None
        The folder and its layout; with ``CARDIAC_DATA`` unset and no films in `data`, where the embedded sample
        belongs, and None if it has not been made.

    Raises
    ------
    FileNotFoundError
        See :func:`heartbox.data.layouts.look_for_data`.
    """
    data = Path(data)
    sample = data.with_name(f"{data.name}-sample")
    return look_for_data(recognise_layout, EXPECTED, data) or (sample, recognise_layout(sample))


# ---------------------------------------------------------------- what lies in it


def list_films(folder: str | Path) -> tuple[list[PneumoniaXRay], list[Problem]]:
    """List the labelled films of a raw folder, and everything about them that does not fit.

    A film whose label is in doubt is left out; one whose box is in doubt keeps its label and loses its boxes.

    Returns
    -------
    tuple of list
        The films, in the order of their names, and the problems.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    ValueError
        If a table cannot be read or lacks a column, or if what is left has not both answers in it.
    """
    folder = Path(folder)
    layout = recognise_layout(folder)
    if layout is None:
        raise FileNotFoundError(f"{folder}: neither RSNA's layout nor that of the NIH films lies here")
    films, problems = _list_nih(folder) if layout == "nih" else _list_rsna(folder)
    kinds = Counter(film.target for film in films)
    if len(kinds) < 2:
        first = f"; the first problem: {problems[0].name}: {problems[0].reason}" if problems else ""
        raise ValueError(
            f"{folder}: {kinds[1]} usable films with pneumonia and {kinds[0]} without; both are needed{first}"
        )
    return sorted(films, key=lambda film: film.name), problems


def nih_patient(name: str) -> str:
    """Return the patient that NIH's file names begin with (eight digits, then the number of the film), or ""."""
    found = re.match(r"(\d{8})_\d{3}(?!\d)", name)
    return found[1] if found else ""


def _list_rsna(folder: Path) -> tuple[list[PneumoniaXRay], list[Problem]]:
    table = _read_table(folder / RSNA_LABELS, ("patientId", *BOX_COLUMNS, "Target"))
    classes, origins = {}, {}
    if (folder / RSNA_CLASSES).is_file():
        rows = _read_table(folder / RSNA_CLASSES, ("patientId", "class"))
        classes = dict(zip(rows["patientId"], rows["class"], strict=True))
    if (folder / RSNA_ORIGINS).is_file():
        origins = _read_origins(folder / RSNA_ORIGINS)
    paths = {path.stem: path for path in _files(folder / RSNA_IMAGES, ".dcm")}
    films, problems = [], _without_label(paths, table["patientId"], RSNA_LABELS)
    unknown = [name for name in paths if name not in origins] if (folder / RSNA_ORIGINS).is_file() else []
    if unknown:
        reason = f"{len(unknown)} of {len(paths)} images are not in it, such as {unknown[0]}: each counts as a patient"
        problems.append(Problem(RSNA_ORIGINS, "patient unknown", reason))
    for name, rows in _grouped(table, "patientId"):
        targets = {row["Target"].removesuffix(".0") for row in rows}
        boxes = [values for row in rows if any(values := tuple(row[column] for column in BOX_COLUMNS))]
        if not targets <= {"0", "1"}:
            strange = ", ".join(repr(target) for target in sorted(targets - {"0", "1"}))
            problems.append(Problem(name, "unusable label", f"Target is {strange}; expected 0 or 1"))
        elif len(targets) > 1:
            problems.append(Problem(name, "contradiction", f"Target is 0 and 1 in its {len(rows)} rows"))
        elif targets == {"0"} and boxes:
            problems.append(Problem(name, "contradiction", "Target is 0 and yet there is a box"))
        elif name in classes and (classes[name] == READER_OPACITY) != (targets == {"1"}):
            reason = f"Target is {min(targets)}, and {RSNA_CLASSES} says {classes[name]!r}"
            problems.append(Problem(name, "contradiction", reason))
        elif name not in paths:
            problems.append(_without_image(name, f"{RSNA_IMAGES}/{name}.dcm"))
        else:
            kept, faults = _boxes(name, boxes)
            if targets == {"1"} and not boxes:
                faults = [Problem(name, "box", "Target is 1 and there is no box; the label is used")]
            problems += faults
            patient = nih_patient(origins.get(name, ""))
            films.append(
                PneumoniaXRay(
                    name, paths[name], int(*targets), kept, patient=patient, reader_class=classes.get(name, "")
                )
            )
    return films, problems


def _list_nih(folder: Path) -> tuple[list[PneumoniaXRay], list[Problem]]:
    table = _read_table(folder / NIH_LABELS, ("file", "nih_label"))
    paths = {path.name: path for path in _files(folder / NIH_IMAGES)}
    boxes, views = {}, {}
    if (folder / NIH_BOXES).is_file():
        boxes = dict(_grouped(_read_table(folder / NIH_BOXES, ("file", *BOX_COLUMNS)), "file"))
    for path in sorted(folder.glob(NIH_HEADERS)):
        rows = _read_table(path, ("Image Index", "View Position"))
        views |= {Path(name).stem: view for name, view in zip(rows["Image Index"], rows["View Position"], strict=True)}
    films, problems = [], _without_label(paths, table["file"], NIH_LABELS)
    for name in sorted(set(boxes) - set(table["file"])):
        problems.append(Problem(name, "box", f"a box in {NIH_BOXES}, but no row in {NIH_LABELS}"))
    for name, rows in _grouped(table, "file"):
        labels = {row["nih_label"].lower() for row in rows}
        stem = Path(name).stem
        if not name:
            problems.append(Problem(NIH_LABELS, "unusable label", f"{len(rows)} of its rows name no file"))
        elif len(labels) > 1:
            words = " and ".join(repr(label) for label in sorted(labels))
            problems.append(Problem(name, "contradiction", f"its {len(rows)} rows say {words}"))
        elif not labels <= set(NIH_TARGETS):
            expected = " or ".join(repr(label) for label in NIH_TARGETS)
            problems.append(Problem(name, "unusable label", f"nih_label is {labels.pop()!r}; expected {expected}"))
        elif labels == {"no finding"} and name in boxes:
            drawn = f"{NIH_BOXES} has {len(boxes[name])} for it"
            problems.append(Problem(name, "contradiction", f"nih_label is 'no finding' and yet {drawn}"))
        elif name not in paths:
            problems.append(_without_image(name, f"{NIH_IMAGES}/{name}"))
        else:
            found = [tuple(row[column] for column in BOX_COLUMNS) for row in boxes.get(name, ())]
            kept, faults = _boxes(name, found)
            problems += faults
            about = {
                "patient": nih_patient(stem),
                "view": (rows[0].get("view") or views.get(stem, "")).upper(),
                "reader_class": rows[0].get("rsna_class", ""),
                "follow_up": int(stem.partition("_")[2]) if nih_patient(stem) else None,
            }
            films.append(PneumoniaXRay(stem, paths[name], NIH_TARGETS[labels.pop()], kept, NIH_FRAME, **about))
    return films, problems


def _files(folder: Path, ending: str = "") -> list[Path]:
    """Return the files of a folder; no hidden ones, such as macOS's shadows, and no links that lead nowhere."""
    found = [path for path in folder.iterdir() if path.suffix.lower() == ending or not ending]
    return [path for path in found if not path.name.startswith(".") and path.is_file()]


def _grouped(table: pd.DataFrame, key: str) -> Iterable[tuple[str, list[dict[str, str]]]]:
    """Return the rows of each name, in the order in which names are met: a film has a row for each of its boxes."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in table.to_dict("records"):  # many times faster than pandas' own groups, of which there are thousands
        groups.setdefault(row[key], []).append(row)
    return groups.items()


def _without_image(name: str, file: str) -> Problem:
    return Problem(name, "label without image", f"labelled, but there is no {file}")


def _without_label(paths: Sequence[str], labelled: pd.Series, table: str) -> list[Problem]:
    return [Problem(name, "image without label", f"no row in {table}") for name in sorted(set(paths) - set(labelled))]


def _boxes(name: str, rows: Sequence[Sequence[str]]) -> tuple[tuple[Box, ...], list[Problem]]:
    """Return a film's boxes; none of them where one makes no sense, for a share of the evidence needs them all."""
    kept: list[Box] = []
    for values in dict.fromkeys(rows):  # the same row twice is one box
        try:
            x, y, width, height = (float(value) for value in values)
        except ValueError:
            x = y = width = height = math.nan
        words = ", ".join(values)
        if not (width > 0 and height > 0 and math.isfinite(x + y + width + height)):
            return (), [Problem(name, "box", f"x, y, width, height = {words} is no box; its boxes are not used")]
        if min(width, height) < 1:
            reason = f"x, y, width, height = {words} is less than a pixel wide or high; boxes are given in pixels, "
            return (), [Problem(name, "box", reason + "not as shares of the image; its boxes are not used")]
        kept.append((x, y, x + width, y + height))
    return tuple(kept), []


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a csv as text, so that names keep their zeros and an empty cell is empty."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # empty, binary, torn quotes: pandas has an exception for each
        raise ValueError(f"{path}: cannot be read as a csv ({error}); save it as comma-separated UTF-8") from error
    table.columns = table.columns.str.strip()
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"{path}: column {', '.join(missing)} is missing; its first line must name {','.join(columns)}, "
            "separated by commas"
        )
    table = table.fillna("")  # of a row that is too short
    return table.apply(lambda column: column.str.strip().replace({"nan": "", "NaN": ""}))


def _read_origins(path: Path) -> dict[str, str]:
    """Return the NIH film that each RSNA image was made from."""
    try:
        origins = {one["subset_img_id"]: one["img_id"] for one in json.loads(path.read_text(encoding="utf-8"))}
        if not origins:
            raise TypeError("it is empty")
        if not all(isinstance(name, str) for pair in origins.items() for name in pair):
            raise TypeError("an id is no text")
        return origins
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not the mapping of RSNA images to NIH films ({type(error).__name__}: {error}); fetch it again, "
            "or take it away to go by RSNA's own patient ids"
        ) from error
