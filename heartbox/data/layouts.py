"""Raw folders of X-rays: which layout lies in one, and which labelled films it holds.

Recognises the layout (RSNA, CTR, phantom) and lists its films without opening their images. Knows files and boxes;
no processed folder, no networks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from heartbox.boxes import box_areas, box_from_xywh, clip_boxes
from heartbox.data.tables import read_table
from heartbox.phantom import write_phantoms
from heartbox.xray.header import PHANTOM_MANUFACTURER

RSNA_CSV = "rsna_heart_detection.csv"
RSNA_IMAGES = "stage_2_train_images"
RSNA_COLUMNS = ("label", "x0", "y0", "w", "h", "name", "img_shape_x", "img_shape_y")
THORAX_COLUMNS = ("thorax_x0", "thorax_y0", "thorax_w", "thorax_h")
CTR_SOURCES = ("jsrt", "wingspan")
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


def _is_synthetic(images: Path) -> bool:
    """Tell whether the first image says that it is a phantom: the csv of real films may have chest boxes too."""
    first = next((path for path in sorted(images.glob("*.dcm"))), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return PHANTOM_MANUFACTURER.encode() in file.read(4096)


def look_for_data(
    recognise: Callable[[Path], str | None], expected: str, default: Path | None = None
) -> tuple[Path, str] | None:
    """Return the folder of data and its layout: that which ``CARDIAC_DATA`` names, else `default`; None for neither.

    Parameters
    ----------
    recognise : callable
        Tells the layout of a folder, or None.
    expected : str
        What must lie there, for the error.
    default : Path, optional
        Where to look without ``CARDIAC_DATA``; it need not be there.

    Raises
    ------
    FileNotFoundError
        If the folder that is named is not there, or one of the two holds something else, such as the data one folder
        deeper: a wrong path must not quietly turn into phantoms.
    """
    named = os.environ.get("CARDIAC_DATA")
    folder = Path(named).expanduser() if named else default
    if folder is None:
        return None
    layout = recognise(folder)
    if layout is not None:
        return folder, layout
    if not named and not (folder.is_dir() and any(folder.iterdir())):
        return None
    state = "holds none of the layouts known here" if folder.is_dir() else "does not exist"
    where = f"CARDIAC_DATA={named}" if named else f"data/{folder.name}"
    way_out = "unset CARDIAC_DATA" if named else "move it away"
    raise FileNotFoundError(f"{where} {state}. Expected there: {expected}; {way_out} to use phantoms")


def find_data(default: str | Path = "data", count: int = 300, seed: int = 0) -> tuple[Path, str]:
    """Find the raw data, and make the embedded sample of phantoms where there is none.

    Looks at the folder that the environment variable ``CARDIAC_DATA`` names; where that is unset, at `default`
    and the folders in it, real X-rays before phantoms.

    Parameters
    ----------
    default : path
        Where to look without ``CARDIAC_DATA``; phantoms are made in ``default/phantom``.
    count, seed : int
        How many phantoms to make, and which.

    Returns
    -------
    tuple of Path and str
        The folder, and one line that says what it is.

    Raises
    ------
    FileNotFoundError
        If ``CARDIAC_DATA`` names a folder that is not there or has none of the layouts: a wrong path must not
        quietly turn into phantoms.
    """
    named = look_for_data(recognise_layout, EXPECTED)
    if named:
        folder, layout = named
        return folder, f"Data: the {layout.upper()} layout in the folder that CARDIAC_DATA names."
    default = Path(default)
    inside = sorted(path for path in default.glob("*") if path.is_dir()) if default.is_dir() else []
    for folder in [default, *inside]:
        layout = recognise_layout(folder)
        if layout in ("rsna", "ctr"):
            return folder, f"Data: the {layout.upper()} layout in {folder.as_posix()}/."
    folder = default / "phantom"
    verb = "are used, from" if (folder / RSNA_CSV).is_file() else "were made in"
    write_phantoms(folder, count=count, seed=seed)
    return folder, f"Data: no X-rays in {default.as_posix()}/, so {count} synthetic ones {verb} {folder.as_posix()}/."


# ---------------------------------------------------------------- what lies in it


def list_films(folder: str | Path) -> tuple[list[LabelledXRay], list[tuple[str, str]]]:
    """List the labelled X-rays of a raw folder.

    Returns
    -------
    tuple of list
        The films, in the order of the csv or of their names; and ``(name, reason)`` for each label or image
        that cannot be used.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    ValueError
        If the csv lacks a column, or nothing usable is left.
    """
    folder = Path(folder)
    layout = recognise_layout(folder)
    if layout is None:
        raise FileNotFoundError(f"{folder}: none of the layouts RSNA, CTR or phantom lies here")
    films, problems = _list_ctr(folder) if layout == "ctr" else _list_rsna(folder, layout)
    if not films:
        first = f"; the first reason: {problems[0][0]}: {problems[0][1]}" if problems else ""
        raise ValueError(f"{folder}: no labelled X-ray can be used{first}")
    return films, problems


def _list_rsna(folder: Path, layout: str) -> tuple[list[LabelledXRay], list[tuple[str, str]]]:
    table = read_table(folder / RSNA_CSV, RSNA_COLUMNS)
    films, problems, seen, doubtful = [], [], {}, set()
    for row, record in enumerate(table.to_dict("records")):
        name = str(record["name"]).strip().removesuffix(".dcm")
        where = f"row {row + 2} of the csv"
        if str(record["label"]).strip().lower() != "heart":
            problems.append((name, f"{where}: the label is {record['label']!r}, not 'heart'"))
            continue
        try:
            shape = (int(record["img_shape_y"]), int(record["img_shape_x"]))
            heart = box_from_xywh([record[key] for key in ("x0", "y0", "w", "h")])
            thorax = None
            if set(THORAX_COLUMNS) <= record.keys():
                thorax = tuple(box_from_xywh([record[key] for key in THORAX_COLUMNS]))
        except (ValueError, OverflowError) as error:  # OverflowError: an infinite number
            problems.append((name, f"{where}: a box is four numbers in a frame of two ({error})"))
            continue
        path = folder / RSNA_IMAGES / f"{name}.dcm"
        truth = (*heart, *(thorax or ()), *shape)
        if name in seen and np.allclose(seen[name], truth, equal_nan=True):
            problems.append((name, "a second row for the same image; the first is used"))
        elif name in seen:
            problems.append((name, f"{where}: a second row for the same image, with another box; none is used"))
            doubtful.add(name)
        elif not path.is_file():
            problems.append((name, f"labelled, but there is no {RSNA_IMAGES}/{name}.dcm"))
        elif not box_areas(heart) > 0:
            problems.append((name, f"{where}: the box is empty"))
        elif (heart[2:] - heart[:2]).min() < 1:
            problems.append((name, f"{where}: the box is less than a pixel wide or high; pixels are wanted, no shares"))
        # A per cent over the border is rounding; more is a mistake that clipping would hide.
        elif np.abs(clip_boxes(heart, shape) - heart).max() > 0.01 * max(shape):
            problems.append((name, f"{where}: the box reaches outside the image"))
        else:
            films.append(LabelledXRay(name, layout, path, row, tuple(heart), thorax, shape))
        seen.setdefault(name, truth)
    return [film for film in films if film.name not in doubtful], problems


def _list_ctr(folder: Path) -> tuple[list[LabelledXRay], list[tuple[str, str]]]:
    films, problems = [], []
    excluded = pd.read_csv(CTR_EXCLUDED, dtype=str).set_index(["source", "name"])["reason"].to_dict()
    for source in CTR_SOURCES:
        for path in sorted((folder / source / "png").glob("*.png")):
            masks = tuple(folder / source / "mask" / part / path.name for part in ("heart", "left_lung", "right_lung"))
            absent = [mask.parent.name for mask in masks if not mask.is_file()]
            if absent:
                problems.append((path.stem, f"no mask of {', '.join(absent)}"))
            else:
                reason = excluded.get((source, path.stem), "")
                films.append(LabelledXRay(path.stem, source, path, len(films), masks=masks, excluded=reason))
    return films, problems
