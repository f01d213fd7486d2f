"""The processed folder: images.npy, labels.csv, stats.json, whose film each is, and what masks there are.

Notebook 01 writes one, the others read it. Knows arrays, tables and files; not where the films come from.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from heartbox.boxes import EDGES, outline_from_mask
from heartbox.data.tables import Problem, write_problems
from heartbox.utils.atomic import complete_or_absent

BOX_COLUMNS = [f"{target}_{edge}" for target in ("heart", "thorax") for edge in EDGES]
LABEL_COLUMNS = ["name", "source", "split", *BOX_COLUMNS, "rows", "columns", "pixel_spacing"]


@dataclass(frozen=True)
class ProcessedXRay:
    """One film on its way into a processed folder.

    Attributes
    ----------
    image : ndarray of float16, shape (size, size)
        In [0, 1], bone bright.
    record : dict
        Its row of ``labels.csv`` without split and patient.
    patient : str
        Who it is of; only a number of it is written.
    outlines, coverage : ndarray or None
        From :func:`outlines_and_coverage`, where there are masks.
    low_contrast : bool
        Whether there was hardly anything to see in it, see :func:`heartbox.xray.contrast.has_low_contrast`.
    """

    image: np.ndarray
    record: dict
    patient: str
    outlines: np.ndarray | None = None
    coverage: np.ndarray | None = None
    low_contrast: bool = False


def outlines_and_coverage(organs: Sequence[Sequence[np.ndarray]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Shrink the masks of an image to what training needs of them.

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
        How much of each 2 x 2 pixels the organ covers, 255 for all.
    """
    rows, columns = organs[0][0].shape
    outlines = [outline_from_mask(*parts) * (size / columns, size / rows) for parts in organs]
    together = [np.logical_or.reduce(parts).astype(np.float32) for parts in organs]
    coverage = [cv2.resize(mask, (size // 2, size // 2), interpolation=cv2.INTER_AREA) for mask in together]
    return np.float32(outlines), np.round(np.array(coverage) * 255).astype(np.uint8)


def write_processed(
    out: str | Path,
    films: Iterable[ProcessedXRay],
    choose_split: Callable[[pd.DataFrame], tuple[list[str], str]],
    size: int,
    about: dict,
    problems: list[Problem] | None = None,
) -> tuple[pd.DataFrame, dict, list[str]]:
    """Write a processed folder in one pass and in constant memory.

    Of each image only its sum and its sum of squares are kept, from which the statistics of whichever films end up
    in the training split follow.

    Parameters
    ----------
    out : path
        The folder.
    films : iterable of ProcessedXRay
        In the order in which they are to stand; either all have masks or none.
    choose_split : callable
        Given ``labels.csv`` without its splits, returns the split of each film and the name of the rule.
    size : int
        Side of the images.
    about : dict
        What else belongs into ``stats.json``: layout and seed.
    problems : list of Problem, optional
        Films that were left out, for ``skipped.csv``; looked at when `films` is exhausted.

    Returns
    -------
    tuple of DataFrame, dict and list of str
        Labels and statistics as written, and the names of films with hardly any contrast.

    Raises
    ------
    ValueError
        If there is no film at all.
    """
    out = Path(out)
    problems = [] if problems is None else problems
    records, patients, sums, outlines, coverage, pale = [], [], [], [], [], []
    # The statistics go first and come last: without them the folder counts as not prepared, so a run that is
    # stopped on the way cannot leave new images beside old labels.
    (out / "stats.json").unlink(missing_ok=True)
    with complete_or_absent(out / "images.npy") as part, part.open("wb") as stream:
        write_npy_header(stream, 0, size)
        for film in films:
            stream.write(film.image.tobytes())
            sums.append(_sums(film.image))
            records.append(film.record)
            patients.append(film.patient)
            outlines.append(film.outlines)
            coverage.append(film.coverage)
            if film.low_contrast:
                pale.append(film.record["name"])
        if not records:
            reason = f"; the first reason: {problems[0].reason}" if problems else ""
            raise ValueError(f"not one X-ray could be read{reason}")
        stream.seek(0)
        write_npy_header(stream, len(records), size)
        labels = pd.DataFrame(records).reindex(columns=LABEL_COLUMNS)
        numbers = pd.factorize(pd.Series(patients))[0]  # no id of a person leaves the raw folder
        labels["split"], rule = choose_split(labels)
    training = np.flatnonzero(labels["split"] == "train")
    stats = {
        **_mean_and_std([sums[i] for i in training]),
        "size": size,
        **about,
        "split": rule,
        "counts": {
            **{side: int((labels["split"] == side).sum()) for side in ("train", "val")},
            "skipped": len(problems),
            "low_contrast": len(pale),
        },
    }
    for name, arrays in (("outlines.npy", outlines), ("masks.npy", coverage)):
        (out / name).unlink(missing_ok=True)  # of an earlier run on other data
        if all(array is not None for array in arrays):
            with complete_or_absent(out / name) as part, part.open("wb") as stream:
                np.save(stream, np.stack(arrays))
    with complete_or_absent(out / "labels.csv") as part:
        labels.to_csv(part, index=False, float_format="%.6f", lineterminator="\n")
    with complete_or_absent(out / "patients.csv") as part:
        pd.DataFrame({"name": labels["name"], "patient": numbers}).to_csv(part, index=False, lineterminator="\n")
    write_problems(out / "skipped.csv", problems)
    with complete_or_absent(out / "stats.json") as part:
        part.write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
    return labels, stats, pale


def write_split(processed: str | Path, out: str | Path, split: Sequence[str], rule: str = "given") -> Path:
    """Make a processed folder like another, with another split and the statistics of its training films.

    Parameters
    ----------
    processed, out : path
        The folder there is, and the one to make; the arrays are shared between them where the disk allows.
    split : sequence of str
        ``"train"``, ``"val"`` or ``"unused"`` for each film, in the order of ``labels.csv``.
    rule : str
        What decided it, for ``stats.json``.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ValueError
        If no film is left to train on, or the two folders are one.
    """
    processed, out = Path(processed), Path(out)
    if out.resolve() == processed.resolve():
        raise ValueError(f"{out}: another split needs a folder of its own; name one that is not the first")
    labels = pd.read_csv(processed / "labels.csv", dtype={"name": str, "pixel_spacing": str})
    labels["split"] = list(split)
    training = np.flatnonzero(labels["split"] == "train")
    if not len(training):
        raise ValueError(f"{out}: no film is left to train on")
    out.mkdir(parents=True, exist_ok=True)
    (out / "stats.json").unlink(missing_ok=True)  # first and last, as in write_processed
    for name in ("images.npy", "outlines.npy", "masks.npy", "patients.csv"):
        if not (processed / name).is_file():
            (out / name).unlink(missing_ok=True)
        elif not ((out / name).is_file() and (out / name).samefile(processed / name)):
            with complete_or_absent(out / name) as part:
                try:
                    os.link(processed / name, part)
                except OSError:  # another disk, or one that knows no links
                    shutil.copyfile(processed / name, part)
    images = np.load(processed / "images.npy", mmap_mode="r")
    stats = json.loads((processed / "stats.json").read_text(encoding="utf-8"))
    stats |= {**_mean_and_std([_sums(images[i]) for i in training]), "split": rule}
    stats["counts"] |= {side: int((labels["split"] == side).sum()) for side in ("train", "val")}
    with complete_or_absent(out / "labels.csv") as part:
        labels.to_csv(part, index=False, float_format="%.6f", lineterminator="\n")
    with complete_or_absent(out / "stats.json") as part:
        part.write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
    return out


def _sums(image: np.ndarray) -> tuple[int, float, float]:
    """Return pixels, their sum and their squares' sum, of what training will see: float16 rounding included."""
    exact = image.astype(np.float64)
    return exact.size, float(exact.sum()), float(np.square(exact).sum())


def _mean_and_std(sums: Sequence[tuple[int, float, float]]) -> dict[str, float]:
    pixels, total, squares = np.sum(sums, axis=0)
    mean = total / pixels
    return {"mean": float(mean), "std": float(np.sqrt(max(squares / pixels - mean**2, 0.0)))}


def write_npy_header(stream, count: int, size: int) -> None:
    """Write the header of an ``images.npy`` of `count` float16 images, at the place where the stream stands."""
    # NumPy leaves room for the first axis to grow, so the header can be written again once the count is known.
    header = {"descr": "<f2", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(stream, header)
