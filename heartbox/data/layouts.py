"""Raw folders of X-rays: which layout a folder has, and which labelled films it holds.

Recognises the layout (RSNA, CTR, phantom) and lists its films without decoding their images. Knows files and boxes;
no processed folder, no networks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from heartbox.boxes import box_areas, box_from_xywh, clip_boxes
from heartbox.data.tables import Problem, read_table
from heartbox.phantom import write_phantoms
from heartbox.xray.header import PHANTOM_MANUFACTURER
from heartbox.xray.reader import stated_shape

RSNA_CSV = "rsna_heart_detection.csv"
RSNA_IMAGES = "stage_2_train_images"
RSNA_COLUMNS = ("label", "x0", "y0", "w", "h", "name", "img_shape_x", "img_shape_y")
THORAX_COLUMNS = ("thorax_x0", "thorax_y0", "thorax_w", "thorax_h")
CTR_SOURCES = ("jsrt", "wingspan")
CTR_MASKS = ("heart", "left_lung", "right_lung")
MOST_STRETCHED = 0.02  # by how much the proportions of a box's frame may differ from the image's, by rounding
MOST_OUTSIDE = 0.01  # of the image's longer side: how far a box may reach over the border by rounding
EXPECTED = f"{RSNA_IMAGES}/*.dcm and {RSNA_CSV}, or {{jsrt,wingspan}}/png/*.png with {{jsrt,wingspan}}/mask/"
# Films of the public CTR set whose masks are wrong, found by out-of-fold disagreement and looked at one by one.
CTR_EXCLUDED = Path(__file__).with_name("ctr_excluded.csv")


@dataclass(frozen=True)
class LabelledXRay:
    """One labelled X-ray as it lies in the raw folder.

    Attributes
    ----------
    name, source : str
        File name without its ending; which collection it is from.
    path : Path
        The image file.
    heart, thorax : tuple of float or None
        Boxes in a frame of `box_shape` ``(rows, columns)``; None where the masks say it, or nothing does.
    masks : tuple of Path
        Heart, left lung and right lung, where boxes come from masks.
    row : int
        Row in the csv, which the published split goes by.
    excluded : str
        Why its label must not be learnt from or measured against; empty where it may.
    """

    name: str
    source: str
    path: Path
    row: int
    heart: tuple[float, ...] | None = None
    thorax: tuple[float, ...] | None = None
    box_shape: tuple[int, int] | None = None
    masks: tuple[Path, ...] = ()
    excluded: str = ""


@dataclass(frozen=True)
class DataSource:
    """Where raw data was found, and whether it is real.

    Attributes
    ----------
    folder : Path
        The raw folder.
    layout : str
        What lies there.
    is_synthetic : bool
        Whether the data are computed: no result on them holds for patients.
    message : str
        One line that says so, for the notebook.
    """

    folder: Path
    layout: str
    is_synthetic: bool
    message: str


# ---------------------------------------------------------------- where the raw data is


def recognise_layout(folder: str | Path) -> str | None:
    """Tell which layout lies in `folder`: ``"rsna"``, ``"phantom"``, ``"ctr"``, or None if it is none of them."""
    folder = Path(folder)
    if (folder / RSNA_CSV).is_file() and (folder / RSNA_IMAGES).is_dir():
        with (folder / RSNA_CSV).open(encoding="utf-8", errors="replace") as file:
            header = {column.strip() for column in file.readline().split(",")}
        return "phantom" if set(THORAX_COLUMNS) <= header and _is_synthetic(folder / RSNA_IMAGES) else "rsna"
    if any((folder / source / "png").is_dir() for source in CTR_SOURCES):
        return "ctr"
    return None


def _missing_half(folder: Path) -> str:
    """Say which half of a layout is missing in `folder`; empty where none is, or all of it."""
    halves = [(RSNA_CSV, f"{RSNA_IMAGES}/"), *((f"{source}/png/", f"{source}/mask/") for source in CTR_SOURCES)]
    for one, other in halves:
        there = [name for name in (one, other) if (folder / name).exists()]
        if len(there) == 1:
            return f"{there[0]} is there, {one if there == [other] else other} is not"
    return ""


def _is_synthetic(images: Path) -> bool:
    """Tell whether the first image says that it is a phantom: the csv of real films may have chest boxes too."""
    first = next((path for path in sorted(images.glob("*.dcm"))), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return PHANTOM_MANUFACTURER.encode() in file.read(4096)


def find_source(
    recognise: Callable[[Path], str | None],
    expected: str,
    default: str | Path,
    make_sample: Callable[[Path], object],
    sample: str | Path | None = None,
    what: str = "synthetic X-rays",
    synthetic: Collection[str] = (),
) -> DataSource:
    """Find the raw data: in the folder that ``CARDIAC_DATA`` names, else in `default`, else make the sample.

    Parameters
    ----------
    recognise : callable
        Returns the layout of a folder, or None.
    expected : str
        What must lie in such a folder, for the error.
    default : path
        Where to look without ``CARDIAC_DATA``; it need not exist.
    make_sample : callable
        Makes the embedded sample in the folder it is given, or keeps the one that is there.
    sample : path, optional
        The folder of the sample; by default `default` with ``-sample`` at its end.
    what : str
        What the sample holds, for the message: ``"300 synthetic X-rays"``.
    synthetic : collection of str
        Layouts that are synthetic wherever they lie.

    Raises
    ------
    FileNotFoundError
        If the folder that is named does not exist, or if it or `default` holds something else, such as the data one
        folder deeper: a wrong path must not silently turn into synthetic data.
    """
    default = Path(default)
    folder = default.with_name(f"{default.name}-sample") if sample is None else Path(sample)
    found = _named_source(recognise, expected, synthetic) or _default_source(recognise, expected, default, synthetic)
    return found or _sample_source(recognise, default, folder, make_sample, what)


def find_data(default: str | Path = "data", count: int = 300, seed: int = 0) -> DataSource:
    """Find the raw X-rays of the notebooks, and make the embedded sample of phantoms where there are none.

    Looks in the folder that the environment variable ``CARDIAC_DATA`` names; where that is unset, in `default`
    and the folders in it, which need not hold any X-rays.

    Parameters
    ----------
    default : path
        Where to look without ``CARDIAC_DATA``; phantoms are made in ``default/phantom``.
    count, seed : int
        How many phantoms to make, and which.

    Raises
    ------
    FileNotFoundError
        If ``CARDIAC_DATA`` names a folder that does not exist or has none of the layouts, or if `default` holds half
        of one, such as the csv without the images: neither must silently turn into phantoms.
    """
    source, default = _named_source(recognise_layout, EXPECTED, ("phantom",)), Path(default)
    if source is not None:
        return source
    inside = sorted(path for path in default.glob("*") if path.is_dir()) if default.is_dir() else []
    for folder in [default, *inside]:
        layout = recognise_layout(folder)
        if layout in ("rsna", "ctr"):
            return DataSource(folder, layout, False, f"Data: {_shown(folder)} (layout: {layout}).")
    sample = default / "phantom"
    for folder in [default, *inside]:
        if folder != sample and (half := _missing_half(folder)):
            raise FileNotFoundError(
                f"{_shown(folder)} holds half of a data set: {half}. Add it, or move the rest away for synthetic data"
            )

    def make_sample(folder: Path) -> None:
        write_phantoms(folder, count=count, seed=seed)

    return _sample_source(recognise_layout, default, sample, make_sample, f"{count} synthetic X-rays")


def _named_source(
    recognise: Callable[[Path], str | None], expected: str, synthetic: Collection[str]
) -> DataSource | None:
    """Return the data in the folder that ``CARDIAC_DATA`` names; None where it names none."""
    named = os.environ.get("CARDIAC_DATA")
    if not named:
        return None
    folder = Path(named).expanduser()
    layout = recognise(folder)
    if layout is None:
        state = "does not exist"
        if folder.exists():
            state = "holds none of the layouts known here" if folder.is_dir() else "is a file, not a folder"
            if half := _missing_half(folder):
                state += f" ({half})"
        raise FileNotFoundError(
            f"CARDIAC_DATA={named} {state}. Expected there: {expected}; unset CARDIAC_DATA to use synthetic data"
        )
    message = f"Data: the folder that CARDIAC_DATA names (layout: {layout})."  # its path is the user's own affair
    return DataSource(folder, layout, layout in synthetic, message)


def _default_source(
    recognise: Callable[[Path], str | None], expected: str, default: Path, synthetic: Collection[str]
) -> DataSource | None:
    """Return the data in `default`; None where that folder is missing or empty."""
    if not (default.is_dir() and any(default.iterdir())):
        return None
    layout = recognise(default)
    if layout is None:
        raise FileNotFoundError(
            f"{_shown(default)} holds none of the layouts known here. Expected there: {expected}; move it away to use "
            "synthetic data"
        )
    return DataSource(default, layout, layout in synthetic, f"Data: {_shown(default)} (layout: {layout}).")


def _sample_source(
    recognise: Callable[[Path], str | None],
    default: Path,
    folder: Path,
    make_sample: Callable[[Path], object],
    what: str,
) -> DataSource:
    make_sample(folder)
    message = f"Data: nothing was found in {_shown(default)}, so {what} are used, from {_shown(folder)}."
    return DataSource(folder, recognise(folder) or "sample", True, message)


def _shown(folder: Path) -> str:
    """Return a folder's path as a notebook may print it: without the folders of this machine above the project."""
    parts = folder.parts[-2:] if folder.is_absolute() else folder.parts
    return "/".join(parts)


# ---------------------------------------------------------------- what lies in it


def list_xrays(folder: str | Path) -> tuple[list[LabelledXRay], list[Problem]]:
    """List the labelled X-rays of a raw folder, without decoding their images.

    Headers are read only where boxes were drawn in an oblong frame, which must have the film's proportions.

    Returns
    -------
    tuple of list
        The X-rays, in the order of the csv or of their names; and the labels and images that cannot be used.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    TableError
        If the csv cannot be read or lacks a column.
    ValueError
        If nothing usable is left.
    """
    folder = Path(folder)
    layout = recognise_layout(folder)
    if layout is None:
        half = f" ({half})" if (half := _missing_half(folder)) else ""
        raise FileNotFoundError(
            f"{folder}: holds none of the layouts RSNA, CTR or phantom{half}. Expected there: {EXPECTED}"
        )
    films, problems = _list_ctr(folder) if layout == "ctr" else _list_rsna(folder, layout)
    if not films:
        first = f"; the first reason: {problems[0]}" if problems else ""
        raise ValueError(f"{folder}: no labelled X-ray can be used{first}")
    return films, problems


def _list_rsna(folder: Path, layout: str) -> tuple[list[LabelledXRay], list[Problem]]:
    # Names may be all digits: they are text all the same, with their zeros.
    table = read_table(folder / RSNA_CSV, RSNA_COLUMNS, text=("name", "label"))
    films, problems, seen, doubtful = [], [], {}, set()
    for row, record in enumerate(table.to_dict("records")):
        name = record["name"].removesuffix(".dcm")
        where = f"row {row + 2} of the csv"
        if not name:
            problems.append(Problem(where, "label", "the row names no image"))
            continue
        if record["label"].lower() != "heart":
            problems.append(Problem(name, "label", f"{where}: the label is {record['label']!r}, not 'heart'"))
            continue
        try:
            shape, heart, thorax = _boxes_of_row(record)
        except (ValueError, OverflowError) as error:  # OverflowError: an infinite number
            reason = f"{where}: a box is four numbers in a frame of two ({error})"
            problems.append(Problem(name, "box", reason))
            continue
        path = folder / RSNA_IMAGES / f"{name}.dcm"
        truth = (*heart, *(thorax or ()), *shape)
        fault = fault_of_box(heart, shape)
        if name in seen and np.allclose(seen[name], truth, equal_nan=True):
            problems.append(Problem(name, "duplicate", "a second row for the same image; the first is used"))
        elif name in seen:
            reason = f"{where}: a second row for the same image, with another box; neither is used"
            problems.append(Problem(name, "duplicate", reason))
            doubtful.add(name)
        elif not path.is_file():
            problems.append(Problem(name, "no image", f"labelled, but there is no {RSNA_IMAGES}/{name}.dcm"))
        elif fault:
            problems.append(Problem(name, "box", f"{where}: {fault}"))
        elif fault := _fault_of_film(path, shape):
            problems.append(Problem(name, "frame", f"{where}: {fault}"))
        else:
            films.append(LabelledXRay(name, layout, path, row, tuple(heart), thorax, shape))
        seen.setdefault(name, truth)
    return [film for film in films if film.name not in doubtful], problems


def _boxes_of_row(record: dict) -> tuple[tuple[int, int], np.ndarray, tuple[float, ...] | None]:
    """Return a row's frame ``(rows, columns)``, its heart box and, where there is one, its thorax box."""
    shape = (int(record["img_shape_y"]), int(record["img_shape_x"]))
    heart = box_from_xywh([record[key] for key in ("x0", "y0", "w", "h")])
    thorax = None
    if set(THORAX_COLUMNS) <= record.keys():
        thorax = tuple(box_from_xywh([record[key] for key in THORAX_COLUMNS]))
    return shape, heart, thorax


def fault_of_box(box: ArrayLike, shape: tuple[int, int]) -> str:
    """Say what is wrong with a labelled box in a frame of `shape` ``(rows, columns)``; empty where nothing is."""
    box = np.asarray(box, dtype=np.float64)
    if not np.isfinite(box).all() or not box_areas(box) > 0:
        return "the box is empty"
    if (box[2:] - box[:2]).min() < 1:
        return "the box is less than a pixel wide or high; give it in pixels, not in fractions of the image"
    if np.abs(clip_boxes(box, shape) - box).max() > MOST_OUTSIDE * max(shape):
        return "the box reaches outside the image"
    return ""


def fault_of_frame(frame: tuple[int, int], shape: tuple[int, int]) -> str:
    """Say why boxes drawn in a frame cannot be those of an image; both are ``(rows, columns)``; empty where they can.

    A square frame fits every image: the published boxes were drawn on films squeezed into one. Any other frame must
    have the image's proportions; where width and height are swapped, the boxes would lie elsewhere.
    """
    if min(frame) < 1:
        return f"the frame of its box is {frame[1]} x {frame[0]} pixels (width x height)"
    rows, columns = frame
    if rows == columns or _is_as_oblong(rows / columns, shape):
        return ""
    return (
        f"its box was drawn in a frame of {columns} x {rows} pixels (width x height), but the image has "
        f"{shape[1]} x {shape[0]}; "
        + ("are img_shape_x and img_shape_y swapped?" if _is_as_oblong(columns / rows, shape) else "is it another one?")
    )


def _is_as_oblong(height_per_width: float, shape: tuple[int, int]) -> bool:
    return abs(height_per_width * shape[1] / shape[0] - 1) <= MOST_STRETCHED


def _fault_of_film(path: Path, frame: tuple[int, int]) -> str:
    """Say why boxes drawn in an oblong frame cannot be those of a film, by its header; a square one fits every film."""
    shape = None if frame[0] == frame[1] else stated_shape(path)
    return fault_of_frame(frame, shape) if shape else ""


def _list_ctr(folder: Path) -> tuple[list[LabelledXRay], list[Problem]]:
    films, problems = [], []
    columns = ("source", "name", "reason")
    excluded = read_table(CTR_EXCLUDED, columns, text=columns).set_index(["source", "name"])["reason"].to_dict()
    for source in CTR_SOURCES:
        for path in sorted((folder / source / "png").glob("*.png")):
            masks = tuple(folder / source / "mask" / part / path.name for part in CTR_MASKS)
            absent = [mask.parent.name for mask in masks if not mask.is_file()]
            if absent:
                problems.append(Problem(path.stem, "mask", f"no mask of {', '.join(absent)}"))
            else:
                reason = excluded.get((source, path.stem), "")
                films.append(LabelledXRay(path.stem, source, path, len(films), masks=masks, excluded=reason))
    return films, problems
