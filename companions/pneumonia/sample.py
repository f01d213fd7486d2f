"""The embedded sample: synthetic films in RSNA's layout, most of them healthy, some with planted opacities.

As in a hospital, pneumonia is more frequent in AP films, which are taken of patients who cannot stand. Knows the
phantoms and RSNA's table; it does not know networks.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from pydicom.uid import generate_uid

from companions.pneumonia.layouts import RSNA_IMAGES, RSNA_LABELS, SAMPLE_MARK
from heartbox.phantom import render, sample_subject
from heartbox.phantom.dicom import dataset
from heartbox.phantom.projection import MU_LUNG, MU_SOFT
from heartbox.phantom.subject import keyed_generator
from heartbox.utils.atomic import complete_or_absent
from heartbox.utils.parallel import parallel_map

# Share of films with pneumonia, by view: the view alone is informative, as it is in RSNA's films.
PREVALENCE = {"AP": 0.7, "PA": 0.3}
STREAM = 101  # key of this module's own stream of random numbers


class OpacityPlanter:
    """Plants patches of lung in which fluid has replaced the air; passed to :func:`heartbox.phantom.render`.

    Attributes
    ----------
    boxes : list of ndarray, shape (4,)
        Box of each patch, ``x_min, y_min, x_max, y_max`` as fractions of the film; filled by rendering.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng, self.boxes = rng, []

    def __call__(self, attenuation: np.ndarray, masks: dict, spacing: float) -> np.ndarray:
        """Return the attenuation with the opacities added, float32 in the shape of the masks."""
        rng, size = self.rng, len(masks["heart"])
        lungs = [mask for name, mask in masks.items() if name != "heart"]
        added = np.zeros((size, size), np.float32)
        for which in rng.permutation(len(lungs))[: rng.integers(1, 3)]:
            patch = self._patch(lungs[which], spacing)
            y, x = np.nonzero(patch > 0.3 * patch.max())
            self.boxes.append(np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / size)
            added = np.maximum(added, patch)
        return attenuation + added

    def _patch(self, lung: np.ndarray, spacing: float) -> np.ndarray:
        """Attenuation of one cloudy ellipsoid, cut off at the border of the lung."""
        rng, size = self.rng, len(lung)
        y, x = np.nonzero(lung)
        low = np.flatnonzero(y > np.quantile(y, 0.3))  # seldom at the very top
        centre = low[rng.integers(len(low))]
        across, down = rng.uniform(32, 55) / spacing, rng.uniform(44, 78) / spacing  # radii in mm
        grid = np.arange(size, dtype=np.float32)
        distance = np.hypot((grid - x[centre]) / across, ((grid - y[centre]) / down)[:, None])
        cells = max(2, round(size * spacing / 14))  # a grain of some 14 mm
        cloud = cv2.resize(rng.standard_normal((cells, cells), dtype=np.float32), (size, size))
        edge = cv2.GaussianBlur(lung.astype(np.float32), (0, 0), 3 / spacing)
        share = np.clip(1.25 - distance + 0.22 * cloud, 0, 1) * edge * (distance < 1.6)
        return np.float32((MU_SOFT - MU_LUNG) * rng.uniform(80, 140)) * share  # mm of lung without air


def _write_film(job: tuple[Path, int, int, int]) -> list[dict]:
    """Write one film and return its rows of RSNA's table: one for each box, or one without a box."""
    folder, seed, index, size = job
    subject = sample_subject(seed, index)
    rng = keyed_generator(seed, STREAM, index)
    planter = OpacityPlanter(rng) if rng.random() < PREVALENCE[subject.view] else None
    film = dataset(render(subject, size, planter))
    film.SOPInstanceUID = generate_uid(entropy_srcs=["pneumonia", str(seed), str(index), str(size)])
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
    with complete_or_absent(folder / RSNA_IMAGES / f"{subject.film_id}.dcm") as part:
        film.save_as(part, enforce_file_format=True)
    name = {"patientId": subject.film_id}
    if planter is None:
        return [name | {"Target": 0}]
    corners = [np.round(box * size, 1) for box in planter.boxes]
    return [name | {"x": a, "y": b, "width": c - a, "height": d - b, "Target": 1} for a, b, c, d in corners]


def write_sample(
    folder: str | Path,
    count: int = 240,
    seed: int = 0,
    size: int = 256,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Write the embedded sample, unless the folder already holds at least as many films of it.

    Parameters
    ----------
    folder : path
        Gets ``stage_2_train_images/*.dcm`` and ``stage_2_train_labels.csv``, in RSNA's layout, and a mark that they
        are phantoms.
    count, seed : int
        Number of films; seed of the patients and opacities.
    size : int
        Rows and columns of a film.
    processes, progress
        See :func:`heartbox.utils.parallel.parallel_map`.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    ValueError
        If `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    folder = Path(folder)
    about = {"films": count, "seed": seed, "size": size, "version": 1}
    mark = folder / SAMPLE_MARK
    if mark.is_file():
        existing = json.loads(mark.read_text(encoding="utf-8"))
        if existing["films"] >= count and existing | {"films": count} == about:
            return folder
    mark.unlink(missing_ok=True)
    for stale in (folder / RSNA_IMAGES).glob("phantom-*.dcm"):  # of another sample
        stale.unlink()
    jobs = [(folder, seed, index, size) for index in range(count)]
    rows = [row for rows in parallel_map(_write_film, jobs, "Phantoms", processes=processes, progress=progress)
            for row in rows]  # fmt: skip
    table = pd.DataFrame(rows, columns=["patientId", "x", "y", "width", "height", "Target"])
    with complete_or_absent(folder / RSNA_LABELS) as part:
        table.to_csv(part, index=False, float_format="%.1f", lineterminator="\n")
    with complete_or_absent(mark) as part:
        part.write_text(json.dumps(about) + "\n", encoding="utf-8")
    return folder
