"""Phantom films with planted findings, written in ChestX-Det10's own form: the embedded sample.

A finding changes what the rays meet, before the plate is exposed: a nodule is tissue where lung was, a pneumothorax
is air where lung was. Scatter, noise and the plate's processing then treat it as they treat the rest. Knows phantoms
and files; no networks and no notebook. These are caricatures for learning the method, not radiology.
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

from heartbox.boxes import box_areas, box_from_mask, clip_boxes, scale_boxes
from heartbox.phantom import render, sample_subject
from heartbox.phantom.anatomy import LEFT, RIGHT
from heartbox.phantom.projection import MU_BONE, MU_LUNG, MU_SOFT, ellipsoid_path
from heartbox.phantom.subject import keyed_generator
from heartbox.utils.atomic import complete_or_absent
from heartbox.utils.parallel import parallel_map

NORMAL_SHARE = 0.35
FINDINGS_PER_FILM = (0.3, 0.4, 0.3)  # how often an ill film has one, two, three
TISSUE_FOR_LUNG = MU_SOFT - MU_LUNG  # per mm: what a ray loses more where lung became tissue
STREAM = 77  # key of the random stream, apart from those of the phantoms


# ---------------------------------------------------------------- the findings


@dataclass(frozen=True)
class Site:
    """Where something is planted: one lung of one film.

    Attributes
    ----------
    attenuation : float32 array (n, n)
        What the rays have met so far.
    lung : bool array (n, n)
        The visible field of the lung chosen.
    side : int
        `LEFT` or `RIGHT`, the patient's.
    spacing : float
        mm a pixel, on the detector.
    """

    attenuation: NDArray
    lung: NDArray
    side: int
    spacing: float

    @property
    def axis(self) -> NDArray:
        """Middle of each row or column, mm."""
        return (np.arange(len(self.lung)) + 0.5) * self.spacing

    @property
    def depth_in(self) -> NDArray:
        """How far inside the lung each place lies, mm; 0 outside."""
        return cv2.distanceTransform(self.lung.astype(np.uint8), cv2.DIST_L2, 5) * self.spacing

    def place(self, rng: np.random.Generator, depth: float) -> NDArray:
        """Draw a place x, y in mm that lies `depth` mm inside the lung, or as deep as there is."""
        inside = self.depth_in
        rows, columns = np.nonzero(inside >= min(depth, 0.8 * inside.max()))
        k = rng.integers(len(rows))
        return np.array([columns[k] + 0.5, rows[k] + 0.5]) * self.spacing

    def soften(self, change: NDArray, mm: float) -> NDArray:
        """Blur the borders of a change."""
        return cv2.GaussianBlur(change.astype(np.float32), (0, 0), max(mm / self.spacing, 0.3))

    def ball(self, centre: NDArray, radius: float, rng: np.random.Generator) -> NDArray:
        """Path in mm through a slightly oval body of about this radius."""
        radii = radius * rng.uniform(0.85, 1.18, 3)
        return ellipsoid_path(self.axis, self.axis, centre, radii, angle=rng.uniform(0, np.pi))


def _nodule(site: Site, rng: np.random.Generator) -> NDArray:
    """Return a ball of tissue of less than 3 cm."""
    radius = rng.uniform(7.5, 13.5)
    return site.soften(1.1 * TISSUE_FOR_LUNG * site.ball(site.place(rng, radius), radius, rng), 0.7)


def _mass(site: Site, rng: np.random.Generator) -> NDArray:
    """Return a lump of tissue of more than 3 cm: that is the border between nodule and mass (Hansell 2008)."""
    radius = rng.uniform(18, 30)
    centre = site.place(rng, 0.7 * radius)
    lump = site.ball(centre, radius, rng)
    for _ in range(3):
        lump = np.maximum(lump, site.ball(centre + rng.normal(0, 0.35 * radius, 2), 0.7 * radius, rng))
    return site.soften(0.8 * TISSUE_FOR_LUNG * lump, 1.2)


def _calcification(site: Site, rng: np.random.Generator) -> NDArray:
    """Return chalk: small, sharp and as bright as bone."""
    radius = rng.uniform(5, 8)
    centre = site.place(rng, 2 * radius)
    grains = sum(site.ball(centre + rng.normal(0, 0.5 * radius, 2), 0.6 * radius, rng) for _ in range(3))
    return (MU_BONE - MU_LUNG) * (0.5 * grains + 0.7 * site.ball(centre, radius, rng))


def _consolidation(site: Site, rng: np.random.Generator) -> NDArray:
    """Return lung filled with fluid: a cloud without a sharp border, which ends where the lung does."""
    centre, reach = site.place(rng, 22), rng.uniform(20, 36, 2)
    u = (site.axis - centre[0]) / reach[0]
    v = (site.axis - centre[1]) / reach[1]
    cells = rng.standard_normal((24, 24)).astype(np.float32)
    clouds = cv2.resize(cells, site.lung.shape[::-1], interpolation=cv2.INTER_CUBIC)
    hill = np.exp(-0.7 * (u[None, :] ** 2 + v[:, None] ** 2)) * (1 + 0.35 * clouds)
    return rng.uniform(0.7, 1.1) * np.clip(hill - 0.12, 0, 1) * site.soften(site.lung, 2.0)


def _effusion(site: Site, rng: np.random.Generator) -> NDArray:
    """Return fluid at the foot of the lung, with a surface that climbs towards the chest wall."""
    rows, columns = np.nonzero(site.lung)
    top, foot = rows.min(), rows.max()
    inner, outer = (columns.min(), columns.max())[:: -site.side]  # the patient's left is on the right of the film
    level = foot - rng.uniform(0.16, 0.40) * (foot - top)
    climb = rng.uniform(0.08, 0.22) * (foot - top)
    outwards = np.clip((np.arange(len(site.lung)) - inner) / (outer - inner), 0, 1)
    below = np.arange(len(site.lung))[:, None] > level - climb * outwards[None, :] ** 2
    region = cv2.dilate((below & site.lung).astype(np.uint8), np.ones((5, 5), np.uint8))  # the gutter's fine rim too
    return site.soften(rng.uniform(1.3, 1.8) * region, 2.5)


def _pneumothorax(site: Site, rng: np.random.Generator) -> NDArray:
    """Return air between lung and chest wall: a dark rim over apex and side, along a fine bright line."""
    rows, columns = np.nonzero(site.lung)
    high, inner = rows.max() - rows.min(), columns.max() if site.side == RIGHT else columns.min()
    reach = rng.uniform(0.55, 0.8)
    # The lung that is left: the same outline, drawn together towards its root.
    shrink = rng.uniform(0.72, 0.86)
    root = np.array([inner, rows.min() + reach * high])
    matrix = np.column_stack([np.eye(2) * shrink, (1 - shrink) * root])
    left_over = cv2.warpAffine(site.lung.astype(np.uint8), matrix, site.lung.shape[::-1]) > 0
    rim = site.lung & ~left_over
    rim[int(rows.min() + reach * high) :] = False
    edge = cv2.morphologyEx(left_over.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    line = edge & site.soften(rim, 1.0).astype(bool)
    return site.soften(-rng.uniform(0.5, 0.75) * rim, 0.8) + site.soften(0.35 * line, 0.5)


def _fracture(site: Site, rng: np.random.Generator) -> NDArray:
    """Return a broken rib: its outer part stands lower than its inner part, with new bone around the break."""
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
    shift = (rng.uniform(6, 9) / site.spacing * window * beyond).astype(np.float32)
    across, down = np.meshgrid(*[np.arange(len(site.lung), dtype=np.float32)] * 2)
    moved = cv2.remap(site.attenuation, across, down - shift, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    callus = site.ball(np.array([x, y + 3 / site.spacing]) * site.spacing, 6.0, rng)
    return moved - site.attenuation + 0.5 * (MU_BONE - MU_LUNG) * callus


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
    """Plants findings into a phantom, for :func:`heartbox.phantom.render`, and keeps their boxes.

    Parameters
    ----------
    names : sequence of str
        Keys of `PLANTED`; none leaves the film as it is.
    seed, index : int
        Of the film.

    Attributes
    ----------
    findings : list of (str, ndarray)
        What was planted, each with its box as fractions of the film; one that found no place is not among them.
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
                # Seen is what stands out by a third of the most; softer borders are nobody's box.
                seen = np.abs(change) > 0.33 * np.abs(change).max()
                if not (seen & taken).any():
                    attenuation = attenuation + change.astype(np.float32)
                    taken |= cv2.dilate(seen.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
                    self.findings.append((name, scale_boxes(box_from_mask(seen), attenuation.shape, (1, 1))))
                    break
        return attenuation


# ---------------------------------------------------------------- the sample


def draw_findings(seed: int, index: int) -> tuple[str, ...]:
    """Draw what is to be planted into film number `index`: nothing in a normal one, else one to three findings."""
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
    # As NIH names its files, and ChestX-Det10 after it: eight digits of the patient, three of the film.
    name = f"{subject.patient:08d}_{subject.film:03d}.png"
    with complete_or_absent(folder / name) as part:
        part.write_bytes(cv2.imencode(".png", np.rint(film.image * 255).astype(np.uint8))[1].tobytes())
    boxes = [np.rint(clip_boxes(box * size, (size, size))).astype(int).tolist() for _, box in planter.findings]
    kept = [k for k, box in enumerate(boxes) if box_areas(box) > 0]
    syms = [planter.findings[k][0] for k in kept]
    return {"file_name": name, "syms": syms, "boxes": [boxes[k] for k in kept]}


def write_sample(
    folder: str | Path,
    train: int = 240,
    test: int = 80,
    size: int = 224,
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Write phantoms with planted findings in the form of ChestX-Det10.

    ``train.json`` and ``test.json`` beside ``train_data/`` and ``test_data/``. A folder that already holds the same
    sample is left as it is. No patient is on both sides.

    Parameters
    ----------
    folder : path
        Where to; made if need be.
    train, test : int
        Films of each side; `train` is even, since two films of one patient follow each other.
    size : int
        Side of the films, pixels.
    seed : int
        Another seed gives other patients and findings.
    processes, progress
        See :func:`heartbox.utils.parallel.parallel_map`.

    Raises
    ------
    ValueError
        If `train` is odd.
    FileExistsError
        If something else lies in `folder`.
    """
    folder = Path(folder)
    if train % 2:
        raise ValueError(f"train must be even, got {train}: the two films of a patient follow each other")
    about, settings = folder / "sample.json", {"train": train, "test": test, "size": size, "seed": seed, "version": 1}
    if about.is_file():
        if json.loads(about.read_text(encoding="utf-8")) == settings:
            return folder
        about.unlink()  # from here on the folder is not whole
    elif folder.is_dir() and any(folder.glob("*.json")):
        raise FileExistsError(f"{folder}: holds annotations other than the sample's; name another folder")
    for side, first, count in (("train", 0, train), ("test", train, test)):
        shutil.rmtree(folder / f"{side}_data", ignore_errors=True)
        (folder / f"{side}_data").mkdir(parents=True)
        jobs = [(folder / f"{side}_data", seed, first + k, size) for k in range(count)]
        entries = list(parallel_map(_write_one, jobs, f"Sample, {side}", processes=processes, progress=progress))
        with complete_or_absent(folder / f"{side}.json") as part:
            part.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    with complete_or_absent(about) as part:
        part.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return folder
