"""Folders of raw X-rays and labels -> the processed folder that the other notebooks read.

Reads each film, resizes images and boxes together, evens the contrast and splits by patient. Knows layouts and
processed folders; no networks.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from heartbox.boxes import box_from_mask, clip_boxes, scale_boxes
from heartbox.data.layouts import LabelledXRay, list_xrays, recognise_layout
from heartbox.data.splits import choose_split
from heartbox.data.store import BOX_COLUMNS, ProcessedXRay, outlines_and_coverage, write_processed
from heartbox.data.tables import Problem
from heartbox.utils.atomic import keep_apart
from heartbox.utils.parallel import parallel_map
from heartbox.xray.contrast import NORMALIZED_CONTRAST, has_low_contrast, normalize_contrast
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import load_xray, read_xray


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
        unused = self.labels["split"].eq("unused").sum()
        if unused:
            lines.append(
                f"  {unused} are prepared but used for nothing: known wrong labels, patients on both "
                "sides, or films beside the folders of the sides"
            )
        if counts["low_contrast"]:
            pale = ", ".join(self.pale[:5]) + (", ..." if len(self.pale) > 5 else "")
            lines.append(f"{len(self.pale)} of them have hardly any contrast, and are used all the same: {pale}")
        return "\n".join(lines)


# ---------------------------------------------------------------- one film


def _read_film(task: tuple[LabelledXRay, int, bool]) -> ProcessedXRay | str:
    """Read one film, or say why it cannot be."""
    film, size, even = task
    try:
        xray = load_xray(film.path)
        heart, thorax, box_shape, truth = film.heart, film.thorax, film.box_shape, (None, None)
        if film.masks:
            organs = _read_masks(film, xray.image.shape)
            heart, thorax = (box_from_mask(*parts) for parts in organs)
            box_shape = xray.image.shape
            truth = outlines_and_coverage(organs, size)
    except ValueError as error:  # an XRayError, or a mask that is empty or of another size
        return str(error).replace(f"{film.path.parent}{os.sep}", "").replace(f"{film.path.parents[1]}{os.sep}", "")
    boxes = clip_boxes(scale_boxes(heart, box_shape, (size, size)), (size, size))
    record = {"name": film.name, "source": film.source}
    record |= dict(zip(BOX_COLUMNS[:4], boxes, strict=True))
    if thorax is not None:
        record |= dict(zip(BOX_COLUMNS[4:], scale_boxes(thorax, box_shape, (size, size)), strict=True))
    small = resize_xray(xray.image, size)
    record["rows"], record["columns"] = xray.image.shape
    record["pixel_spacing"] = "\\".join(f"{mm:g}" for mm in xray.pixel_spacing) if xray.pixel_spacing else None
    image = (normalize_contrast(small) if even else small).astype(np.float16)
    return ProcessedXRay(image, record, xray.patient_id, *truth, low_contrast=has_low_contrast(small))


def _read_masks(film: LabelledXRay, shape: tuple[int, int]) -> list[list[np.ndarray]]:
    """Return the masks of the heart, [one], and of the thorax, [both lungs]."""
    masks = []
    for path in film.masks:
        mask = read_xray(path)
        mask = mask > 0.5 * mask.max()  # some masks are written as 0 and 255, others as 0 and 1
        if mask.shape != shape:
            raise ValueError(f"{path.name}: the mask of {path.parent.name} is {mask.shape}, the image {shape}")
        if not mask.any():
            raise ValueError(f"{path.name}: the mask of {path.parent.name} is empty")
        masks.append(mask)
    return [masks[:1], masks[1:]]


# ---------------------------------------------------------------- the split


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
    even: bool = True,
) -> Prepared:
    """Turn a raw folder into ``images.npy``, ``labels.csv``, ``stats.json``, ``patients.csv`` and ``skipped.csv``.

    Where the labels are masks, ``outlines.npy`` and ``masks.npy`` go beside them: what augmentation needs to
    follow a mask exactly, and the masks at half size (see :func:`outlines_and_coverage`).

    Each image is read, resized to ``(size, size)`` with its boxes, its contrast evened
    (:func:`heartbox.xray.contrast.normalize_contrast`), written away and forgotten.

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
    even : bool
        Whether to even the contrast; without it the network sees each film's greys as the file has them.

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
    keep_apart(folder, out)
    layout = recognise_layout(folder)
    films, problems = list_xrays(folder)
    if limit is not None and limit < len(films):
        films = [films[i] for i in np.linspace(0, len(films) - 1, limit).astype(int)]
    used, patients, named = [], [], 0

    def read() -> Iterator[ProcessedXRay]:
        nonlocal named
        tasks = [(film, size, even) for film in films]
        results = parallel_map(_read_film, tasks, "Reading X-rays", processes=processes, progress=progress)
        for film, result in zip(films, results, strict=True):
            if isinstance(result, str):
                problems.append(Problem(film.name, "unreadable", result))
                continue
            used.append(film)
            named += bool(result.patient)
            # Where the file names no patient, each film counts as one.
            patients.append(result.patient or film.name)
            yield dataclasses.replace(result, patient=patients[-1])

    def choose(_: pd.DataFrame) -> tuple[list[str], str]:
        split, rule = choose_split(used, patients, layout, seed, validation_share)
        split = ["unused" if film.excluded else side for film, side in zip(used, split, strict=True)]
        return split, rule if named else rule.replace("by patient", "by film (no file names its patient)")

    try:
        about = {"layout": layout, "seed": seed, **({"contrast": NORMALIZED_CONTRAST} if even else {})}
        labels, stats, pale = write_processed(out, read(), choose, size, about, problems)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return Prepared(out, labels, stats, pd.DataFrame(problems, columns=Problem._fields), pale)
