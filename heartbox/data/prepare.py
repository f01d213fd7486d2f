"""Folders of raw X-rays and labels -> the processed folder that the other notebooks read.

Reads each film, crops plain borders, resizes images and boxes together, normalises the contrast and splits by patient.
Knows layouts and processed folders; no networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from heartbox.boxes import HEART, THORAX, box_from_mask, clip_boxes, scale_boxes
from heartbox.data.layouts import LabelledXRay, fault_of_frame, list_xrays, recognise_layout
from heartbox.data.reading import read_each
from heartbox.data.splits import UNUSED, choose_split
from heartbox.data.store import BOX_COLUMNS, Prepared, ProcessedXRay, outlines_and_coverage, write_processed
from heartbox.data.tables import ItemError, Problem
from heartbox.utils.atomic import keep_apart
from heartbox.xray.borders import Window
from heartbox.xray.contrast import NORMALIZED_CONTRAST, has_low_contrast, normalize_contrast
from heartbox.xray.errors import XRayError
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import load_xray, read_xray

# ---------------------------------------------------------------- one film


def read_film(film: LabelledXRay, size: int, normalize: bool = True) -> ProcessedXRay:
    """Read one film with its boxes, as :func:`prepare` writes it: image and boxes without plain borders.

    Parameters
    ----------
    film : LabelledXRay
        What to read.
    size : int
        Side of the square image, in pixels.
    normalize : bool
        Whether to normalise the contrast.

    Raises
    ------
    XRayError
        If the image or a mask cannot be read.
    ItemError
        If the image holds NaN, a mask is empty or of another size, or the box was drawn in another frame.
    """
    xray = load_xray(film.path)
    shape = xray.image.shape
    if not np.isfinite(xray.image).all():
        raise ItemError("unreadable", f"{film.path.name}: holds NaN or infinite values; export or fetch it again")
    window = xray.window
    heart, thorax, frame, masks = film.heart, film.thorax, film.box_shape, ()
    if film.masks:
        organs = _read_masks(film, shape)
        heart, thorax = (box_from_mask(*parts) for parts in organs)
        frame = shape
        masks = outlines_and_coverage([[window.of(part) for part in parts] for parts in organs], size)
    elif fault := fault_of_frame(frame, shape):
        raise ItemError("frame", f"{film.path.name}: {fault}")
    record = {"name": film.name, "source": film.source, "rows": window.shape[0], "columns": window.shape[1]}
    record |= dict(
        zip(BOX_COLUMNS[HEART], clip_boxes(_move(heart, frame, shape, window, size), (size, size)), strict=True)
    )
    if thorax is not None:
        record |= dict(zip(BOX_COLUMNS[THORAX], _move(thorax, frame, shape, window, size), strict=True))
    record["pixel_spacing"] = "\\".join(f"{mm:g}" for mm in xray.pixel_spacing) if xray.pixel_spacing else None
    small = resize_xray(xray.content, size)
    image = (normalize_contrast(small) if normalize else small).astype(np.float16)
    cropped = window.unless_whole(shape)
    return ProcessedXRay(image, record, xray.patient_id, *masks, low_contrast=has_low_contrast(small), cropped=cropped)


def _move(box: np.ndarray, frame: tuple[int, int], shape: tuple[int, int], window: Window, size: int) -> np.ndarray:
    """Move a box from the frame that it was drawn in to the resized content of a film of this shape."""
    if window.unless_whole(shape):  # without a border no rounding either
        box, frame = scale_boxes(box, frame, shape) - window.corner, window.shape
    return scale_boxes(box, frame, (size, size))


def _read_masks(film: LabelledXRay, shape: tuple[int, int]) -> list[list[np.ndarray]]:
    """Return the masks of the heart, [one], and of the thorax, [both lungs]."""
    masks = []
    for path in film.masks:
        try:
            mask = read_xray(path)
        except XRayError as error:  # an empty mask, too, is an image in which there is nothing
            reason = f"{path.name}: the mask of {path.parent.name} is empty or cannot be read ({error})"
            raise ItemError("mask", reason) from error
        mask = mask > 0.5 * mask.max()  # some masks are written as 0 and 255, others as 0 and 1
        if mask.shape != shape:
            raise ItemError("mask", f"{path.name}: the mask of {path.parent.name} is {mask.shape}, the image {shape}")
        masks.append(mask)
    return [masks[:1], masks[1:]]


# ---------------------------------------------------------------- all of them


def prepare(
    folder: str | Path,
    out: str | Path,
    size: int = 224,
    seed: int = 0,
    validation_share: float = 0.2,
    limit: int | None = None,
    processes: int | None = None,
    progress: bool = True,
    normalize: bool = True,
    log: str | Path | None = None,
) -> Prepared:
    """Turn a raw folder into ``images.npy``, ``labels.csv``, ``stats.json``, ``patients.csv`` and ``skipped.csv``.

    Where the labels are masks, ``outlines.npy`` and ``masks.npy`` go beside them: what augmentation needs to
    follow a mask exactly, and the masks at half size (see :func:`heartbox.data.store.outlines_and_coverage`).

    Plain borders are cropped (:func:`heartbox.xray.borders.find_content`) before a film is resized, as they are before
    the detector looks at a film. Boxes and masks are moved along, ``rows`` and ``columns`` are those of the cropped
    film, and ``stats.json`` says which part of the file it is.

    A film that cannot be read, whatever the reason, becomes a row of ``skipped.csv``, and the others go on.

    Parameters
    ----------
    folder, out : path
        Raw data; where the processed files go.
    size : int
        Side of the square image, in pixels.
    seed, validation_share
        See :func:`heartbox.data.splits.split_by_patient`; without effect where the data has a published split.
    limit : int, optional
        Use only that many films, spread evenly over the list: for quick trials.
    processes, progress
        See :func:`heartbox.utils.parallel.parallel_map`.
    normalize : bool
        Whether to normalise the contrast (:func:`heartbox.xray.contrast.normalize_contrast`). Without it the network
        sees the greys of each film as they are in its file.
    log : path, optional
        A file for the tracebacks of unexpected errors.

    Returns
    -------
    Prepared
        Labels, statistics and skipped films, as written.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    ValueError
        If not one film can be read, or all are of one patient.
    """
    folder, out = Path(folder), Path(out)
    keep_apart(folder, out)
    layout = recognise_layout(folder)
    films, problems = list_xrays(folder)
    if limit is not None and limit < len(films):
        films = [films[i] for i in np.linspace(0, len(films) - 1, limit).astype(int)]
    used: list[LabelledXRay] = []
    patients: list[str] = []

    def read() -> Iterator[ProcessedXRay]:
        results = read_each(read_film, films, size, normalize, processes=processes, progress=progress, log=log)
        for film, result in zip(films, results, strict=True):
            if isinstance(result, Problem):
                problems.append(result)
                continue
            used.append(film)
            patients.append(result.patient)
            yield replace(result, patient=result.patient or film.name)

    def choose() -> tuple[list[str], str]:
        # Where the file names no patient, each film counts as one.
        known = [patient or film.name for film, patient in zip(used, patients, strict=True)]
        split, rule = choose_split(used, known, layout, seed, validation_share)
        split = [UNUSED if film.excluded else name for film, name in zip(used, split, strict=True)]
        return split, rule if any(patients) else rule.replace("by patient", "by film (no file names its patient)")

    try:
        contrast = NORMALIZED_CONTRAST if normalize else None
        return write_processed(out, read(), choose, size, layout, seed, contrast, problems)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
