"""Phantoms written straight into a processed folder, with their masks, for pretraining on many of them.

Notebook 01 goes by way of DICOM files, as for real films. This module leaves out the files, and the normalisation of
contrast too, because phantoms use all greys. Knows phantoms and processed folders.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from heartbox.boxes import box_from_mask, scale_boxes
from heartbox.data.splits import TRAIN, VAL
from heartbox.data.store import BOX_COLUMNS, ProcessedXRay, outlines_and_coverage, write_processed
from heartbox.phantom import make_ill, render, sample_subject
from heartbox.utils.parallel import parallel_map
from heartbox.xray.borders import find_content
from heartbox.xray.image import resize_xray


def write_phantom_store(
    out: str | Path,
    count: int,
    size: int = 224,
    seed: int = 1,
    validation_share: float = 0.05,
    ill_share: float = 0.0,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Render phantoms and write them as a processed folder, see :func:`heartbox.data.prepare.prepare`.

    Parameters
    ----------
    out : path
        The processed folder.
    count : int
        Number of films; the last `validation_share` of them are the validation split.
    size : int
        Side of the images, in pixels; each film is rendered at twice that.
    seed : int
        Decides the subjects. The embedded sample has seed 0.
    ill_share : float
        Share of the films, 0 to 1, that show ill patients (:func:`heartbox.phantom.make_ill`), spread evenly; their
        names end in ``-ill``. The other films are the same as without. Boxes and masks are exact in both, also
        where fluid or a lung without air hides the border.
    processes, progress
        See :func:`heartbox.utils.parallel.parallel_map`.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ValueError
        If `ill_share` is not between 0 and 1.
    """
    if not 0 <= ill_share <= 1:
        raise ValueError(f"ill_share must be between 0 and 1, got {ill_share}")
    ill = np.diff(np.floor(np.arange(count + 1) * ill_share + 1e-9)) > 0
    jobs = [(seed, index, size, bool(ill[index])) for index in range(count)]
    results = parallel_map(_one, jobs, "Phantoms", processes=processes, progress=progress)
    validating = max(1, round(count * validation_share))
    split = [VAL if index >= count - validating else TRAIN for index in range(count)]
    write_processed(out, results, lambda: (split, "the last ones validate"), size, "phantom", seed)
    return Path(out)


def _one(job: tuple[int, int, int, bool]) -> ProcessedXRay:
    seed, index, size, ill = job
    subject = sample_subject(seed, index)
    film = render(make_ill(subject) if ill else subject, 2 * size)
    window = find_content(film.image)  # some phantoms are collimated, and prepare crops them too
    organs = [[film.heart_mask], [film.left_lung_mask, film.right_lung_mask]]
    organs = [[window.of(mask) for mask in masks] for masks in organs]
    image = resize_xray(window.of(film.image), size)
    boxes = scale_boxes([box_from_mask(*masks) for masks in organs], window.shape, (size, size)).ravel()
    record = {"name": film.subject.film_id, "source": "phantom", **dict(zip(BOX_COLUMNS, boxes, strict=True))}
    record |= {"rows": window.shape[0], "columns": window.shape[1], "pixel_spacing": None}
    name = film.subject.film_id
    cropped = window.unless_whole(film.image.shape)
    return ProcessedXRay(image.astype(np.float16), record, name, *outlines_and_coverage(organs, size), cropped=cropped)
