"""Folders of raw X-rays and labels -> the processed folder that the other notebooks read.

Recognises the layout (RSNA, CTR, phantom), resizes images and boxes together, splits by patient and measures
mean and standard deviation. Knows files and boxes; no networks.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from heartbox.boxes import EDGES, box_areas, box_from_mask, box_from_xywh, clip_boxes, scale_boxes
from heartbox.files import complete_or_absent
from heartbox.parallel import parallel_map
from heartbox.phantom import write_phantoms
from heartbox.xray import load_xray, read_xray, resize_xray

RSNA_CSV = "rsna_heart_detection.csv"
RSNA_IMAGES = "stage_2_train_images"
RSNA_COLUMNS = ("label", "x0", "y0", "w", "h", "name", "img_shape_x", "img_shape_y")
THORAX_COLUMNS = ("thorax_x0", "thorax_y0", "thorax_w", "thorax_h")
# The published exercise trains on the first 400 rows of its csv and validates on the other 96.
RSNA_PUBLISHED_ROWS, RSNA_PUBLISHED_TRAIN = 496, 400
CTR_SOURCES = ("jsrt", "wingspan")
# Below this range between the 5th and the 95th percentile, out of 1, there is little to see in a film.
LOW_CONTRAST = 0.1
BOX_COLUMNS = [f"{target}_{edge}" for target in ("heart", "thorax") for edge in EDGES]
LABEL_COLUMNS = ["name", "source", "split", *BOX_COLUMNS, "rows", "columns", "pixel_spacing"]


@dataclass(frozen=True)
class Film:
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
    """

    name: str
    source: str
    path: Path
    row: int
    heart: tuple[float, ...] | None = None
    thorax: tuple[float, ...] | None = None
    box_shape: tuple[int, int] | None = None
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """What :func:`prepare` did: labels, statistics, the films it had to leave out, and those with little contrast."""

    folder: Path
    labels: pd.DataFrame
    stats: dict
    skipped: pd.DataFrame
    pale: list[str]

    def summary(self) -> str:
        """Say in one or a few lines what was prepared and what was left out, and why."""
        counts = self.stats["counts"]
        lines = [f"{counts['train']} X-rays to train on, {counts['val']} to validate, {counts['skipped']} skipped"]
        lines += [f"  skipped {row.name}: {row.reason}" for row in self.skipped.head(10).itertuples(index=False)]
        if len(self.skipped) > 10:
            lines.append(f"  ... and {len(self.skipped) - 10} more, all in skipped.csv")
        if counts["low_contrast"]:
            pale = ", ".join(self.pale[:5]) + (", ..." if len(self.pale) > 5 else "")
            lines.append(f"{len(self.pale)} of them have hardly any contrast, and are used all the same: {pale}")
        return "\n".join(lines)


# ---------------------------------------------------------------- where the raw data is


def recognise_layout(folder: str | Path) -> str | None:
    """Tell which layout lies in `folder`: ``"rsna"``, ``"phantom"``, ``"ctr"``, or None if it is none of them."""
    folder = Path(folder)
    if (folder / RSNA_CSV).is_file() and (folder / RSNA_IMAGES).is_dir():
        with (folder / RSNA_CSV).open(encoding="utf-8", errors="replace") as file:
            header = {column.strip() for column in file.readline().split(",")}
        return "phantom" if set(THORAX_COLUMNS) <= header else "rsna"
    if any((folder / source / "png").is_dir() for source in CTR_SOURCES):
        return "ctr"
    return None


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
    named = os.environ.get("CARDIAC_DATA")
    if named:
        folder = Path(named).expanduser()
        layout = recognise_layout(folder)
        if layout is None:
            state = "holds none of the layouts known here" if folder.is_dir() else "does not exist"
            raise FileNotFoundError(
                f"CARDIAC_DATA={named} {state}. Expected there: {RSNA_IMAGES}/*.dcm and {RSNA_CSV}, "
                "or {jsrt,wingspan}/png/*.png with {jsrt,wingspan}/mask/; unset CARDIAC_DATA to use phantoms"
            )
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


def list_films(folder: str | Path) -> tuple[list[Film], list[tuple[str, str]]]:
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


def _list_rsna(folder: Path, layout: str) -> tuple[list[Film], list[tuple[str, str]]]:
    table = _read_table(folder / RSNA_CSV)
    films, problems, seen = [], [], set()
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
            if layout == "phantom":
                thorax = tuple(box_from_xywh([record[key] for key in THORAX_COLUMNS]))
        except ValueError as error:
            problems.append((name, f"{where}: a box is four numbers in a frame of two ({error})"))
            continue
        path = folder / RSNA_IMAGES / f"{name}.dcm"
        if name in seen:
            problems.append((name, "a second row for the same image; the first is used"))
        elif not path.is_file():
            problems.append((name, f"labelled, but there is no {RSNA_IMAGES}/{name}.dcm"))
        elif not box_areas(heart) > 0:
            problems.append((name, f"{where}: the box is empty"))
        # A per cent over the border is rounding; more is a mistake that clipping would hide.
        elif np.abs(clip_boxes(heart, shape) - heart).max() > 0.01 * max(shape):
            problems.append((name, f"{where}: the box reaches outside the image"))
        else:
            films.append(Film(name, layout, path, row, tuple(heart), thorax, shape))
        seen.add(name)
    return films, problems


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:  # empty, binary, torn quotes: pandas has an exception for each
        raise ValueError(
            f"{path}: cannot be read as a csv ({error}); save it again as comma-separated UTF-8"
        ) from error
    table.columns = table.columns.str.strip()
    missing = [column for column in RSNA_COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(
            f"{path}: column {', '.join(missing)} is missing; its first line must be {','.join(RSNA_COLUMNS)}, "
            "with commas between"
        )
    return table


def _list_ctr(folder: Path) -> tuple[list[Film], list[tuple[str, str]]]:
    films, problems = [], []
    for source in CTR_SOURCES:
        for path in sorted((folder / source / "png").glob("*.png")):
            masks = tuple(folder / source / "mask" / part / path.name for part in ("heart", "left_lung", "right_lung"))
            absent = [mask.parent.name for mask in masks if not mask.is_file()]
            if absent:
                problems.append((path.stem, f"no mask of {', '.join(absent)}"))
            else:
                films.append(Film(path.stem, source, path, len(films), masks=masks))
    return films, problems


# ---------------------------------------------------------------- one film


def _read_film(task: tuple[Film, int]) -> tuple[np.ndarray, dict, str] | str:
    """Read one film: (image float16 (size, size), its row of labels.csv, its patient if known), or why it cannot be."""
    film, size = task
    try:
        xray = load_xray(film.path)
        heart, thorax, box_shape = film.heart, film.thorax, film.box_shape
        if film.masks:
            heart, thorax = _boxes_from_masks(film, xray.image.shape)
            box_shape = xray.image.shape
    except ValueError as error:  # an XRayError, or a mask that is empty or of another size
        return str(error).replace(f"{film.path.parent}{os.sep}", "").replace(f"{film.path.parents[1]}{os.sep}", "")
    boxes = clip_boxes(scale_boxes(heart, box_shape, (size, size)), (size, size))
    record = {"name": film.name, "source": film.source}
    record |= dict(zip(BOX_COLUMNS[:4], boxes, strict=True))
    if thorax is not None:
        record |= dict(zip(BOX_COLUMNS[4:], scale_boxes(thorax, box_shape, (size, size)), strict=True))
    small = resize_xray(xray.image, size)
    record["low_contrast"] = bool(np.ptp(np.percentile(small, (5, 95))) < LOW_CONTRAST)
    record["rows"], record["columns"] = xray.image.shape
    record["pixel_spacing"] = "\\".join(f"{mm:g}" for mm in xray.pixel_spacing) if xray.pixel_spacing else None
    return small.astype(np.float16), record, xray.patient_id


def _boxes_from_masks(film: Film, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    masks = []
    for path in film.masks:
        mask = read_xray(path)
        mask = mask > 0.5 * mask.max()  # some masks are written as 0 and 255, others as 0 and 1
        if mask.shape != shape:
            raise ValueError(f"{path.name}: the mask of {path.parent.name} is {mask.shape}, the image {shape}")
        if not mask.any():
            raise ValueError(f"{path.name}: the mask of {path.parent.name} is empty")
        masks.append(mask)
    return box_from_mask(masks[0]), box_from_mask(*masks[1:])


# ---------------------------------------------------------------- the split


def split_by_patient(
    patients: list[str], sources: list[str], seed: int = 0, validation_share: float = 0.2
) -> list[str]:
    """Give every film to ``"train"`` or ``"val"``, a patient's films all to the same side.

    Parameters
    ----------
    patients, sources : list of str
        Patient and collection of each film; each collection is split apart, so that both sides hold all of them.
    seed : int
        Decides which patients validate.
    validation_share : float
        Share of the films that validate, between 0 and 1; met to within one patient's films.

    Returns
    -------
    list of str
        The side of each film, in order.

    Raises
    ------
    ValueError
        If there are fewer than two patients, so that one side would be empty.
    """
    if len(set(patients)) < 2:
        raise ValueError("one patient alone cannot be split into training and validation: add X-rays of others")
    validating: set[str] = set()
    rng = np.random.default_rng(seed)
    for source in sorted(set(sources)):
        films = Counter(patient for patient, origin in zip(patients, sources, strict=True) if origin == source)
        wanted = max(1, round(films.total() * validation_share))
        taken = sum(films[patient] for patient in validating)  # met in an earlier collection already
        for patient in rng.permutation(sorted(films)):
            if taken >= wanted:
                break
            if patient not in validating:
                validating.add(str(patient))
                taken += films[patient]
    if validating >= set(patients):
        validating.remove(sorted(validating)[0])
    return ["val" if patient in validating else "train" for patient in patients]


def _split(films: list[Film], patients: list[str], layout: str, seed: int, share: float) -> tuple[list[str], str]:
    """Return the side of each film ("unused" to leave it out) and the name of the rule that decided."""
    if layout == "rsna" and max(film.row for film in films) >= RSNA_PUBLISHED_TRAIN:
        split = ["train" if film.row < RSNA_PUBLISHED_TRAIN else "val" for film in films]
        validating = {patient for patient, side in zip(patients, split, strict=True) if side == "val"}
        # The published split goes by rows. Should it ever cut through a patient, training gives way.
        pairs = zip(patients, split, strict=True)
        split = ["unused" if side == "train" and patient in validating else side for patient, side in pairs]
        if "train" in split:
            return split, f"published: the first {RSNA_PUBLISHED_TRAIN} rows of the csv train, the rest validate"
    return split_by_patient(patients, [film.source for film in films], seed, share), f"by patient, seed {seed}"


# ---------------------------------------------------------------- all of it


def prepare(
    folder: str | Path,
    out: str | Path,
    size: int = 224,
    seed: int = 0,
    validation_share: float = 0.2,
    limit: int | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Prepared:
    """Turn a raw folder into ``images.npy``, ``labels.csv``, ``stats.json`` and ``skipped.csv``.

    One pass over the films in constant memory: each image is read, resized to ``(size, size)`` with its boxes,
    written away, and only its sum and its sum of squares are kept, from which the statistics of whichever films
    end up in the training split follow.

    Parameters
    ----------
    folder, out : path
        Raw data; where the processed files go.
    size : int
        Side of the square image, in pixels.
    seed, validation_share
        See :func:`split_by_patient`; without effect where the data has a published split.
    limit : int, optional
        Use only that many films, spread evenly over the list: for quick trials.
    processes : int, optional
        How many to run; one for each core by default.
    progress : bool
        Whether to show a bar.

    Returns
    -------
    Prepared
        Labels, statistics and what was skipped, as written.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    ValueError
        If no film can be read, or all are of one patient.
    """
    folder, out = Path(folder), Path(out)
    layout = recognise_layout(folder)
    films, problems = list_films(folder)
    if limit is not None and limit < len(films):
        films = [films[i] for i in np.linspace(0, len(films) - 1, limit).astype(int)]
    records, patients, used, sums, named = [], [], [], [], 0
    tasks = [(film, size) for film in films]
    results = parallel_map(_read_film, tasks, "Reading X-rays", processes=processes, progress=progress)
    # The statistics go first and come last: without them the folder counts as not prepared, so a run that is
    # stopped on the way cannot leave new images beside old labels.
    (out / "stats.json").unlink(missing_ok=True)
    with complete_or_absent(out / "images.npy") as part, part.open("wb") as stream:
        _write_npy_header(stream, 0, size)
        for film, result in zip(films, results, strict=True):
            if isinstance(result, str):
                problems.append((film.name, result))
                continue
            image, record, patient = result
            stream.write(image.tobytes())
            exact = image.astype(np.float64)  # the statistics of what training will see, float16 rounding included
            sums.append((exact.size, exact.sum(), np.square(exact).sum()))
            records.append(record)
            patients.append(patient or film.name)  # where the file names no patient, each film counts as one
            named += bool(patient)
            used.append(film)
        if not used:
            raise ValueError(f"{folder}: not one X-ray could be read; the first reason: {problems[0][1]}")
        stream.seek(0)
        _write_npy_header(stream, len(used), size)
        split, rule = _split(used, patients, layout, seed, validation_share)
        if not named:
            rule = rule.replace("by patient", "by film (no file names its patient)")
    labels = pd.DataFrame(records).reindex(columns=LABEL_COLUMNS)
    labels["split"] = split
    pixels, total, squares = np.array(sums)[labels["split"].to_numpy() == "train"].sum(axis=0)
    mean = total / pixels
    skipped = pd.DataFrame(problems, columns=["name", "reason"])
    counts = {"train": split.count("train"), "val": split.count("val"), "skipped": len(skipped)}
    pale = [record["name"] for record in records if record["low_contrast"]]
    counts["low_contrast"] = len(pale)
    stats = {
        "mean": float(mean),
        "std": float(np.sqrt(max(squares / pixels - mean**2, 0.0))),
        "size": size,
        "layout": layout,
        "seed": seed,
        "split": rule,
        "counts": counts,
    }
    with complete_or_absent(out / "labels.csv") as part:
        labels.to_csv(part, index=False, float_format="%.6f", lineterminator="\n")
    with complete_or_absent(out / "skipped.csv") as part:
        skipped.to_csv(part, index=False, lineterminator="\n")
    with complete_or_absent(out / "stats.json") as part:
        part.write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
    return Prepared(out, labels, stats, skipped, pale)


def _write_npy_header(stream, count: int, size: int) -> None:
    # NumPy leaves room for the first axis to grow, so the header can be written again once the count is known.
    header = {"descr": "<f2", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(stream, header)
