"""The processed folder: its files, their checks, and how they are written.

Notebook 01 writes one, the others read it. Knows arrays, tables and files; it does not know where the films come from.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heartbox.boxes import EDGES, outline_from_mask
from heartbox.data.splits import TRAIN, UNUSED, VAL
from heartbox.data.tables import Problem, read_table, write_problems
from heartbox.utils.atomic import complete_or_absent
from heartbox.xray.borders import Window

BOX_COLUMNS = [f"{target}_{edge}" for target in ("heart", "thorax") for edge in EDGES]
LABEL_COLUMNS = ["name", "source", "split", *BOX_COLUMNS, "rows", "columns", "pixel_spacing"]
ARRAYS = {"images.npy": (3, np.float16), "outlines.npy": (4, np.float32), "masks.npy": (4, np.uint8)}
WAY_OUT = "run 01-Preprocessing.ipynb again"


class ProcessedError(ValueError):
    """A file of a processed folder that is damaged; the message names the file, the fault and the way out."""


# ---------------------------------------------------------------- what is in it


@dataclass(frozen=True)
class Statistics:
    """What ``stats.json`` says about a processed folder.

    Attributes
    ----------
    mean, std : float
        Of all pixels of the training images, which lie in [0, 1].
    size : int
        Side of the images, in pixels.
    layout : str
        Layout of the raw data.
    seed : int
        Seed of the split.
    split : str
        The rule that decided the split.
    contrast : str or None
        :data:`heartbox.xray.contrast.NORMALIZED_CONTRAST` where the contrast was normalised, else None.
    counts : dict of str to int
        Numbers of films: train, val, skipped, low_contrast.
    cropped : dict of str to list of int
        For each film that had a plain border, the part of its file that the image shows: ``top, bottom, left,
        right`` in pixels of the file. A film that is not named here is shown whole.

    Raises
    ------
    ValueError
        If a number is not finite or out of range.
    """

    mean: float
    std: float
    size: int
    layout: str
    seed: int = 0
    contrast: str | None = None
    split: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    cropped: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}, not a finite number")
        if not 0 <= self.mean <= 1:
            raise ValueError(f"mean is {self.mean:g}; the images lie between 0 and 1")
        if not 0 < self.std <= 1:
            raise ValueError(f"std is {self.std:g}; it must be above 0 (are all images of one grey?) and at most 1")
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 1 <= self.size <= 2**14:
            raise ValueError(f"size is {self.size!r}, not a number of pixels")
        if not all(
            isinstance(value, kind) for value, kind in ((self.layout, str), (self.counts, dict), (self.cropped, dict))
        ):
            raise ValueError("layout must be a name, and counts and cropped tables of numbers")

    @classmethod
    def load(cls, folder: str | Path) -> Statistics:
        """Read the ``stats.json`` of a folder.

        Raises
        ------
        FileNotFoundError
            If the folder has not been prepared.
        ProcessedError
            If the file is damaged, or one of its values cannot be right.
        """
        path = Path(folder) / "stats.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no prepared X-rays: run 01-Preprocessing.ipynb first")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {one.name for one in fields(cls)}
            return cls(**{name: value for name, value in values.items() if name in known})
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise ProcessedError(f"{path}: damaged ({error}); {WAY_OUT}") from error

    def save(self, folder: str | Path) -> None:
        """Write ``stats.json`` into a folder."""
        with complete_or_absent(Path(folder) / "stats.json") as part:
            part.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")

    def as_dict(self) -> dict:
        """Return the values as the file holds them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def load_labels(folder: str | Path) -> pd.DataFrame:
    """Read the ``labels.csv`` of a processed folder, and check that it has a row for each image.

    Raises
    ------
    ProcessedError
        If it is damaged, lacks a column, or belongs to other images.
    """
    folder = Path(folder)
    try:
        table = read_table(folder / "labels.csv", LABEL_COLUMNS, text=("name", "source", "split", "pixel_spacing"))
        for column in BOX_COLUMNS:
            table[column] = table[column].astype(np.float64)
    except ValueError as error:
        path = folder / "labels.csv"
        raise ProcessedError(f"{path}: damaged ({str(error).replace(f'{path}: ', '')}); {WAY_OUT}") from error
    map_array(folder, "images.npy", len(table))
    return table


def map_array(folder: str | Path, name: str, count: int) -> NDArray:
    """Map an array of a processed folder without reading it into memory.

    Parameters
    ----------
    folder : path
        The processed folder.
    name : str
        ``"images.npy"``, float16 (N, size, size); ``"outlines.npy"``, float32 (N, targets, points, 2); or
        ``"masks.npy"``, uint8 (N, targets, size / 2, size / 2).
    count : int
        N, the number of rows in ``labels.csv``.

    Raises
    ------
    ProcessedError
        If it is missing, cut off, another kind of array, or belongs to other labels.
    """
    path, (dimensions, dtype) = Path(folder) / name, ARRAYS[name]
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim != dimensions or array.dtype != dtype:
            raise ValueError(f"it holds {array.dtype} of shape {array.shape}")
    except (ValueError, OSError, EOFError, AttributeError) as error:  # AttributeError: an archive of several arrays
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ProcessedError(f"{path}: damaged ({reason}); {WAY_OUT}") from error
    if len(array) != count:
        raise ProcessedError(f"{path}: {len(array)} {path.stem} but {count} labels; {WAY_OUT}")
    return array


@dataclass(frozen=True)
class Prepared:
    """A processed folder as it was just written.

    Attributes
    ----------
    folder : Path
        Where it is.
    labels : DataFrame
        ``labels.csv``.
    stats : Statistics
        ``stats.json``.
    skipped : DataFrame
        ``skipped.csv``: ``name, kind, reason`` of each film that could not be used.
    low_contrast : list of str
        Names of films that show hardly anything but are used all the same.
    """

    folder: Path
    labels: pd.DataFrame
    stats: Statistics
    skipped: pd.DataFrame
    low_contrast: list[str]

    def summary(self) -> str:
        """Say in one or a few lines what was prepared and what was left out, and why."""
        counts = self.stats.counts
        lines = [f"{counts[TRAIN]} X-rays to train on, {counts[VAL]} to validate, {counts['skipped']} skipped"]
        lines += [f"  skipped {row.name}: {row.reason}" for row in self.skipped.head(10).itertuples(index=False)]
        if len(self.skipped) > 10:
            lines.append(f"  ... and {len(self.skipped) - 10} more, all in skipped.csv")
        if unused := self.labels["split"].eq(UNUSED).sum():
            lines.append(
                f"  {unused} are excluded from both splits: known wrong labels, patients of the other split, or films "
                "outside the folders of the splits"
            )
        if cropped := len(self.stats.cropped):
            lines.append(f"{cropped} of them had a plain border, which was cropped")
        if self.low_contrast:
            names = ", ".join(self.low_contrast[:5]) + (", ..." if len(self.low_contrast) > 5 else "")
            lines.append(f"{len(self.low_contrast)} of them have very low contrast and are used all the same: {names}")
        return "\n".join(lines)


# ---------------------------------------------------------------- how it is written


@dataclass(frozen=True)
class ProcessedXRay:
    """One film on its way into a processed folder.

    Attributes
    ----------
    image : ndarray of float16, shape (size, size)
        In [0, 1], bone bright.
    record : dict
        Its row of ``labels.csv``, without the split.
    patient : str
        Whose film it is; only a number is written in its place.
    outlines, coverage : ndarray or None
        From :func:`outlines_and_coverage`, where there are masks.
    low_contrast : bool
        Whether hardly anything can be seen in it, see :func:`heartbox.xray.contrast.has_low_contrast`.
    cropped : Window or None
        Which part of its file it shows, where a plain border was cropped.
    """

    image: np.ndarray
    record: dict
    patient: str
    outlines: np.ndarray | None = None
    coverage: np.ndarray | None = None
    low_contrast: bool = False
    cropped: Window | None = None


def outlines_and_coverage(organs: Sequence[Sequence[np.ndarray]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Reduce the masks of an image to what training needs.

    Parameters
    ----------
    organs : sequence
        For each target, heart and thorax, its mask or masks, bool (rows, columns).
    size : int
        Side of the prepared image.

    Returns
    -------
    outlines : ndarray of float32, shape (targets, 64, 2)
        See :func:`heartbox.boxes.outline_from_mask`, in pixels of the prepared image.
    coverage : ndarray of uint8, shape (targets, size / 2, size / 2)
        How much of each block of 2 x 2 pixels the organ covers; 255 is all of it.
    """
    rows, columns = organs[0][0].shape
    outlines = [outline_from_mask(*parts) * (size / columns, size / rows) for parts in organs]
    together = [np.logical_or.reduce(parts).astype(np.float32) for parts in organs]
    coverage = [cv2.resize(mask, (size // 2, size // 2), interpolation=cv2.INTER_AREA) for mask in together]
    return np.float32(outlines), np.round(np.array(coverage) * 255).astype(np.uint8)


def write_processed(
    out: str | Path,
    films: Iterable[ProcessedXRay],
    choose_split: Callable[[], tuple[Sequence[str], str]],
    size: int,
    layout: str,
    seed: int = 0,
    contrast: str | None = None,
    problems: Sequence[Problem] = (),
) -> Prepared:
    """Write a processed folder in one pass and in constant memory.

    Of each image only the sum and the sum of squares are kept; they are enough for the statistics of whichever films
    end up in the training split.

    Parameters
    ----------
    out : path
        The folder.
    films : iterable of ProcessedXRay
        In the order in which they are to be written; either all have masks or none.
    choose_split : callable
        Called when `films` is exhausted; returns the split of each film and the name of the rule.
    size : int
        Side of the images.
    layout, seed, contrast
        See :class:`Statistics`.
    problems : sequence of Problem
        Films that were left out, for ``skipped.csv``; may grow until `films` is exhausted.

    Raises
    ------
    ValueError
        If there is no film at all, none to train on, or all pixels have the same value.
    """
    out = Path(out)
    # The statistics go first and come last: without them the folder counts as not prepared, so a run that is
    # stopped on the way cannot leave new images beside old labels.
    (out / "stats.json").unlink(missing_ok=True)
    with complete_or_absent(out / "images.npy") as part:
        kept, sums = _write_images(part, films, size)
        if not kept:
            reason = f"; the first reason: {problems[0].reason}" if problems else ""
            raise ValueError(f"not one X-ray could be read{reason}")
        labels = pd.DataFrame([film.record for film in kept]).reindex(columns=LABEL_COLUMNS)
        labels["split"], rule = choose_split()
        stats = _statistics(labels, sums, Statistics(0.5, 0.5, size, layout, seed, contrast, rule))
    low_contrast = [film.record["name"] for film in kept if film.low_contrast]
    cropped = {film.record["name"]: list(film.cropped) for film in kept if film.cropped}
    counts = stats.counts | {"skipped": len(problems), "low_contrast": len(low_contrast)}
    stats = replace(stats, counts=counts, cropped=cropped)
    for name, arrays in (
        ("outlines.npy", [film.outlines for film in kept]),
        ("masks.npy", [film.coverage for film in kept]),
    ):
        (out / name).unlink(missing_ok=True)  # of an earlier run on other data
        if all(array is not None for array in arrays):
            with complete_or_absent(out / name) as part, part.open("wb") as stream:
                np.save(stream, np.stack(arrays))
    _write_labels(out, labels)
    numbers = pd.factorize(pd.Series([film.patient for film in kept]))[0]  # no id of a person leaves the raw folder
    with complete_or_absent(out / "patients.csv") as part:
        pd.DataFrame({"name": labels["name"], "patient": numbers}).to_csv(part, index=False, lineterminator="\n")
    skipped = write_problems(out / "skipped.csv", problems)
    stats.save(out)
    return Prepared(out, labels, stats, skipped, low_contrast)


def films_of(folder: str | Path) -> Iterator[ProcessedXRay]:
    """Yield the films of a processed folder as they were written, to write them again with others."""
    folder, labels = Path(folder), load_labels(folder).drop(columns="split")
    present = [name for name in ARRAYS if (folder / name).is_file()]
    arrays = {name: map_array(folder, name, len(labels)) for name in present}
    patients, cropped = (
        read_table(folder / "patients.csv", ("name", "patient"))["patient"],
        Statistics.load(folder).cropped,
    )
    for i, record in enumerate(labels.to_dict("records")):
        outlines, coverage = (arrays[name][i] if name in arrays else None for name in ("outlines.npy", "masks.npy"))
        window = Window(*cropped[record["name"]]) if record["name"] in cropped else None
        image = np.asarray(arrays["images.npy"][i])
        yield ProcessedXRay(image, record, str(patients[i]), outlines, coverage, cropped=window)


def write_split(processed: str | Path, out: str | Path, split: Sequence[str], rule: str = "given") -> Path:
    """Make a processed folder from another, with another split and the statistics of its training films.

    Parameters
    ----------
    processed, out : path
        The existing folder and the one to make; they share the arrays where the disk allows it.
    split : sequence of str
        Split of each film, in the order of ``labels.csv``.
    rule : str
        What decided it, for ``stats.json``.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ValueError
        If no film is left to train on, or the two folders are the same.
    """
    processed, out = Path(processed), Path(out)
    if out.resolve() == processed.resolve():
        raise ValueError(f"{out}: another split needs a folder of its own; choose another name")
    before, labels = Statistics.load(processed), load_labels(processed)
    images = map_array(processed, "images.npy", len(labels))
    labels["split"] = list(split)
    sums = [_sums(images[i]) if name == TRAIN else (0, 0.0, 0.0) for i, name in enumerate(labels["split"])]
    try:
        stats = _statistics(labels, sums, replace(before, split=rule))
    except ValueError as error:
        raise ValueError(f"{out}: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    (out / "stats.json").unlink(missing_ok=True)  # first and last, as in write_processed
    for name in ("images.npy", "outlines.npy", "masks.npy", "patients.csv"):
        _share(processed / name, out / name)
    _write_labels(out, labels)
    stats.save(out)
    return out


def _write_images(path: Path, films: Iterable[ProcessedXRay], size: int) -> tuple[list[ProcessedXRay], list[tuple]]:
    """Append each image to a file; return the films without their images, and the sums of their pixels."""
    kept, sums = [], []
    nothing = np.empty(0, dtype=np.float16)
    with path.open("wb") as stream:
        write_npy_header(stream, 0, size)
        for film in films:
            stream.write(film.image.tobytes())
            sums.append(_sums(film.image))
            kept.append(replace(film, image=nothing))
        stream.seek(0)
        write_npy_header(stream, len(kept), size)
    return kept, sums


def _write_labels(out: Path, labels: pd.DataFrame) -> None:
    with complete_or_absent(out / "labels.csv") as part:
        labels.to_csv(part, index=False, float_format="%.6f", lineterminator="\n")


def _share(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, by a link where the disk has links; absent where that is absent."""
    if not source.is_file():
        target.unlink(missing_ok=True)
    elif not (target.is_file() and target.samefile(source)):
        with complete_or_absent(target) as part:
            try:
                os.link(source, part)
            except OSError:  # another disk, or a file system without hard links
                shutil.copyfile(source, part)


def _sums(image: np.ndarray) -> tuple[int, float, float]:
    """Return number, sum and sum of squares of the pixels that training will see: float16 rounding included."""
    exact = image.astype(np.float64)
    return exact.size, float(exact.sum()), float(np.square(exact).sum())


def _statistics(labels: pd.DataFrame, sums: Sequence[tuple[int, float, float]], about: Statistics) -> Statistics:
    """Return `about` with mean, standard deviation and counts of this split."""
    training = np.flatnonzero(labels["split"] == TRAIN)
    if not len(training):
        raise ValueError("no film is left to train on")
    pixels, total, squares = np.sum([sums[i] for i in training], axis=0)
    mean = total / pixels
    std = np.sqrt(max(squares / pixels - mean**2, 0.0))
    counts = {name: int((labels["split"] == name).sum()) for name in (TRAIN, VAL)}
    return replace(about, mean=float(mean), std=float(std), counts=about.counts | counts)


def write_npy_header(stream, count: int, size: int) -> None:
    """Write the header of an ``images.npy`` of `count` float16 images at the stream's position."""
    # NumPy leaves room for the first axis to grow, so the header can be written again once the count is known.
    header = {"descr": "<f2", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(stream, header)
