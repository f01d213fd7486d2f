"""Chest films with findings in the forms in which they are published: annotations read and checked, images matched.

Reads ChestX-Det (``ChestX_Det_train.json``: 13 findings, boxes and polygons; Lian 2021), ChestX-Det10
(``train.json``: 10 findings, boxes; Liu 2020) and NIH films with RSNA's opacity boxes. Knows files and boxes; it does
not know networks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from companions.pneumonia.layouts import nih_patient
from heartbox.boxes import box_areas, box_from_xywh
from heartbox.data.layouts import DataSource, find_source
from heartbox.data.splits import TEST, TRAIN
from heartbox.data.tables import ItemError, Problem, read_table
from heartbox.xray.reader import DICOM_ENDINGS, PICTURE_ENDINGS

TEN = (
    "Atelectasis", "Calcification", "Consolidation", "Effusion", "Emphysema", "Fibrosis", "Fracture", "Mass",
    "Nodule", "Pneumothorax",
)  # fmt: skip
THIRTEEN = tuple(sorted((*TEN, "Cardiomegaly", "Diffuse Nodule", "Pleural Thickening")))
KNOWN_FINDINGS = {finding.casefold(): finding for finding in THIRTEEN}
JSONS = {
    "ChestX-Det": {split: f"ChestX_Det_{split}.json" for split in (TRAIN, TEST)},
    "ChestX-Det10": {split: f"{split}.json" for split in (TRAIN, TEST)},
}
SAMPLE_MARK = "sample.json"  # lies beside phantoms, so that nobody mistakes them for patients
NIH_LABELS, NIH_BOXES = "labels.csv", "opacity_boxes_512.csv"
NIH_BOXES_SIZE = (512, 512)  # rows and columns of the frame in which NIH_BOXES gives its boxes
NIH_NORMAL, READER_OPACITY = "no finding", "Lung Opacity"
# The labels of ChestX-ray14 (Wang 2017); a film may have several, separated by "|".
NIH_ABNORMAL = {
    "atelectasis", "cardiomegaly", "consolidation", "edema", "effusion", "emphysema", "fibrosis", "hernia",
    "infiltration", "mass", "nodule", "pleural thickening", "pneumonia", "pneumothorax",
}  # fmt: skip
EXPECTED = (
    "ChestX_Det_train.json and ChestX_Det_test.json, or train.json and test.json (ChestX-Det10), beside folders of "
    "images such as train_data/ and test_data/; or labels.csv, opacity_boxes_512.csv and images/ (NIH films with "
    "RSNA's boxes)"
)


@dataclass(frozen=True)
class AnnotatedXRay:
    """One annotated film in the raw folder.

    Attributes
    ----------
    name : str
        Its file name.
    split : str
        ``"train"`` or ``"test"`` if the data say so, else empty.
    abnormal : bool
        Whether anything was found: a film with an empty list of findings is normal.
    findings : tuple of str or None
        A name for each box; None if nobody drew boxes, which is not the same as no boxes.
    boxes : tuple of tuple
        ``x_min, y_min, x_max, y_max`` in pixels of the original.
    path : Path or None
        The image, once it has been found.
    box_shape : tuple of int or None
        ``(rows, columns)`` of the frame in which the boxes are given; None for the frame of the image itself.
    """

    name: str
    split: str
    abnormal: bool
    findings: tuple[str, ...] | None
    boxes: tuple[tuple[float, ...], ...] = ()
    path: Path | None = None
    box_shape: tuple[int, int] | None = None

    @property
    def patient(self) -> str:
        """The patient: the eight digits that begin NIH's names; any other name counts as a patient of its own."""
        return nih_patient(self.name) or self.name


# ---------------------------------------------------------------- where the data is


def recognise_layout(folder: str | Path) -> str | None:
    """Return the layout of `folder`: ``"ChestX-Det"``, ``"ChestX-Det10"``, ``"sample"``, ``"NIH"``, or None.

    The sample consists of phantoms in the form of ChestX-Det10.
    """
    folder = Path(folder)
    for layout, names in JSONS.items():
        if all((folder / name).is_file() for name in names.values()):
            return "sample" if (folder / SAMPLE_MARK).is_file() else layout
    return "NIH" if all((folder / name).is_file() for name in (NIH_LABELS, NIH_BOXES)) else None


def find_data(default: str | Path, make_sample: Callable[[Path], object]) -> DataSource:
    """Find the raw films, or make the sample; see :func:`companions.pneumonia.layouts.find_data`."""
    return find_source(recognise_layout, EXPECTED, default, make_sample, synthetic=("sample",))


# ---------------------------------------------------------------- annotations


def read_annotations(folder: str | Path) -> tuple[list[AnnotatedXRay], list[Problem]]:
    """Read the annotations of a folder, without opening the images.

    A film with one faulty box or name is left out as a whole: without that box its finding would be taught as
    background.

    Parameters
    ----------
    folder : path
        In one of the layouts of :func:`recognise_layout`.

    Returns
    -------
    tuple of list
        The films, in the order of the files, and what could not be used as it stands.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    ValueError
        If an annotation file cannot be read, or nothing in it can be used.
    """
    folder = Path(folder)
    layout = recognise_layout(folder)
    if layout is None:
        raise FileNotFoundError(f"{folder}: has none of the layouts known here. Expected: {EXPECTED}")
    if layout == "NIH":
        films, problems = _read_nih(folder)
    else:
        films, problems = _read_jsons(folder, JSONS.get(layout, JSONS["ChestX-Det10"]))
    if not films:
        first = f"; the first reason: {problems[0]}" if problems else ""
        raise ValueError(f"{folder}: no annotation can be used{first}")
    return films, problems


def _read_jsons(folder: Path, names: dict[str, str]) -> tuple[list[AnnotatedXRay], list[Problem]]:
    films, problems, seen, doubtful = [], [], {}, set()
    for split in (TEST, TRAIN):  # a film in both splits stays in the one that is reported
        entries = _load_json(folder / names[split])
        if not entries and split == TEST:
            reason = "an empty list, so the data bring no test films; a part of the training films is used instead"
            problems.append(Problem(names[split], "no label", reason))
        for k, entry in enumerate(entries):
            where = f"{names[split]}, entry {k + 1}"
            try:
                film = _check_entry(entry, split)
            except ItemError as error:
                name = entry.get("file_name") if isinstance(entry, dict) else None
                problems.append(Problem(str(name or where), error.kind, f"{where}: {error}"))
                continue
            if film.name in seen:
                first, first_where = seen[film.name]
                reason = f"{where}: a second entry, the first is in {first_where}"
                if (film.findings, film.boxes) == (first.findings, first.boxes):
                    problems.append(Problem(film.name, "duplicate", f"{reason}; the first one is used"))
                else:  # nobody can tell which is right
                    problems.append(Problem(film.name, "contradiction", f"{reason}, with other findings"))
                    doubtful.add(film.name)
                continue
            seen[film.name] = film, where
            films.append(film)
    films = [film for film in films if film.name not in doubtful]
    return sorted(films, key=lambda film: film.split == TEST), problems


def _load_json(path: Path) -> list:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path}: cannot be read as JSON ({error}); download it again") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of entries with file_name, syms and boxes; download it again")
    return entries


def _check_entry(entry: object, split: str) -> AnnotatedXRay:
    """Turn one entry of a JSON file into a film, or raise ItemError."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or not entry["file_name"].strip():
        raise ItemError("label", "no file_name")
    name = entry["file_name"].strip()
    if re.split(r"[\\/]", name) != [name] or name in (".", ".."):
        raise ItemError("label", "the file_name is not a plain name")
    for key in ("syms", "boxes"):
        if not isinstance(entry.get(key), list):
            raise ItemError("label", f"no list of {key}; a normal film has an empty list, not none")
    syms, boxes, polygons = entry["syms"], entry["boxes"], entry.get("polygons")
    counts = [len(syms), len(boxes)] + ([len(polygons)] if isinstance(polygons, list) else [])
    if len(set(counts)) > 1:
        words = ", ".join(f"{n} {what}" for n, what in zip(counts, ("syms", "boxes", "polygons"), strict=False))
        raise ItemError("label", f"lists of different lengths: {words}")
    findings = []
    for sym in syms:
        finding = KNOWN_FINDINGS.get(" ".join(str(sym).replace("_", " ").split()).casefold())
        if finding is None:
            raise ItemError("label", f"unknown finding {sym!r}; known are {', '.join(THIRTEEN)}")
        findings.append(finding)
    # A box that is given twice under the same name is one box.
    pairs = dict.fromkeys((finding, _check_box(box)) for finding, box in zip(findings, boxes, strict=True))
    findings, boxes = tuple(finding for finding, _ in pairs), tuple(box for _, box in pairs)
    return AnnotatedXRay(name, split, bool(findings), findings, boxes)


def _check_box(box: object) -> tuple[float, ...]:
    try:
        array = np.asarray(box, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.empty(0)
    if array.shape != (4,) or not np.isfinite(array).all():
        raise ItemError("box", f"a box is four numbers x_min, y_min, x_max, y_max, not {box!r}")
    if not box_areas(array) > 0 or (array[2:] <= array[:2]).any():
        raise ItemError("box", f"the box {box} is empty (expected x_min < x_max and y_min < y_max)")
    if (array[2:] - array[:2]).min() < 1:
        raise ItemError("box", f"the box {box} is less than a pixel wide or high (use pixels, not fractions)")
    return tuple(array.tolist())


def _read_nih(folder: Path) -> tuple[list[AnnotatedXRay], list[Problem]]:
    """Read NIH films: abnormal by NIH's label or by a box; with boxes only if RSNA's readers saw the film."""
    texts = ("file", "nih_label", "rsna_class")
    labels = read_table(folder / NIH_LABELS, texts, text=texts)
    boxes = read_table(folder / NIH_BOXES, ("file", "x", "y", "width", "height"), text=("file",))
    drawn = {name: rows[["x", "y", "width", "height"]] for name, rows in boxes.groupby("file")}
    problems = [
        Problem(name, "box", f"has boxes in {NIH_BOXES}, but no row in {NIH_LABELS}")
        for name in sorted(set(drawn) - set(labels["file"]))
    ]
    differing = labels.groupby("file")[["nih_label", "rsna_class"]].nunique().max(axis=1) > 1
    films, seen = [], set()
    for row in labels.to_dict("records"):
        name = row["file"]
        try:
            if not name:
                raise ItemError("label", "a row does not name a file")
            if name in seen and not differing[name]:
                raise ItemError("duplicate", f"a second row in {NIH_LABELS}; the first one is used")
            if name not in seen:
                if differing[name]:
                    raise ItemError("contradiction", f"several rows in {NIH_LABELS} say different things")
                films.append(_check_nih_row(row, drawn.get(name)))
                if films[-1].boxes and row["nih_label"] == NIH_NORMAL:
                    # A radiologist looked for RSNA; NIH's labels were mined from reports.
                    reason = f"{len(films[-1].boxes)} boxes, but the nih_label is {NIH_NORMAL!r}; taken as abnormal"
                    problems.append(Problem(name, "contradiction", reason))
        except ItemError as error:
            problems.append(Problem(name or NIH_LABELS, error.kind, str(error)))
        seen.add(name)
    return films, problems


def _check_nih_row(row: dict[str, str], drawn: pd.DataFrame | None) -> AnnotatedXRay:
    """Turn one row of NIH's labels, with the boxes drawn in its film, into a film, or raise ItemError."""
    label, reader_class = row["nih_label"], row["rsna_class"]
    names = {" ".join(part.replace("_", " ").split()).casefold() for part in label.split("|")}
    if not label:
        raise ItemError("label", f"no nih_label; a normal film is labelled {NIH_NORMAL!r}")
    if names != {NIH_NORMAL} and not names <= NIH_ABNORMAL:
        raise ItemError("label", f"the nih_label {label!r} is neither {NIH_NORMAL!r} nor one of NIH's")
    count = 0 if drawn is None else len(drawn)
    if (count > 0) != (reader_class == READER_OPACITY):
        raise ItemError("contradiction", f"{count} boxes, but the RSNA class is {reader_class or 'empty'}")
    try:
        corners = box_from_xywh(drawn.to_numpy()).tolist() if count else []
    except (ValueError, TypeError) as error:
        raise ItemError("box", f"a box is four numbers x, y, width, height ({error})") from error
    boxes = tuple(dict.fromkeys(_check_box(box) for box in corners))
    findings = ("Opacity",) * len(boxes) if reader_class else None
    abnormal = names != {NIH_NORMAL} or bool(boxes)
    return AnnotatedXRay(row["file"], "", abnormal, findings, boxes, box_shape=NIH_BOXES_SIZE)


# ---------------------------------------------------------------- images


def match_images(
    folder: str | Path, films: Sequence[AnnotatedXRay], refused: Sequence[Problem] = ()
) -> tuple[list[AnnotatedXRay], list[Problem]]:
    """Find each film's image anywhere under `folder`, and name films and images without a partner.

    If a name occurs twice, the image in a folder named after the film's split is taken. Images whose annotation was
    refused already (`refused`) are not reported a second time.
    """
    available: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() not in PICTURE_ENDINGS + DICOM_ENDINGS:
            continue
        # "._x.png" is macOS's shadow of x.png; a link may be dangling.
        if not path.name.startswith("._") and path.is_file():
            available.setdefault(path.name, []).append(path)
    matched, problems = [], []
    for film in films:
        paths = available.pop(film.name, [])
        if not paths:
            problems.append(Problem(film.name, "no image", "annotated, but there is no such image"))
            continue
        same_split = [path for path in paths if film.split and film.split in path.relative_to(folder).parts[0]]
        matched.append(replace(film, path=(same_split or paths)[0]))
    for name in sorted(set(available) - {problem.name for problem in refused}):
        problems.append(Problem(name, "no label", "an image without annotation: it may be normal or abnormal"))
    return matched, problems
