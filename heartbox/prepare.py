"""Folders of raw X-rays and labels -> the processed folder that the other notebooks read.

Reads each film, resizes images and boxes together, evens the contrast and splits by patient. Knows layouts and
processed folders; no networks.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from heartbox.boxes import box_from_mask, clip_boxes, scale_boxes
from heartbox.contrast import EVEN, even_contrast, has_low_contrast
from heartbox.files import keep_apart
from heartbox.layouts import Film, list_films, recognise_layout
from heartbox.parallel import parallel_map
from heartbox.processed import BOX_COLUMNS, ProcessedFilm, outlines_and_coverage, write_processed
from heartbox.xray import load_xray, read_xray, resize_xray

# The published exercise trains on the first 400 rows of its csv and validates on the other 96.
RSNA_PUBLISHED_TRAIN = 400


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


def _read_film(task: tuple[Film, int, bool]) -> ProcessedFilm | str:
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
    image = (even_contrast(small) if even else small).astype(np.float16)
    return ProcessedFilm(image, record, xray.patient_id, *truth, low_contrast=has_low_contrast(small))


def _read_masks(film: Film, shape: tuple[int, int]) -> list[list[np.ndarray]]:
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
    even: bool = True,
) -> Prepared:
    """Turn a raw folder into ``images.npy``, ``labels.csv``, ``stats.json``, ``patients.csv`` and ``skipped.csv``.

    Where the labels are masks, ``outlines.npy`` and ``masks.npy`` go beside them: what augmentation needs to
    follow a mask exactly, and the masks at half size (see :func:`outlines_and_coverage`).

    Each image is read, resized to ``(size, size)`` with its boxes, its contrast evened
    (:func:`heartbox.contrast.even_contrast`), written away and forgotten.

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
    films, problems = list_films(folder)
    if limit is not None and limit < len(films):
        films = [films[i] for i in np.linspace(0, len(films) - 1, limit).astype(int)]
    used, patients, named = [], [], 0

    def read() -> Iterator[ProcessedFilm]:
        nonlocal named
        tasks = [(film, size, even) for film in films]
        results = parallel_map(_read_film, tasks, "Reading X-rays", processes=processes, progress=progress)
        for film, result in zip(films, results, strict=True):
            if isinstance(result, str):
                problems.append((film.name, result))
                continue
            used.append(film)
            named += bool(result.patient)
            # Where the file names no patient, each film counts as one.
            patients.append(result.patient or film.name)
            yield dataclasses.replace(result, patient=patients[-1])

    def choose(_: pd.DataFrame) -> tuple[list[str], str]:
        split, rule = _split(used, patients, layout, seed, validation_share)
        split = ["unused" if film.excluded else side for film, side in zip(used, split, strict=True)]
        return split, rule if named else rule.replace("by patient", "by film (no file names its patient)")

    try:
        about = {"layout": layout, "seed": seed, **({"contrast": EVEN} if even else {})}
        labels, stats, pale = write_processed(out, read(), choose, size, about, problems)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return Prepared(out, labels, stats, pd.DataFrame(problems, columns=["name", "reason"]), pale)
