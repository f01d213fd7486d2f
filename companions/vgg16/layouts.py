"""A folder of ``.npy`` images with a csv of heart boxes: recognised, and its labelled images listed.

A label or image that cannot be used becomes a problem with its reason. Opens no image. Knows files, tables and boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from heartbox.boxes import EDGES, as_boxes, box_from_xywh
from heartbox.data import layouts
from heartbox.data.tables import ItemError, Problem, read_table
from heartbox.xray.image import MAX_PIXELS

CORNERS = EDGES
SIZES = ("x0", "y0", "w", "h")  # as the published exercise writes its boxes
FRAME = ("img_shape_x", "img_shape_y")  # width and height of the image in which the boxes were drawn
PATIENT = ("patient", "patientid", "patient_id")
NPY = (
    "images as .npy files, optionally in train/ and val/, and beside them one csv with the columns "
    f"name,{','.join(CORNERS)} (or name,{','.join(SIZES)})"
)
EXPECTED = f"{NPY}; or the X-rays of notebook 01: {layouts.EXPECTED}"
LARGEST_MISMATCH = 1.0  # pixels by which a box given both as corners and as a size may contradict itself


@dataclass(frozen=True)
class NpyImage:
    """One labelled image as it lies in the folder.

    Attributes
    ----------
    name, patient : str
        File name without its extension; whose image it is (the name again if the csv has no patient column).
    path : Path
        The ``.npy`` file.
    box : tuple of float
        Heart box in pixels of `frame`.
    frame : tuple of int or None
        ``(rows, columns)`` of the image in which the box was drawn; None for the image itself.
    """

    name: str
    patient: str
    path: Path
    box: tuple[float, ...]
    frame: tuple[int, int] | None = None


def recognise_layout(folder: str | Path) -> str | None:
    """Return the layout of a folder: ``"npy"``, one of notebook 01's, or None.

    Any csv beside ``.npy`` images counts as ``"npy"``, so that :func:`list_images` can say what is wrong with it.
    """
    folder = Path(folder)
    if any(folder.glob("*.csv")) and _image_paths(folder):
        return "npy"
    return layouts.recognise_layout(folder)


def list_images(folder: str | Path) -> tuple[list[NpyImage], list[Problem]]:
    """List the labelled images of a folder, in the order of its csv.

    Returns
    -------
    tuple of list
        The images; and a problem for each label or image that cannot be used.

    Raises
    ------
    FileNotFoundError
        If there are no images or no csv of boxes.
    ValueError
        If there is more than one such csv, or it cannot be read.
    """
    folder = Path(folder)
    csv, paths = _find_csv(folder), _image_paths(folder)
    if not paths:
        raise FileNotFoundError(f"{folder}: there is no .npy image here. Expected: {NPY}")
    known = (*CORNERS, *SIZES, *FRAME, *PATIENT, "label")
    table = read_table(csv, ["name"], text=["name", *known])
    numbers = [column for column in (*CORNERS, *SIZES, *FRAME) if column in table]
    names = table["name"].map(_stem)
    contradictory = table[numbers].groupby(names).nunique().max(axis=1) > 1
    paths_by_name: dict[str, list[Path]] = {}
    for path in paths:
        paths_by_name.setdefault(path.stem, []).append(path)
    images, problems, seen = [], [], set()
    for row, (name, record) in enumerate(zip(names, table.to_dict("records"), strict=True)):
        where = f"row {row + 2} of {csv.name}"
        try:
            if not name:
                raise ItemError("label", f"{where} names no image")
            if name in seen:
                if contradictory[name]:
                    continue  # reported at the first of its rows
                raise ItemError("duplicate", f"{where} repeats an earlier row; the first is used")
            seen.add(name)
            if contradictory[name]:
                raise ItemError("contradiction", f"{where} is one of several for this image, and their boxes differ")
            path = _only_path(paths_by_name.get(name, []), folder, where)
            box, frame = _read_box(record, where)
        except ItemError as error:
            problems.append(error.problem(name or where))
            continue
        patient = next((record[key] for key in PATIENT if record.get(key)), name)
        images.append(NpyImage(name, patient, path, box, frame))
    unlabelled = (path.stem for path in paths if path.stem not in seen)
    problems += [Problem(name, "no label", f"{csv.name} has no row for this image") for name in unlabelled]
    return images, problems


# ---------------------------------------------------------------- files


def _find_csv(folder: Path) -> Path:
    """Return the only csv file of a folder whose header names the columns of a box."""
    headers = {path: _first_line(path) for path in sorted(folder.glob("*.csv"))}
    fitting = []
    for path, header in headers.items():
        columns = {column.strip().strip('"').lower() for column in header.split(",")}
        if "name" in columns and (columns.issuperset(CORNERS) or columns.issuperset(SIZES)):
            fitting.append(path)
    if not fitting:
        begins = "; ".join(f"{path.name} begins with {header[:80]!r}" for path, header in [*headers.items()][:3])
        raise FileNotFoundError(
            f"{folder}: there is no csv of boxes here{f' ({begins})' if begins else ''}. Expected: {NPY}, separated by "
            "commas"
        )
    if len(fitting) > 1:
        names = ", ".join(path.name for path in fitting)
        raise ValueError(f"{folder}: {names} all hold boxes; keep the right one and move the others away")
    return fitting[0]


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.readline(1000).strip()
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"


def _image_paths(folder: Path) -> list[Path]:
    """Return the ``.npy`` files of a folder and of its subfolders, three levels deep."""
    found = (path for depth in range(4) for path in folder.glob("*/" * depth + "*.npy"))
    # "._x.npy" is the companion that macOS writes beside x.npy; a link may lead nowhere.
    return sorted(path for path in found if not path.name.startswith("._") and path.is_file())


def _stem(written: str) -> str:
    """Return the file name, without folder and extension, of an image as a csv writes it."""
    return PurePosixPath(written.strip().replace("\\", "/")).name.removesuffix(".npy")


def _only_path(candidates: list[Path], folder: Path, where: str) -> Path:
    if not candidates:
        raise ItemError("no image", f"{where} has no image in the folder")
    if len(candidates) > 1:
        several = ", ".join(path.relative_to(folder).as_posix() for path in candidates)
        raise ItemError("duplicate", f"several images have this name: {several}; rename one")
    return candidates[0]


# ---------------------------------------------------------------- one row of the csv


def _read_box(record: dict[str, str], where: str) -> tuple[tuple[float, ...], tuple[int, int] | None]:
    """Return the box and its frame from a row of the csv; whether the box lies in its image is checked later.

    Raises
    ------
    ItemError
        If the row is not about a heart, a number is missing or impossible, or corners and size contradict each other.
    """
    if record.get("label", "heart").lower() != "heart":
        raise ItemError("label", f"{where} is labelled {record['label']!r}, not 'heart'")
    try:
        boxes = [
            make([float(record[column] or "nan") for column in columns])
            for columns, make in ((CORNERS, as_boxes), (SIZES, box_from_xywh))
            if any(record.get(column) for column in columns)
        ]
        width, height = (float(record.get(column, "1") or "nan") for column in FRAME)
        frame = (int(height), int(width)) if record.keys() >= set(FRAME) else None
    except (ValueError, OverflowError) as error:
        raise ItemError("box", f"{where}: a value is not a number ({error})") from error
    if not boxes or not np.abs(boxes).max() < MAX_PIXELS:
        raise ItemError("box", f"{where}: an edge is missing, not finite or larger than any image")
    if frame and not 1 <= min(frame) <= max(frame) < MAX_PIXELS:
        raise ItemError("frame", f"{where}: the frame {width:g} x {height:g} is not the size of an image")
    if np.abs(boxes[-1] - boxes[0]).max() > LARGEST_MISMATCH:
        words = describe(boxes[0])
        raise ItemError("contradiction", f"{where}: corners ({words}) and size say different things; keep one of them")
    return tuple(boxes[0]), frame


def describe(box: tuple[float, ...]) -> str:
    """Return a box in words: each edge with its name."""
    return ", ".join(f"{edge} {value:g}" for edge, value in zip(EDGES, box, strict=True))
