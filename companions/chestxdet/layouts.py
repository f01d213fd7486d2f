"""Films with findings, in the forms they are published in: annotations and images read and checked.

Reads ChestX-Det (``ChestX_Det_train.json``: 13 findings, boxes and polygons), ChestX-Det10 (``train.json``: 10
findings, boxes) and NIH films with RSNA's opacity boxes. Knows files and boxes; no networks. Source of the form:
Liu 2020 (ChestX-Det10) and Lian 2021 (ChestX-Det).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from companions.pneumonia.layouts import nih_patient
from heartbox.boxes import box_areas, box_from_xywh, clip_boxes, scale_boxes
from heartbox.data.layouts import look_for_data
from heartbox.xray.contrast import normalize_contrast, shows_nothing
from heartbox.xray.errors import XRayError
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import DICOM_ENDINGS, PICTURE_ENDINGS, read_xray

TEN = (
    "Atelectasis", "Calcification", "Consolidation", "Effusion", "Emphysema", "Fibrosis", "Fracture", "Mass",
    "Nodule", "Pneumothorax",
)  # fmt: skip
THIRTEEN = tuple(sorted((*TEN, "Cardiomegaly", "Diffuse Nodule", "Pleural Thickening")))
JSONS = {
    "ChestX-Det": {side: f"ChestX_Det_{side}.json" for side in ("train", "test")},
    "ChestX-Det10": {side: f"{side}.json" for side in ("train", "test")},
}
NIH_FILES = ("labels.csv", "opacity_boxes_512.csv")
NIH_BOXES_SIZE = (512, 512)
NIH_NORMAL = "no finding"
# The labels of ChestX-ray14 (Wang 2017); one film may have several, with "|" between them.
NIH_ILL = {
    "atelectasis", "cardiomegaly", "consolidation", "edema", "effusion", "emphysema", "fibrosis", "hernia",
    "infiltration", "mass", "nodule", "pleural thickening", "pneumonia", "pneumothorax",
}  # fmt: skip
EXPECTED = (
    "ChestX_Det_train.json and ChestX_Det_test.json, or train.json and test.json (ChestX-Det10), beside folders of "
    "images such as train_data/ and test_data/; or labels.csv, opacity_boxes_512.csv and images/ (NIH films with "
    "RSNA's boxes)"
)


# ---------------------------------------------------------------- where the data is


def recognise_layout(folder: str | Path) -> str | None:
    """Tell what lies in `folder`: ``"ChestX-Det"``, ``"ChestX-Det10"``, ``"NIH"``, or None if it is none of them."""
    folder = Path(folder)
    for layout, names in JSONS.items():
        if all((folder / name).is_file() for name in names.values()):
            return layout
    return "NIH" if all((folder / name).is_file() for name in NIH_FILES) else None


def find_data(root: str | Path, topic: str = "chestxdet") -> tuple[Path, bool]:
    """Find the data: the folder that ``CARDIAC_DATA`` names, else ``root/data/topic``.

    Returns
    -------
    tuple of Path and bool
        The folder and True; or, where there are no data, the folder for the sample and False.

    Raises
    ------
    FileNotFoundError
        See :func:`heartbox.data.layouts.look_for_data`.
    """
    folder = Path(root) / "data" / topic
    found = look_for_data(recognise_layout, EXPECTED, folder)
    return (found[0], True) if found else (folder.with_name(f"{topic}-sample"), False)


# ---------------------------------------------------------------- annotations


@dataclass(frozen=True)
class AnnotatedXRay:
    """One annotated film as it lies in the raw folder.

    Attributes
    ----------
    name : str
        Its file name.
    split : str
        ``"train"`` or ``"test"`` where the data say so, else empty.
    ill : bool
        Whether anything was found: an empty list of findings is a normal film.
    findings : tuple of str or None
        Names, one a box; None where nobody drew boxes, which is not the same as none.
    boxes : tuple of tuple
        ``x_min, y_min, x_max, y_max`` in pixels of the original.
    path : Path or None
        The image, once it was found.
    box_shape : tuple of int or None
        ``(rows, columns)`` of the frame that the boxes are given in; None for the image's own.
    """

    name: str
    split: str
    ill: bool
    findings: tuple[str, ...] | None
    boxes: tuple[tuple[float, ...], ...] = ()
    path: Path | None = None
    box_shape: tuple[int, int] | None = None

    @property
    def patient(self) -> str:
        """Who it is of: NIH's names begin with the patient's eight digits; else each film counts as one."""
        return nih_patient(self.name) or self.name


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with one file: what, and what was done about it."""

    file: str
    fault: str
    consequence: str = "left out"


def summarise(problems: pd.DataFrame | Sequence[Problem], examples: int = 2) -> pd.DataFrame:
    """Count problems by kind, with the names of a few, so that many of one kind stay readable."""
    table = pd.DataFrame(problems, columns=["file", "fault", "consequence"])
    # The kind is the fault without the place and the values in it.
    kind = table["fault"].str.replace(r"^\S+\.json, entry \d+: ", "", regex=True)
    kind = kind.str.replace(r"\[[^\]]*\]|'[^']*'|\b\d[\d.]*\b", "...", regex=True).str.slice(0, 90)
    groups = table.assign(kind=kind).groupby(["kind", "consequence"], sort=False)["file"]
    return groups.agg(count="size", examples=lambda names: ", ".join(names[:examples])).reset_index()


def read_annotations(folder: str | Path) -> tuple[list[AnnotatedXRay], list[Problem]]:
    """Read the annotations of a folder, without looking at the images.

    A film with one faulty box or name is left out whole: without that box its finding would be taught as background.

    Parameters
    ----------
    folder : path
        In one of the layouts of :func:`recognise_layout`.

    Returns
    -------
    tuple of list
        The films, in the order of the files, and what could not be used.

    Raises
    ------
    FileNotFoundError
        If none of the layouts lies there.
    ValueError
        If an annotation file cannot be read, or nothing usable is in it.
    """
    folder = Path(folder)
    layout = recognise_layout(folder)
    if layout is None:
        raise FileNotFoundError(f"{folder}: none of the layouts lies here. Expected: {EXPECTED}")
    films, problems = _read_nih(folder) if layout == "NIH" else _read_jsons(folder, JSONS[layout])
    if not films:
        first = f"; the first reason: {problems[0].file}: {problems[0].fault}" if problems else ""
        raise ValueError(f"{folder}: no annotation can be used{first}")
    return films, problems


def _read_jsons(folder: Path, names: dict[str, str]) -> tuple[list[AnnotatedXRay], list[Problem]]:
    films, problems, seen, doubtful = [], [], {}, set()
    for split in ("test", "train"):  # a film on both sides stays where it is reported
        entries = _load_json(folder / names[split])
        if not entries and split == "test":
            fault = "an empty list, so the data bring no test side"
            problems.append(Problem(names[split], fault, "films of the training side test instead"))
        for k, entry in enumerate(entries):
            where = f"{names[split]}, entry {k + 1}"
            try:
                film = _check_entry(entry, split)
            except ValueError as error:
                name = entry.get("file_name") if isinstance(entry, dict) else None
                problems.append(Problem(str(name or where), f"{where}: {error}"))
                continue
            if film.name in seen:
                first, at = seen[film.name]
                fault = f"{where}: a second entry, the first is in {at}"
                if (film.findings, film.boxes) == (first.findings, first.boxes):
                    problems.append(Problem(film.name, fault, "the first one is used"))
                else:  # which is right, nobody can tell
                    problems.append(Problem(film.name, f"{fault}, with other findings"))
                    doubtful.add(film.name)
                continue
            seen[film.name] = film, where
            films.append(film)
    films = [film for film in films if film.name not in doubtful]
    return sorted(films, key=lambda film: film.split == "test"), problems


def _load_json(path: Path) -> list:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path}: cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: a list of entries is expected, with file_name, syms and boxes; fetch it again")
    return entries


def _check_entry(entry: object, split: str) -> AnnotatedXRay:
    """Turn one entry of a JSON into a film, or say what is wrong with it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or not entry["file_name"].strip():
        raise ValueError("no file_name")
    name = entry["file_name"].strip()
    if re.split(r"[\\/]", name) != [name] or name in (".", ".."):
        raise ValueError("the file_name is not a plain name")
    for key in ("syms", "boxes"):
        if not isinstance(entry.get(key), list):
            raise ValueError(f"no list of {key}; a normal film is one with an empty list, not without one")
    syms, boxes, polygons = entry["syms"], entry["boxes"], entry.get("polygons")
    counts = [len(syms), len(boxes)] + ([len(polygons)] if isinstance(polygons, list) else [])
    if len(set(counts)) > 1:
        words = ", ".join(f"{n} {what}" for n, what in zip(counts, ("syms", "boxes", "polygons"), strict=False))
        raise ValueError(f"lists of different lengths: {words}")
    known = {finding.casefold(): finding for finding in THIRTEEN}
    findings = []
    for sym in syms:
        finding = known.get(" ".join(str(sym).replace("_", " ").split()).casefold())
        if finding is None:
            raise ValueError(f"unknown finding {sym!r}; known are {', '.join(THIRTEEN)}")
        findings.append(finding)
    # The same box twice, under the same name, is one.
    found = dict.fromkeys((finding, _check_box(box)) for finding, box in zip(findings, boxes, strict=True))
    findings, boxes = tuple(finding for finding, _ in found), tuple(box for _, box in found)
    return AnnotatedXRay(name, split, bool(findings), findings, boxes)


def _check_box(box: object) -> tuple[float, ...]:
    try:
        array = np.asarray(box, dtype=np.float64)
    except (ValueError, TypeError):
        array = np.empty(0)
    if array.shape != (4,) or not np.isfinite(array).all():
        raise ValueError(f"a box is four numbers x_min, y_min, x_max, y_max, not {box!r}")
    if not box_areas(array) > 0 or (array[2:] <= array[:2]).any():
        raise ValueError(f"the box {box} has no size (x_min < x_max and y_min < y_max are expected)")
    if (array[2:] - array[:2]).min() < 1:
        raise ValueError(f"the box {box} is less than a pixel wide or high (pixels are expected, no shares)")
    return tuple(array.tolist())


def _read_nih(folder: Path) -> tuple[list[AnnotatedXRay], list[Problem]]:
    """Read NIH films: ill by NIH's label or by a box; boxes only where RSNA's readers looked."""
    labels, boxes = (_load_csv(folder / name) for name in NIH_FILES)
    for table, name, wanted in ((labels, NIH_FILES[0], ("file", "nih_label", "rsna_class")),
                                (boxes, NIH_FILES[1], ("file", "x", "y", "width", "height"))):  # fmt: skip
        if missing := [column for column in wanted if column not in table]:
            raise ValueError(
                f"{folder / name}: column {', '.join(missing)} is missing; columns are separated by commas"
            )
    drawn = {name: rows for name, rows in boxes.groupby("file")}
    problems = [Problem(str(name), "boxes, but no row in labels.csv") for name in sorted(set(drawn) - set(labels.file))]
    said = labels.groupby("file")[["nih_label", "rsna_class"]].nunique(dropna=False).max(axis=1)
    films, seen = [], set()
    for row in labels.to_dict("records"):
        name, opacity, looked_at = row["file"], drawn.get(row["file"]), isinstance(row["rsna_class"], str)
        label = row["nih_label"]
        names = {" ".join(one.replace("_", " ").split()).casefold() for one in str(label).split("|")}
        if not isinstance(name, str):
            problems.append(Problem("labels.csv", "a row without a file name"))
        elif said[name] > 1:
            if name not in seen:
                problems.append(Problem(name, "several rows in labels.csv that say different things"))
        elif name in seen:
            problems.append(Problem(name, "a second row in labels.csv", "the first one is used"))
        elif not isinstance(label, str):
            problems.append(Problem(name, "no nih_label; a normal film is labelled 'no finding'"))
        elif names != {NIH_NORMAL} and not names <= NIH_ILL:
            problems.append(Problem(name, f"the nih_label {label!r} is neither {NIH_NORMAL!r} nor one of NIH's"))
        elif (opacity is not None) != (row["rsna_class"] == "Lung Opacity"):
            problems.append(Problem(name, f"{0 if opacity is None else len(opacity)} boxes, but the RSNA class is "
                                    f"{row['rsna_class'] if looked_at else 'empty'}"))  # fmt: skip
        else:
            try:
                found = [] if opacity is None else box_from_xywh(opacity[["x", "y", "width", "height"]].to_numpy())
                found = tuple(dict.fromkeys(_check_box(box.tolist()) for box in found))
            except ValueError as error:
                problems.append(Problem(name, str(error)))
            else:
                findings = ("Opacity",) * len(found) if looked_at else None
                ill = names != {NIH_NORMAL}
                if found and not ill:  # a radiologist looked for RSNA; NIH's labels were mined from reports
                    fault = f"{len(found)} boxes, but the nih_label is {label!r}"
                    problems.append(Problem(name, fault, "taken for ill, with its boxes"))
                films.append(AnnotatedXRay(name, "", ill or bool(found), findings, found, box_shape=NIH_BOXES_SIZE))
        seen.add(name)
    return films, problems


def _load_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"file": str})
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a csv ({error}); fetch it again") from error


# ---------------------------------------------------------------- images


def match_images(
    folder: str | Path, films: Sequence[AnnotatedXRay], refused: Sequence[Problem] = ()
) -> tuple[list[AnnotatedXRay], list[Problem]]:
    """Find each film's image anywhere under `folder`, and name what has no partner on either side.

    Where a name is there twice, the one in a folder that is named after the film's split is taken. Images whose
    annotation was refused already are not reported a second time.
    """
    there: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() not in PICTURE_ENDINGS + DICOM_ENDINGS:
            continue
        # "._x.png" is macOS's shadow of x.png; a link may lead nowhere.
        if not path.name.startswith("._") and path.is_file():
            there.setdefault(path.name, []).append(path)
    matched, problems = [], []
    for film in films:
        paths = there.pop(film.name, [])
        if not paths:
            problems.append(Problem(film.name, "annotated, but there is no such image"))
            continue
        ours = [path for path in paths if film.split and film.split in path.relative_to(folder).parts[0]]
        matched.append(replace(film, path=(ours or paths)[0]))
    for name in sorted(set(there) - {problem.file for problem in refused}):
        problems.append(Problem(name, "an image without annotation: neither normal nor ill is known"))
    return matched, problems


def read_film(job: tuple[AnnotatedXRay, int, bool]) -> tuple[NDArray, NDArray] | str:
    """Read one film for :func:`heartbox.utils.parallel.parallel_map`.

    Parameters
    ----------
    job : tuple of AnnotatedXRay, int and bool
        The film, the side of the image wanted, and whether to even its contrast.

    Returns
    -------
    tuple of ndarray, or str
        Its image, uint8 (size, size), and its boxes (n, 4) in pixels of that; or what is wrong with the film.
    """
    film, size, even = job
    try:
        image = read_xray(film.path)
    except XRayError as error:
        return str(error).replace(f"{film.path}: ", "")
    if fault := shows_nothing(image):
        return f"{fault}. Fetch it again."
    boxes = np.reshape(np.array(film.boxes, dtype=np.float64), (-1, 4))
    frame = film.box_shape or image.shape
    # A per cent over the border is rounding; more is a mistake that clipping would hide.
    outside = np.abs(clip_boxes(boxes, frame) - boxes).max(axis=1, initial=0.0) > 0.01 * max(frame)
    if outside.any():
        return f"the box {boxes[outside.argmax()].tolist()} reaches outside the image of {frame[1]} x {frame[0]}"
    boxes = scale_boxes(clip_boxes(boxes, frame), frame, (size, size))
    small = resize_xray(image, size)
    return np.rint((normalize_contrast(small) if even else small) * 255).astype(np.uint8), boxes
