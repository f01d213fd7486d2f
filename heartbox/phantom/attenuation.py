"""Attenuation along every ray through one subject's body, summed over everything the ray passes.

Broad shapes are computed upright at half the resolution, bones and vessels at full resolution.
Knows bodies and materials; it does not know the detector's response or DICOM.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from . import anatomy
from .anatomy import LEFT, RIGHT, Tube, tube
from .bedside import bedside_devices
from .body import Body
from .bones_and_devices import devices, shoulder_bones
from .opacity import clouds, on_rays
from .projection import (
    MU_BONE,
    MU_FAT,
    MU_LUNG,
    MU_SOFT,
    Beam,
    ellipsoid_path,
    project_tubes,
    stack_path,
    tube_samples,
    union,
)
from .subject import ANATOMY, LUNG, Subject, keyed_generator


def attenuation(subject: Subject, body: Body, opacity: np.ndarray | None = None) -> np.ndarray:
    """Sum attenuation along every ray.

    Parameters
    ----------
    subject : Subject
        Who is X-rayed.
    body : Body
        From `build`.
    opacity : float32 array, optional
        Where the lungs of an ill patient have no air, from `opacity_map`.

    Returns
    -------
    float32 array (size, size)
        Exponent of Beer and Lambert's law, without unit.
    """
    frame, beam = body.frame, body.beam
    rng = keyed_generator(subject.seed, ANATOMY, subject.patient, 1)
    grain = keyed_generator(subject.seed, LUNG, subject.patient)
    w, h = frame.half, frame.height
    # Broad shapes are computed upright at half the resolution, with a margin for the tilt.
    n = beam.size // 2
    coarse = replace(beam, tilt=0.0, sway=None, size=n, spacing=beam.spacing * beam.size / n * 1.1)
    m = coarse.matrix
    x = (np.arange(n) + 0.5 - m[0, 2]) / m[0, 0]
    y = (np.arange(n) + 0.5 - m[1, 2]) / m[1, 1]

    def thickness(tubes):
        return project_tubes([tube_samples(t, coarse) for t in tubes], n, 1)

    total, lung, heart, middle, left = _soft_tissue(subject, body, x, y, rng)
    total = union(total, *_arms(subject, body, x, y))
    aorta = thickness([body.aorta])
    roots = thickness(anatomy.hila(frame, subject.vessels))
    solid = union(heart, middle, 1.6 * aorta, roots)
    air = np.maximum(lung - solid, 0) * left

    air *= _unevenness(subject, x / w, y / h, grain)
    if opacity is not None:
        air *= 1 - on_rays(opacity, body, x, y)

    p = np.float32(0.97 * MU_SOFT) * total - np.float32(MU_SOFT - MU_LUNG) * air
    p += 0.045 * clouds(grain, 24, n) * np.clip(total * np.float32(1 / 60) - 1, 0, 1)
    p += _spine(subject, body, x, y)

    def blob(cx, cy, radii, z, **kw):
        c, scale = beam.cast(np.array([cx, cy, z], float))
        return ellipsoid_path(x, y, c, np.asarray(radii) * scale, **kw)

    p += _chest_wall(subject, body, x, y, blob, rng)
    p += _blades(body, coarse)

    # Air: windpipe and main bronchi, stomach, bowel.
    shift = rng.normal(-2.5, 2.5) - 3 * subject.aorta_unfolding
    windpipe = [(0, -0.45 * h, 5), (0.4 * shift, -0.1 * h, 0), (shift, 0.16 * h, -8), (shift + 1, 0.315 * h, -12)]
    fork = (shift + 1, 0.31 * h, -12)
    airway = [
        tube(windpipe, [9.5, 9.5, 9, 9.5]),
        tube([fork, (-0.10 * w, 0.365 * h, -12), (-0.22 * w, 0.42 * h, -14)], [7, 6.5, 5]),
        tube([fork, (0.12 * w, 0.375 * h, -12), (0.26 * w, 0.43 * h, -14)], [6.5, 6, 4.5]),
    ]
    p -= np.float32(MU_SOFT) * cv2.GaussianBlur(thickness(airway), (0, 0), 0.9 / (x[1] - x[0]))
    p -= _gas(subject, body, x, y, blob, keyed_generator(subject.seed, ANATOMY, subject.patient, 2))

    if subject.illness is not None and subject.illness.slope:
        p += np.float32(subject.illness.slope) * np.clip(x / w, -1, 1).astype(np.float32) * np.clip(total / 100, 0, 1)

    full = _to_fine(p, coarse, beam, cv2.INTER_CUBIC)
    aerated = _to_fine(np.clip(air * np.float32(1 / 130), 0, 1), coarse, beam, cv2.INTER_LINEAR)
    full += _fine_detail(subject, body, rng, grain, aerated)
    return full


def _rows(outline: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edge of a closed outline at heights y; right < left where there is none."""
    top, bottom = outline[:, 1].argmin(), outline[:, 1].argmax()
    a = np.roll(outline, -top, axis=0)
    cut = (bottom - top) % len(outline)
    first, second = a[: cut + 1], np.vstack([a[cut:], a[:1]])[::-1]
    e1 = np.interp(y, np.maximum.accumulate(first[:, 1]), first[:, 0])
    e2 = np.interp(y, np.maximum.accumulate(second[:, 1]), second[:, 0])
    inside = (y > outline[top, 1]) & (y < outline[bottom, 1])
    return np.where(inside, np.minimum(e1, e2), 1.0), np.where(inside, np.maximum(e1, e2), -1.0)


def _soft_tissue(subject: Subject, body: Body, x: np.ndarray, y: np.ndarray, rng) -> tuple[np.ndarray, ...]:
    """Paths in mm through body, lungs, heart, mediastinum; share of the lung that the diaphragm leaves."""
    frame, beam = body.frame, body.beam
    half, height, depth = frame.half, frame.height, frame.depth
    py = beam.heights(y, 0.0)
    n = py / height
    lat_r, _ = anatomy.lung_edges(frame, np.maximum(py, 0), RIGHT, body.lungs[RIGHT])
    lat_l, _ = anatomy.lung_edges(frame, np.maximum(py, 0), LEFT, body.lungs[LEFT])

    # The body: trunk, shoulder girdle with the neck, arms.
    waist = anatomy.profile(n, [(-0.1, 0.2), (0.1, 0.75), (0.3, 1.0), (0.9, 1.0), (1.3, 0.98 + 0.004 * subject.tissue)])
    deep = depth * anatomy.profile(n, [(-0.2, 0.5), (0.0, 0.66), (0.2, 0.86), (0.5, 1.0), (1.3, 1.0)])
    wall = subject.tissue + 9
    trunk = stack_path(x, beam.edges(np.minimum(lat_r, -0.6 * half) - wall, 0) * waist,
                       beam.edges(np.maximum(lat_l, 0.6 * half) + wall, 0) * waist, deep, box=1)  # fmt: skip
    neck = 0.40 * half + 0.5 * subject.tissue
    slope = rng.uniform(-0.02, 0.03)
    reach = [(-0.6, 0.98 * neck), (-0.22, neck), (-0.15 + slope, 1.1 * neck), (-0.105 + slope, 0.62 * half),
             (-0.06 + slope, 0.98 * half), (-0.02, 1.28 * half), (0.06, 1.46 * half), (0.18, 1.50 * half),
             (0.3, 1.40 * half), (0.40, 1.24 * half), (0.5, 1.02 * half), (0.6, 0.6 * half)]  # fmt: skip
    reach = anatomy.profile(n, [(at, max(value, neck * (at < 0))) for at, value in reach])
    thick = anatomy.profile(n, [(-0.6, 58), (-0.2, 58), (-0.1, 66), (0.05, 80), (0.25, 76), (0.45, 52), (0.6, 5)])
    girdle = stack_path(x, beam.edges(-reach, 0), beam.edges(reach, 0), thick * (0.8 + depth / 550))
    total = union(trunk, girdle)

    # Lungs, as deep as the chest; what the heart and the diaphragm take from them comes off later.
    lung = np.zeros_like(total)
    lung_deep = (
        depth
        * 0.80
        * anatomy.profile(
            n, [(-0.01, 0.12), (0.03, 0.30), (0.09, 0.52), (0.18, 0.75), (0.35, 0.95), (0.6, 1.0), (1.2, 0.95)]
        )
    )
    # Below its silhouette the dome takes a share of the lung's depth that grows as a square root; what remains is the
    # lung in the recess behind it. Behind the heart the two floors merge.
    across = x / beam.magnification(0)
    floors = [anatomy.dome(frame, across, side, *body.domes[side]) for side in (RIGHT, LEFT)]
    turn = np.clip(0.5 + across / 80, 0, 1)
    floor = beam.axis + (floors[0] * (1 - turn) + floors[1] * turn - beam.axis) * beam.magnification(0)
    below = (y.astype(np.float32)[:, None] - floor.astype(np.float32)[None, :]) / np.float32(0.07 * height)
    gone = anatomy.taken_by_dome(below)
    for side in (RIGHT, LEFT):
        lateral, medial = anatomy.lung_edges(frame, py, side, body.lungs[side])
        a, b = beam.edges(lateral, 0), beam.edges(medial, 0)
        inside = (py > 0) & (py < 1.2 * height)
        path = stack_path(
            x,
            np.where(inside, np.minimum(a, b), 1),
            np.where(inside, np.maximum(a, b), -1),
            lung_deep,
            box=2 if side == RIGHT else 3,
        )
        lung += path

    heart_l, heart_r = _rows(body.heart, y)
    h_top, h_bottom = body.heart[:, 1].min(), body.heart[:, 1].max()
    v = np.clip((y - h_top) / (h_bottom - h_top), 0, 1)
    heart_deep = (
        0.36
        * (body.heart[:, 0].max() - body.heart[:, 0].min())
        * anatomy.profile(v, [(0, 0.55), (0.2, 0.8), (0.55, 1), (0.85, 0.95), (1.0, 0.4)])
    )
    heart = stack_path(x, heart_l, heart_r, heart_deep)

    edges = body.middle(py)
    mid_deep = depth * anatomy.profile(
        n, [(-0.3, 0.1), (0.0, 0.25), (0.15, 0.42), (0.36, 0.45), (0.6, 0.24), (1.2, 0.2)]
    )
    middle = stack_path(x, beam.edges(edges[0], -5), beam.edges(edges[1], -5), mid_deep)
    return total, lung, heart, middle, 1 - gone


def _spine(subject: Subject, body: Body, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Excess attenuation of the spine: bodies with end plates, pedicles and spinous processes."""
    frame, beam = body.frame, body.beam
    z = -0.45 * frame.depth
    n = beam.heights(y, z) / frame.height
    pitch = np.concatenate([np.full(6, 0.062), np.linspace(0.066, 0.096, 12), np.full(9, 0.115)])
    bounds = -0.03 + np.concatenate([[0], np.cumsum(pitch)]) - pitch[:6].sum()
    which = np.clip(np.searchsorted(bounds, n) - 1, 0, len(pitch) - 1)
    v = (n - bounds[which]) / pitch[which]
    wide = frame.half * np.interp(n, [-0.4, 0.0, 0.5, 1.2], [0.078, 0.108, 0.118, 0.165])
    bend = subject.scoliosis * np.sin(2.2 * n + 0.4)
    middle = beam.edges(bend, z)
    hw = wide * (1 - 0.10 * np.sin(np.pi * np.clip(v / 0.84, 0, 1)))
    solid = np.clip((0.86 - v) / 0.06, 0, 1)  # the disc is soft
    near = np.flatnonzero(np.abs(x - beam.edges(0.0, z)) < 1.4 * wide.max() + abs(subject.scoliosis) * 1.3)
    full = np.zeros((len(y), len(x)), np.float32)
    if not len(near):
        return full
    near = slice(near[0], near[-1] + 1)
    u = ((x[None, near] - middle[:, None]) / hw[:, None]).astype(np.float32)
    body_path = np.maximum(1 - u * u, 0) ** 0.75
    plates = np.exp(-(((v - 0.03) / 0.05) ** 2)) + np.exp(-(((v - 0.80) / 0.05) ** 2))
    out = body_path * (0.16 * solid + 0.06 * plates).astype(np.float32)[:, None]
    out += (np.exp(-(((np.abs(u) - 0.93) / 0.07) ** 2)) * (0.05 * solid)[:, None]).astype(np.float32)
    pedicle = np.hypot((np.abs(u) - 0.62) / 0.20, ((v - 0.30) / 0.20)[:, None])
    out += 0.065 * np.exp(-(((pedicle - 0.85) / 0.3) ** 2)).astype(np.float32)
    process = np.hypot(u / 0.17, ((v - 0.72) / 0.34)[:, None])
    out += 0.20 * np.clip(1.15 - process, 0, 0.5).astype(np.float32)
    full[:, near] = np.float32(0.75) * out
    return full


def _blades(body: Body, beam: Beam) -> np.ndarray:
    """Attenuation of the shoulder blades' thin plates, a few mm of bone and muscle with soft edges."""
    w, h, d = body.frame.half, body.frame.height, body.frame.depth
    out = np.zeros((beam.size, beam.size), np.float32)
    for side, out_ in zip((RIGHT, LEFT), body.scapulae, strict=True):
        corners = [
            (0.80 + out_, 0.05),
            (1.12 + out_, 0.09),
            (1.08 + 1.1 * out_, 0.28),
            (1.0 + 1.4 * out_, 0.52),
            (0.88 + 1.2 * out_, 0.36),
            (0.80 + out_, 0.19),
        ]
        points = np.array([(side * a * w, b * h, -0.5 * d) for a, b in corners])
        pixels = beam.pixels(beam.cast(points)[0])
        cv2.fillConvexPoly(out, np.round(pixels * 16).astype(np.int32), 1.0, lineType=cv2.LINE_8, shift=4)
    return cv2.GaussianBlur(out, (0, 0), 1.2 / beam.spacing) * np.float32(0.075)


def _arms(subject: Subject, body: Body, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Paths through the upper arms."""
    arm = np.radians(subject.arm_angle_deg)
    r = 38 + 0.8 * subject.tissue
    out = []
    for side in (RIGHT, LEFT):
        middle = np.array([side * 1.30 * body.frame.half, 0.15 * body.frame.height, 0.0])
        middle += 190 * np.array([side * np.sin(arm), np.cos(arm), 0.0])
        centre, scale = body.beam.cast(middle)
        out.append(ellipsoid_path(x, y, centre, np.array([r, 235, 0.85 * r]) * scale, angle=-side * arm))
    return out


def _unevenness(subject: Subject, across: np.ndarray, down: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Air content relative to the average, uneven as in every lung, at fractions of frame.half and frame.height."""
    n = len(across)
    out = 1 + 0.02 * clouds(rng, 12, n) + 0.012 * clouds(rng, 64, n) + 0.012 * clouds(rng, 180, n)
    down = down.astype(np.float32)[:, None]
    out -= 0.10 * np.clip(down - 0.2, 0, 1)  # blood gathers at the bases
    # Around the hila so many vessels overlap that they veil the lung.
    veils = ((-0.26, 0.47, 0.27, 0.2, 0.26), (0.27, 0.44, 0.26, 0.2, 0.24), (-0.3, 0.7, 0.3, 0.22, 0.14),
             (0.5, 0.68, 0.28, 0.2, 0.1))  # fmt: skip
    for x, y, wide, high, veil in veils:
        u = np.exp(-(((across - x) / wide) ** 2)).astype(np.float32)[None, :]
        out *= 1 - np.float32(veil * subject.vessels) * u * np.exp(-(((down - y) / high) ** 2))
    return out


def _chest_wall(subject: Subject, body: Body, x: np.ndarray, y: np.ndarray, blob, rng) -> np.ndarray:
    """Attenuation of muscle, breast and nipple in front of the lungs, of the heads of the arms, of a pacemaker."""
    w, h, d = body.frame.half, body.frame.height, body.frame.depth
    out = np.zeros((len(y), len(x)), np.float32)
    for side in (RIGHT, LEFT):
        e = rng.normal(0, 0.02, 3)
        muscle = (0.5 * w, 0.21 * h, 8)
        out += MU_SOFT * blob(side * (0.72 + e[0]) * w, (0.25 + e[1]) * h, muscle, 0.8 * d, angle=side * 0.5)
        if subject.breast > 0:
            b = np.sqrt(subject.breast)
            cx, cy = side * (0.60 + 0.06 * b + e[2]) * w, (0.60 + 0.07 * b + e[0]) * h
            path = blob(cx, cy, (0.46 * w * b, 0.25 * h * b, 21 * b), 0.9 * d)
            # Only the lower and outer border stands out from the chest; elsewhere the breast merges with it.
            down = np.clip((y - (cy - 0.25 * h * b)) / (0.42 * h * b), 0, 1) ** 1.5
            out_ = np.clip((side * x / w - 0.08) / 0.5, 0, 1) ** 1.2
            out += MU_FAT * path * down.astype(np.float32)[:, None] * out_.astype(np.float32)[None, :]
        out += MU_SOFT * blob(side * 0.66 * w, 0.74 * h, (4, 4, 2.5), 0.95 * d)
        head = (side * (1.27 + body.scapulae[side > 0]) * w, 0.155 * h)
        out += np.float32(0.0055) * blob(*head, (22, 23, 20), 0)
    if subject.has_pacemaker:  # a flat case, practically opaque
        out += 2.0 * np.minimum(blob(0.66 * w, 0.21 * h, (21, 17, 9), 0.9 * d, angle=0.3) / 6, 1)
    return out


def _to_fine(values: np.ndarray, coarse: Beam, fine: Beam, interpolation: int) -> np.ndarray:
    """Take float32 values from the coarse, upright grid to the film: tilted, and swayed where the trunk is bent."""
    matrix = _coarse_to_fine(coarse, fine).astype(float)
    if fine.sway is None:
        size = (fine.size, fine.size)
        return cv2.warpAffine(values, matrix, size, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
    inverse = cv2.invertAffineTransform(matrix)
    at = np.arange(fine.size, dtype=np.float32)
    column, row = ((a * at[None, :] + b * at[:, None] + c).astype(np.float32) for a, b, c in inverse.astype(np.float32))
    m = coarse.matrix
    height = (np.arange(coarse.size) + 0.5 - m[1, 2]) / m[1, 1]
    shift = (fine.bend(height) * m[0, 0]).astype(np.float32)  # one number a row of the coarse grid
    column -= np.interp(row, np.arange(coarse.size), shift).astype(np.float32)
    return cv2.remap(values, column, row, interpolation, borderMode=cv2.BORDER_REPLICATE)


def _coarse_to_fine(coarse: Beam, fine: Beam) -> np.ndarray:
    a = np.vstack([coarse.matrix, [0, 0, 1]])
    b = np.vstack([fine.matrix, [0, 0, 1]])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return (np.linalg.inv(half) @ b @ np.linalg.inv(a) @ half)[:2]


def _gas(subject: Subject, body: Body, x, y, blob, rng) -> np.ndarray:
    """Return by how much gas in stomach and bowel lowers the attenuation."""
    w, h = body.frame.half, body.frame.height
    top, _ = body.domes[LEFT]
    out = np.zeros((len(y), len(x)), np.float32)
    if subject.stomach_gas > 0.15:
        size = np.sqrt(subject.stomach_gas)
        cx, cy = (0.50 + rng.normal(0, 0.06)) * w, (top + 0.055 + 0.05 * size) * h
        bubble = union(
            blob(cx, cy, (30 * size, 15 * size, 26), 0, angle=0.15),
            blob(cx + 16 * size, cy - 1, (20 * size, 14 * size, 24), 0, angle=-0.2),
        )
        if subject.view == "PA":  # upright: a level of fluid
            level = body.beam.axis + (cy + 9 * size - body.beam.axis) * body.beam.magnification(0)
            bubble *= np.clip((level - y) / 2.0 + 0.5, 0, 1).astype(np.float32)[:, None]
        out += bubble * np.float32(0.8 * MU_SOFT)
    for _ in range(rng.integers(0, 4)):  # a loop of bowel, in beads
        cx, cy, heading = rng.uniform(-0.4, 0.9) * w, rng.uniform(1.06, 1.4) * h, rng.uniform(-0.9, 0.9)
        bore = rng.uniform(7, 13)
        for _ in range(rng.integers(3, 8)):
            cx, cy, heading = cx + bore * np.cos(heading), cy + bore * np.sin(heading), heading + rng.normal(0, 0.4)
            size = bore * rng.uniform(0.6, 1.25)
            out += np.float32(0.35 * MU_SOFT) * blob(cx, cy, (1.1 * size, size, 9), 10)
    return cv2.GaussianBlur(out, (0, 0), max(2.0 / (x[1] - x[0]), 0.5))


def _fine_detail(subject: Subject, body: Body, rng, grain, aerated: np.ndarray) -> np.ndarray:
    """Excess attenuation of bones, lung vessels and devices, at full resolution."""
    frame, beam = body.frame, body.beam

    def cast(tubes, cells=2):
        return project_tubes([tube_samples(t, beam) for t in tubes], beam.size, cells)

    out = np.zeros((beam.size, beam.size), np.float32)
    old = np.clip((subject.age - 50) / 40, 0, 1)
    for group in anatomy.rib_cage(frame, body.lungs, rng, 1.0):
        bone = [replace(r, wall_mu=(MU_BONE - MU_SOFT) * (1.35 - 0.4 * old), core_mu=0.0085) for r in group]
        out += cast(bone, 4)
    for group in shoulder_bones(subject, body, rng):
        out += cast(group, 4)

    # One layer for each size of vessel: in a layer the nearest centre line wins, and a thin branch must not cut
    # a hole in a thick one.
    layers: list[list] = [[], [], []]
    for side in (RIGHT, LEFT):
        for level, (points, radii) in enumerate(anatomy.vessel_tree(frame, side, grain)):
            radii = radii * subject.vessels
            layers[0 if level < 2 else 1 if level < 4 else 2].append(Tube(points, radii, radii, core_mu=1.0))

    def within_lung(samples):
        column, row = (np.clip(samples[:, k], 0, beam.size - 1).astype(np.int32) for k in (0, 1))
        return samples[aerated[row, column] > 0.02]

    vessels = np.zeros_like(out)
    for layer in layers:
        vessels += project_tubes([within_lung(tube_samples(t, beam)) for t in layer], beam.size, 2)
    out += np.float32(2.8 * (MU_SOFT - MU_LUNG)) * vessels * aerated
    out += cast(devices(subject, body, rng))
    if subject.illness is not None:
        for device in bedside_devices(subject, body):  # one by one: cables cross, and what crosses adds up
            out += cast([device])
    return out
