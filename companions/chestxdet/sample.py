"""The embedded sample: phantom films with planted findings, written in the form of ChestX-Det10.

A finding changes the attenuation of the rays before the detector is exposed: a nodule is tissue in place of lung, a
pneumothorax is air in place of lung. Scatter, noise and the detector's processing then apply to it as to everything
else. Knows phantoms and files; it does not know networks. The findings are caricatures, denser than real ones, so that
some hundred films suffice to learn the method; they are not radiology.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from companions.chestxdet.layouts import SAMPLE_MARK
from heartbox.boxes import box_areas, box_from_mask, clip_boxes, scale_boxes
from heartbox.data.splits import TEST, TRAIN
from heartbox.phantom import render, sample_subject
from heartbox.phantom.anatomy import LEFT, RIGHT
from heartbox.phantom.projection import MU_BONE, MU_LUNG, MU_SOFT, ellipsoid_path
from heartbox.phantom.subject import keyed_generator
from heartbox.utils.atomic import complete_or_absent
from heartbox.utils.parallel import parallel_map

NORMAL_SHARE = 0.35
FINDINGS_PER_FILM = (0.3, 0.4, 0.3)  # share of abnormal films with one, two, three findings
TISSUE_FOR_LUNG = MU_SOFT - MU_LUNG  # per mm: additional attenuation where tissue replaces lung
STREAM = 77  # key of this module's own stream of random numbers


# ---------------------------------------------------------------- the findings


@dataclass(frozen=True)
class Site:
    """One lung of one film, into which something is planted.

    Attributes
    ----------
    attenuation : float32 array (n, n)
        Attenuation of the rays so far.
    lung : bool array (n, n)
        The visible field of this lung.
    side : int
        `LEFT` or `RIGHT` of the patient.
    spacing : float
        mm per pixel on the detector.
    """

    attenuation: NDArray
    lung: NDArray
    side: int
    spacing: float

    @property
    def axis(self) -> NDArray:
        """Centre of each row or column, in mm."""
        return (np.arange(len(self.lung)) + 0.5) * self.spacing

    @property
    def depth_in(self) -> NDArray:
        """Distance of each place from the border of the lung, in mm; 0 outside."""
        return cv2.distanceTransform(self.lung.astype(np.uint8), cv2.DIST_L2, 5) * self.spacing

    def place(self, rng: np.random.Generator, depth: float) -> NDArray:
        """Draw a place x, y in mm that lies `depth` mm inside the lung, or as deep as possible."""
        inside = self.depth_in
        rows, columns = np.nonzero(inside >= min(depth, 0.8 * inside.max()))
        k = rng.integers(len(rows))
        return np.array([columns[k] + 0.5, rows[k] + 0.5]) * self.spacing

    def soften(self, change: NDArray, mm: float) -> NDArray:
        """Blur the borders of a change."""
        return cv2.GaussianBlur(change.astype(np.float32), (0, 0), max(mm / self.spacing, 0.3))

    def ball(self, centre: NDArray, radius: float, rng: np.random.Generator) -> NDArray:
        """Return the path length, in mm, through a slightly oval body of about this radius."""
        radii = radius * rng.uniform(0.85, 1.18, 3)
        return ellipsoid_path(self.axis, self.axis, centre, radii, angle=rng.uniform(0, np.pi))


def _nodule(site: Site, rng: np.random.Generator) -> NDArray:
    """Return a ball of tissue smaller than 3 cm."""
    radius = rng.uniform(9, 14.5)
    return site.soften(2.0 * TISSUE_FOR_LUNG * site.ball(site.place(rng, radius), radius, rng), 0.7)


def _mass(site: Site, rng: np.random.Generator) -> NDArray:
    """Return a lump of tissue larger than 3 cm, the limit between nodule and mass (Hansell 2008)."""
    radius = rng.uniform(18, 30)
    centre = site.place(rng, 0.7 * radius)
    lump = site.ball(centre, radius, rng)
    for _ in range(3):
        lump = np.maximum(lump, site.ball(centre + rng.normal(0, 0.35 * radius, 2), 0.7 * radius, rng))
    return site.soften(1.4 * TISSUE_FOR_LUNG * lump, 1.2)


def _calcification(site: Site, rng: np.random.Generator) -> NDArray:
    """Return calcium: small, sharp and as bright as bone."""
    radius = rng.uniform(6, 10)
    centre = site.place(rng, 2 * radius)
    grains = sum(site.ball(centre + rng.normal(0, 0.5 * radius, 2), 0.6 * radius, rng) for _ in range(3))
    return (MU_BONE - MU_LUNG) * (0.5 * grains + 0.7 * site.ball(centre, radius, rng))


def _consolidation(site: Site, rng: np.random.Generator) -> NDArray:
    """Return lung filled with fluid: a cloud without a sharp border that ends at the border of the lung."""
    centre, reach = site.place(rng, 22), rng.uniform(20, 36, 2)
    u = (site.axis - centre[0]) / reach[0]
    v = (site.axis - centre[1]) / reach[1]
    cells = rng.standard_normal((24, 24)).astype(np.float32)
    clouds = cv2.resize(cells, site.lung.shape[::-1], interpolation=cv2.INTER_CUBIC)
    hill = np.exp(-0.7 * (u[None, :] ** 2 + v[:, None] ** 2)) * (1 + 0.35 * clouds)
    return rng.uniform(1.3, 1.9) * np.clip(hill - 0.12, 0, 1) * site.soften(site.lung, 2.0)


def _effusion(site: Site, rng: np.random.Generator) -> NDArray:
    """Return fluid at the base of the lung, with a surface that rises towards the chest wall."""
    rows, columns = np.nonzero(site.lung)
    top, foot = rows.min(), rows.max()
    inner, outer = (columns.min(), columns.max())[:: -site.side]  # the patient's left is on the right side of the film
    level = foot - rng.uniform(0.16, 0.40) * (foot - top)
    climb = rng.uniform(0.08, 0.22) * (foot - top)
    outwards = np.clip((np.arange(len(site.lung)) - inner) / (outer - inner), 0, 1)
    below = np.arange(len(site.lung))[:, None] > level - climb * outwards[None, :] ** 2
    region = cv2.dilate((below & site.lung).astype(np.uint8), np.ones((5, 5), np.uint8))
    return site.soften(rng.uniform(1.3, 1.8) * region, 2.5)


def _pneumothorax(site: Site, rng: np.random.Generator) -> NDArray:
    """Return air between lung and chest wall: a dark rim around apex and side, along a fine bright line."""
    rows, columns = np.nonzero(site.lung)
    high, inner = rows.max() - rows.min(), columns.max() if site.side == RIGHT else columns.min()
    reach = rng.uniform(0.55, 0.8)
    # The collapsed lung: the same outline, shrunk towards its root.
    shrink = rng.uniform(0.72, 0.86)
    root = np.array([inner, rows.min() + reach * high])
    matrix = np.column_stack([np.eye(2) * shrink, (1 - shrink) * root])
    collapsed = cv2.warpAffine(site.lung.astype(np.uint8), matrix, site.lung.shape[::-1]) > 0
    rim = site.lung & ~collapsed
    rim[int(rows.min() + reach * high) :] = False
    edge = cv2.morphologyEx(collapsed.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    line = edge & site.soften(rim, 1.0).astype(bool)
    return site.soften(-rng.uniform(0.5, 0.75) * rim, 0.8) + site.soften(0.35 * line, 0.5)


def _fracture(site: Site, rng: np.random.Generator) -> NDArray:
    """Return a broken rib: its outer part is displaced downwards, with new bone around the break."""
    ribs = site.attenuation - site.soften(site.attenuation, 12)
    middle = np.median(np.nonzero(site.lung)[1])
    columns = np.arange(len(site.lung))[None, :]
    outer = site.lung & ((columns - middle) * site.side > 0) & (site.depth_in > 6)
    spots = np.argwhere(outer & (ribs >= np.quantile(ribs[outer], 0.97)))
    y, x = spots[rng.integers(len(spots))]
    window = np.exp(-(((np.arange(len(site.lung)) - x) * site.spacing / 11) ** 4))[None, :] * np.exp(
        -(((np.arange(len(site.lung)) - y) * site.spacing / 14) ** 4)
    ).reshape(-1, 1)
    beyond = 1 / (1 + np.exp(-(columns - x) * site.side * site.spacing / 1.0))
    shift = (rng.uniform(9, 13) / site.spacing * window * beyond).astype(np.float32)
    across, down = np.meshgrid(*[np.arange(len(site.lung), dtype=np.float32)] * 2)
    moved = cv2.remap(site.attenuation, across, down - shift, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    callus = site.ball(np.array([x, y + 3 / site.spacing]) * site.spacing, 6.0, rng)
    return moved - site.attenuation + 1.0 * (MU_BONE - MU_LUNG) * callus


PLANTED: dict[str, Callable[[Site, np.random.Generator], NDArray]] = {
    "Calcification": _calcification,
    "Consolidation": _consolidation,
    "Effusion": _effusion,
    "Fracture": _fracture,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumothorax": _pneumothorax,
}


@dataclass
class Planter:
    """Plants findings into a phantom and keeps their boxes; passed to :func:`heartbox.phantom.render`.

    Parameters
    ----------
    names : sequence of str
        Keys of `PLANTED`; without any the film stays normal.
    seed, index : int
        Seed and number of the film.

    Attributes
    ----------
    findings : list of (str, ndarray)
        Name and box of each planted finding, as fractions of the film; a finding that found no place is missing.
    """

    names: tuple[str, ...]
    seed: int
    index: int
    findings: list = field(default_factory=list)

    def __call__(self, attenuation: NDArray, masks: dict, spacing: float) -> NDArray:
        """Add the findings one after the other; see `heartbox.phantom.render.Plant`."""
        rng = keyed_generator(self.seed, STREAM, self.index)
        taken = np.zeros(attenuation.shape, dtype=bool)
        for name in self.names:
            for _ in range(12):  # until it lies apart from the others
                side = LEFT if rng.random() < 0.5 else RIGHT
                change = PLANTED[name](Site(attenuation, masks[side], side, spacing), rng)
                # A reader would draw the box around what changes by at least a third of the maximum.
                visible = np.abs(change) > 0.33 * np.abs(change).max()
                if not (visible & taken).any():
                    attenuation = attenuation + change.astype(np.float32)
                    taken |= cv2.dilate(visible.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
                    self.findings.append((name, scale_boxes(box_from_mask(visible), attenuation.shape, (1, 1))))
                    break
        return attenuation


# ---------------------------------------------------------------- the sample


def draw_findings(seed: int, index: int) -> tuple[str, ...]:
    """Draw the findings of film number `index`: none in a normal film, otherwise one to three."""
    rng = keyed_generator(seed, STREAM, index, 1)
    if rng.random() < NORMAL_SHARE:
        return ()
    count = 1 + rng.choice(len(FINDINGS_PER_FILM), p=FINDINGS_PER_FILM)
    return tuple(str(name) for name in rng.choice(sorted(PLANTED), count, replace=False))


def _write_one(job: tuple[Path, int, int, int]) -> dict:
    folder, seed, index, size = job
    subject = sample_subject(seed, index)
    planter = Planter(draw_findings(seed, index), seed, index)
    film = render(subject, size, planter)
    # As NIH and ChestX-Det10 name their files: eight digits for the patient, three for the film.
    name = f"{subject.patient:08d}_{subject.film:03d}.png"
    with complete_or_absent(folder / name) as part:
        part.write_bytes(cv2.imencode(".png", np.rint(film.image * 255).astype(np.uint8))[1].tobytes())
    boxes = [np.rint(clip_boxes(box * size, (size, size))).astype(int).tolist() for _, box in planter.findings]
    kept = [k for k, box in enumerate(boxes) if box_areas(box) > 0]
    syms = [planter.findings[k][0] for k in kept]
    return {"file_name": name, "syms": syms, "boxes": [boxes[k] for k in kept]}


def write_sample(
    folder: str | Path,
    train: int = 480,
    test: int = 80,
    size: int = 224,
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Write phantoms with planted findings in the form of ChestX-Det10.

    ``train.json`` and ``test.json`` beside ``train_data/`` and ``test_data/``. A folder that already holds the same
    sample is left as it is. No patient is in both splits.

    Parameters
    ----------
    folder : path
        Where the sample goes; created if it does not exist.
    train, test : int
        Number of films in each split; `train` is even, because two films of a patient follow each other.
    size : int
        Side of the films, in pixels.
    seed : int
        Another seed gives other patients and findings.
    processes, progress
        See :func:`heartbox.utils.parallel.parallel_map`.

    Raises
    ------
    ValueError
        If `train` is odd.
    FileExistsError
        If `folder` holds other annotations.
    """
    folder = Path(folder)
    if train % 2:
        raise ValueError(f"train must be even, got {train}: two films of a patient follow each other")
    mark, settings = folder / SAMPLE_MARK, {"train": train, "test": test, "size": size, "seed": seed, "version": 2}
    if mark.is_file():
        if json.loads(mark.read_text(encoding="utf-8")) == settings:
            return folder
        mark.unlink()  # from here on the folder is incomplete
    elif folder.is_dir() and any(folder.glob("*.json")):
        raise FileExistsError(f"{folder}: holds annotations other than the sample's; choose another folder")
    for split, first, count in ((TRAIN, 0, train), (TEST, train, test)):
        shutil.rmtree(folder / f"{split}_data", ignore_errors=True)
        (folder / f"{split}_data").mkdir(parents=True)
        jobs = [(folder / f"{split}_data", seed, first + k, size) for k in range(count)]
        entries = list(parallel_map(_write_one, jobs, f"Sample, {split}", processes=processes, progress=progress))
        with complete_or_absent(folder / f"{split}.json") as part:
            part.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    with complete_or_absent(mark) as part:
        part.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return folder
