"""Where air is missing from an ill patient's lungs, and which borders of the heart that hides.

Air that is gone is gone along the whole ray, so a lung without air is as bright as the heart beside it, and the
border disappears by itself: nothing is painted over the image. Knows shapes; it does not know rays or DICOM.
"""

from __future__ import annotations

import cv2
import numpy as np

from . import anatomy
from .anatomy import LEFT, RIGHT
from .body import Body
from .illness import Opacity
from .subject import ILLNESS, Subject, keyed_generator

CELLS = 176  # a side of the map; about 2 mm, finer than the softest border here
ACROSS = 1.3  # the map reaches so far to either side, as a fraction of frame.half
DOWN = (-0.15, 1.45)  # and from here to here, as fractions of frame.height
HIDDEN = 0.85  # share of the air that must be gone beside a border of the heart for it to count as hidden


def clouds(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise with standard deviation 1, float32 (size, size), with a grain of size / cells pixels."""
    return cv2.resize(
        rng.standard_normal((cells, cells), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )


def _step(value: np.ndarray, softness: float) -> np.ndarray:
    """Smooth step from 0 to 1 at value 0."""
    return 1 / (1 + np.exp(-np.clip(value / softness, -30, 30)))


def opacity_map(subject: Subject, body: Body) -> np.ndarray:
    """Share of the air that is missing, over the front of the patient.

    Parameters
    ----------
    subject : Subject
        From `make_ill`.
    body : Body
        From `build`.

    Returns
    -------
    float32 array (CELLS, CELLS)
        0 to 1; rows run over `DOWN`, columns over -`ACROSS` to `ACROSS`.
    """
    rng = keyed_generator(subject.seed, ILLNESS, subject.index, 1)
    u = np.linspace(-ACROSS, ACROSS, CELLS, dtype=np.float32)[None, :]
    v = np.linspace(*DOWN, CELLS, dtype=np.float32)[:, None]
    air = np.ones((CELLS, CELLS), np.float32)
    for each in subject.illness.opacities:
        for side in (RIGHT, LEFT) if each.side == 0 else (each.side,):
            lateral, _ = anatomy.lung_edges(body.frame, v[:, 0] * body.frame.height, side, body.lungs[side])
            out = side * u / (side * lateral / body.frame.half).astype(np.float32)[:, None]
            shape = _KINDS[each.kind](each, out, v, body.domes[side][0], rng)
            here = _step(side * u, 0.03)  # the other lung keeps its air
            air *= 1 - np.float32(each.density) * np.clip(shape * here, 0, 1)
    return 1 - air


# Each shape is a function of the opacity, of `out` (0 at the midline, 1 at the lung's outer edge), of the height `v`
# (0 at the apex, 1 at the costophrenic angle) and of the dome's height. It gives 0 to 1, float32 (CELLS, CELLS).


def _effusion(each: Opacity, out, v, top, rng):
    """Fluid in an upright patient: highest at the chest wall, with a concave upper border (the meniscus)."""
    level = 1.0 - (1.0 - 0.1 * rng.random()) * (0.06 + 0.74 * each.size)
    rise = (0.05 + 0.16 * min(each.size + 0.3, 1)) * rng.uniform(0.7, 1.3)
    surface = level - rise * np.clip(out, 0, 1) ** 4 - 0.03 * np.clip(1 - out, 0, 1) ** 4
    return 0.9 * _step(v - surface, 0.012) + 0.1 * _step(v - surface + 0.08, 0.03)


def _veil(each: Opacity, out, v, top, rng):
    """Fluid in a patient lying down: it spreads behind the lung and is thickest at the base."""
    start = rng.uniform(0.0, 0.6)
    return (0.35 + 0.3 * each.size) + (0.65 - 0.3 * each.size) * _step(v - start, 0.12) + 0 * out


def _consolidation(each: Opacity, out, v, top, rng):
    """Inflamed or collapsed part of a lung, most often at the base beside the heart, with ragged borders."""
    wide, high = 0.22 + 0.36 * each.size, 0.14 + 0.26 * each.size
    at, height = rng.uniform(0.25, 0.65), top - rng.uniform(-0.1, 0.25)
    lean = rng.uniform(-0.6, 0.6)
    a, b = (out - at) / wide, (v - height) / high
    distance = np.hypot(a + lean * b, b) + 0.2 * clouds(rng, 8, CELLS) + 0.14 * clouds(rng, 26, CELLS)
    return _step(1.15 - distance, rng.uniform(0.06, 0.26)) * (1 - 0.06 * np.clip(clouds(rng, 60, CELLS), 0, 1))


def _retrocardiac(each: Opacity, out, v, top, rng):
    """Collapsed lower lobe behind the heart: a wedge from the hilum to the diaphragm, which it hides."""
    upper = rng.uniform(0.42, 0.6)
    border = (0.15 + (0.35 + 0.55 * each.size) * np.clip((v - upper) / (1 - upper), 0, 1.2)) + 0.02 * clouds(
        rng, 12, CELLS
    )
    return _step(border - out, 0.03) * _step(v - upper, 0.04)


def _opaque_lung(each: Opacity, out, v, top, rng):
    """Lung without air, as a whole or from some height downwards."""
    start = 0.75 * (1 - each.size) + 0.06 * clouds(rng, 6, CELLS)
    return _step(v - start + 0.1, 0.07) + 0 * out


def _oedema(each: Opacity, out, v, top, rng):
    """Fluid in the lung's tissue: around the hila and towards the bases, on both sides."""
    wide = 0.3 + 0.3 * each.size
    wing = np.exp(-(((out - 0.3) / wide) ** 2) - ((v - 0.55) / (0.25 + 0.2 * each.size)) ** 2)
    base = 0.5 * _step(v - 0.65, 0.12)
    return np.clip(wing + base, 0, 1) * np.clip(
        0.85 + 0.2 * clouds(rng, 14, CELLS) + 0.1 * clouds(rng, 50, CELLS), 0, 1
    )


def _patches(each: Opacity, out, v, top, rng):
    """Patches in both lungs, mostly in the outer and lower parts, as in viral pneumonia and respiratory distress."""
    noise = clouds(rng, 9, CELLS) + 0.7 * clouds(rng, 22, CELLS) + 0.4 * clouds(rng, 60, CELLS)
    where = 0.5 * np.clip(out, 0, 1) + 0.9 * np.clip(v, 0, 1) - 1.3 + 1.2 * each.size
    return _step(0.7 * noise + 1.5 * where - 0.2, 0.6)


def _fat_pad(each: Opacity, out, v, top, rng):
    """Fat in the angle between heart and diaphragm; it is fainter than the heart and does not belong to it."""
    at, wide = rng.uniform(0.35, 0.7), 0.12 + 0.16 * each.size
    return _step(1 - np.hypot((out - at) / wide, (v - top - 0.03) / (0.6 * wide + 0.03)), 0.12)


_KINDS = {
    "effusion": _effusion,
    "veil": _veil,
    "consolidation": _consolidation,
    "retrocardiac": _retrocardiac,
    "opaque lung": _opaque_lung,
    "oedema": _oedema,
    "patches": _patches,
    "fat pad": _fat_pad,
}


def _cells(body: Body, x, y) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the map at points of the upright detector plane, mm, as numbers with a fraction."""
    beam = body.beam
    across = np.asarray(x) / (beam.magnification(0.0) * np.cos(beam.turn)) / body.frame.half
    down = beam.heights(y, 0.0) / body.frame.height
    column = (across + ACROSS) / (2 * ACROSS) * (CELLS - 1)
    row = (down - DOWN[0]) / (DOWN[1] - DOWN[0]) * (CELLS - 1)
    return column.astype(np.float32), row.astype(np.float32)


def on_rays(opacity: np.ndarray, body: Body, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Look the map up where rays x (columns,), y (rows,) meet the upright plane, mm: float32 (rows, columns)."""
    column, row = _cells(body, x, y)
    columns, rows = np.meshgrid(column, row)
    return cv2.remap(opacity, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def hidden_sides(body: Body, opacity: np.ndarray | None) -> tuple[str, ...]:
    """Say which sides of the heart's box cannot be seen, because there is hardly any air beside them.

    Parameters
    ----------
    body : Body
        From `build`.
    opacity : float32 array (CELLS, CELLS), optional
        From `opacity_map`; None where the lungs are healthy.

    Returns
    -------
    tuple of str
        Of ``"x_min"`` and ``"x_max"``: picture's left and right, as in :data:`heartbox.boxes.EDGES`. Both what fills
        the lung and the diaphragm's dome count. A side that is not named can still be faint.
    """
    heart, frame, beam = body.heart, body.frame, body.beam
    width = np.ptp(heart[:, 0])
    hidden = []
    for name, side in (("x_min", RIGHT), ("x_max", LEFT)):
        near = heart[side * heart[:, 0] > (side * heart[:, 0]).max() - 0.04 * width]
        x, y = near[:, 0] + side * 5.0, near[:, 1]  # 5 mm beside the border
        across = x / beam.magnification(0.0)
        below = beam.heights(y, 0.0) - anatomy.dome(frame, across, side, *body.domes[side])
        air = 1 - anatomy.taken_by_dome(below / (0.07 * frame.height))
        if opacity is not None:
            column, row = _cells(body, x, y)
            air = air * (1 - cv2.remap(opacity, column[None], row[None], cv2.INTER_LINEAR)[0])
        if air.mean() < 1 - HIDDEN:
            hidden.append(name)
    return tuple(hidden)
