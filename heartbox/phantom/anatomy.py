"""The anatomy behind a phantom X-ray: smooth outlines and tubes in millimetres, made from a few landmarks.

Patient frame: x to the patient's left (the image's right), y downwards from the lung apices, z forwards.
Knows shapes; it does not know rays, pixels or DICOM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

RIGHT, LEFT = -1, 1  # the patient's sides, as the sign of x


@dataclass(frozen=True)
class Tube:
    """A bent tube with an oval cross-section and a wall: a rib, a vessel, a cable; or a bundle of them.

    Parameters
    ----------
    points : float array (n, 3) or (bundle, n, 3)
        Centre line, millimetres in the patient frame. The other arrays have the same leading shape.
    radius : float array (n,)
        Half the height seen from the front, mm.
    depth : float array (n,)
        Half the depth along the ray, mm; equal to `radius` for a round tube.
    wall : float
        Thickness of the wall, mm; 0 for a solid tube.
    wall_mu, core_mu : float
        Attenuation of wall and core in excess of what the tube displaces, per mm.
    strength : float array (n,)
        Factor on both, along the tube: a rib turns into cartilage, a stent ends.
    """

    points: np.ndarray
    radius: np.ndarray
    depth: np.ndarray
    wall: float = 0.0
    wall_mu: float = 1.0
    core_mu: float = 1.0
    strength: np.ndarray | None = None
    bend: float = 0.3  # cosine of the steepest slope towards the ray by which a path is still lengthened


def spline(points, count: int = 200) -> np.ndarray:
    """Pass a Catmull-Rom spline through landmarks.

    Parameters
    ----------
    points : array (k, d)
        Landmarks, k >= 2.
    count : int
        Points wanted.

    Returns
    -------
    float array (count, d)
        Points along the curve; the first and last are the first and last landmarks.
    """
    p = np.asarray(points, float)
    padded = np.vstack([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, len(p) - 1, count)
    i = np.minimum(t.astype(int), len(p) - 2)
    f = (t - i)[:, None]
    a, b, c, d = (padded[i + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * f + (2 * a - 5 * b + 4 * c - d) * f**2 + (3 * b - a - 3 * c + d) * f**3)


def profile(y, landmarks) -> np.ndarray:
    """Evaluate a smooth function of y given as landmarks ``[(y, value), ...]``, constant outside them.

    Cubic pieces whose slopes are limited so that nothing overshoots (Fritsch and Carlson 1980).
    """
    knots, values = np.asarray(landmarks, float).T
    width = np.diff(knots)
    slope = np.diff(values) / width
    inner = 2 * slope[:-1] * slope[1:] / np.where(slope[:-1] + slope[1:] == 0, 1, slope[:-1] + slope[1:])
    tangent = np.concatenate([slope[:1], np.where(slope[:-1] * slope[1:] > 0, inner, 0), slope[-1:]])
    at = np.clip(np.asarray(y, float), knots[0], knots[-1])
    i = np.clip(np.searchsorted(knots, at) - 1, 0, len(width) - 1)
    f = (at - knots[i]) / width[i]
    rise = values[i + 1] - values[i]
    m0, m1 = tangent[i] * width[i], tangent[i + 1] * width[i]
    return values[i] + f * m0 + f**2 * (3 * rise - 2 * m0 - m1) + f**3 * (m0 + m1 - 2 * rise)


def tube(landmarks, radius, *, depth=None, count: int = 160, strength=None, **kinds) -> Tube:
    """Make a `Tube` from landmarks (k, 3) and radii, each a number or one value a landmark."""
    landmarks = np.asarray(landmarks, float)

    def along(values):
        values = np.broadcast_to(np.asarray(values, float), len(landmarks))
        return spline(values[:, None], count)[:, 0]

    radius = along(radius)
    return Tube(
        points=spline(landmarks, count),
        radius=radius,
        depth=radius if depth is None else along(depth),
        strength=None if strength is None else np.clip(along(strength), 0, None),
        **kinds,
    )


@dataclass(frozen=True)
class Frame:
    """The few lengths from which everything else follows, in mm.

    `half` is half the inner thorax width, `height` the lungs' height from apex to costophrenic angle, `depth`
    half the body's depth front to back, `tissue` the thickness of the chest wall at the side.
    """

    half: float
    height: float
    depth: float
    tissue: float


def lung_edges(frame: Frame, y, side: int, shape) -> tuple[np.ndarray, np.ndarray]:
    """Lateral and medial edge of a lung at heights y.

    Parameters
    ----------
    frame : Frame
        The patient's lengths.
    y : float array (n,)
        Heights below the lung apex, mm.
    side : int
        `RIGHT` or `LEFT`.
    shape : float array (4,)
        Small deviations from the average landmarks, as fractions of `frame.half`.

    Returns
    -------
    lateral, medial : float arrays (n,)
        x in mm, signed.
    """
    apex, shoulder, middle, base = shape
    lateral = [
        (-0.001, 0.43 + apex),
        (0.006, 0.52 + apex),
        (0.03, 0.615 + apex),
        (0.08, 0.70 + 0.7 * apex + 0.3 * shoulder),
        (0.16, 0.79 + shoulder),
        (0.28, 0.87 + shoulder),
        (0.44, 0.93 + middle),
        (0.62, 0.972 + middle),
        (0.80, 0.996),
        (0.93, 1.0 + 0.3 * base),
        (1.05, 0.985 + base),
        (1.30, 0.97 + base),
    ]
    medial = [
        (-0.001, 0.41 + apex),
        (0.006, 0.33 + apex),
        (0.03, 0.255 + 0.6 * apex),
        (0.08, 0.19),
        (0.16, 0.09),
        (0.3, 0.03),
        (1.3, 0.02),
    ]
    n = np.asarray(y, float) / frame.height
    return side * frame.half * profile(n, lateral), side * frame.half * profile(n, medial)


def dome(frame: Frame, x, side: int, top: float, lean: float) -> np.ndarray:
    """Height of the diaphragm's silhouette at x: half an ellipse, less steep towards the heart than towards the ribs.

    Parameters
    ----------
    frame : Frame
        The patient's lengths.
    x : float array
        mm, signed as in the patient frame.
    side : int
        `RIGHT` or `LEFT`.
    top : float
        Height of the dome's top, as a fraction of the lung height; its foot is at the costophrenic angle.
    lean : float
        Distance of the top from the midline, as a fraction of `frame.half`.

    Returns
    -------
    float array
        y in mm.
    """
    u = side * np.asarray(x, float) / frame.half - lean
    u = u / np.where(u > 0, 1.012 - lean, 1.2)
    # The foot of the ellipse lies lower than the angle, which is cut off by the chest wall at u of about 0.97.
    rise = (1.0 - top) / (1 - np.sqrt(1 - 0.97**2))
    return frame.height * (top + rise * (1 - np.sqrt(np.clip(1 - u**2, 0, 1))))


def taken_by_dome(below: np.ndarray) -> np.ndarray:
    """Share of the lung's depth that the dome takes; `below` is 0 at its silhouette and 1 where it takes everything."""
    gone = np.clip(below, 0, 1)
    return np.sqrt(gone * (2 - gone))


def heart_outline(roundness: float, apex: float, waist: float) -> np.ndarray:
    """Outline of the cardiac silhouette in a box of its own.

    Clockwise from the top: pulmonary trunk and auricle, the left ventricle's bulge, the apex, the diaphragmatic
    side, the right atrium.

    Parameters
    ----------
    roundness : float
        0 for the triangular heart in full inspiration, 1 for a globular one.
    apex : float
        How high the apex is lifted, 0 to 1.
    waist : float
        Depth of the notch below the pulmonary trunk, 0 to 1.

    Returns
    -------
    float array (n, 2)
        x with -1 and 1 at the right and left extreme and 0 at the midline of the thorax; y in 0 to 1.
    """
    lean = np.array(
        [(0.02, 0.0), (0.16, 0.022), (0.30, 0.1), (0.43, 0.22), (0.62, 0.38), (0.83, 0.565), (0.96, 0.73),
         (1.0, 0.845), (0.90, 0.94), (0.62, 0.985), (0.2, 1.0), (-0.35, 0.985), (-0.84, 0.93), (-0.95, 0.80),
         (-1.0, 0.63), (-0.95, 0.46), (-0.80, 0.29), (-0.60, 0.15), (-0.28, 0.035), (0.02, 0.0)]
    )  # fmt: skip
    full = np.array(
        [(0.0, 0.0), (0.2, 0.01), (0.42, 0.06), (0.6, 0.16), (0.8, 0.32), (0.94, 0.5), (1.0, 0.66),
         (0.98, 0.8), (0.86, 0.91), (0.6, 0.97), (0.15, 1.0), (-0.4, 0.98), (-0.8, 0.9), (-0.96, 0.76),
         (-1.0, 0.58), (-0.97, 0.42), (-0.86, 0.24), (-0.7, 0.12), (-0.35, 0.02), (0.0, 0.0)]
    )  # fmt: skip
    points = (1 - roundness) * lean + roundness * full
    points[3:5, 0] -= 0.07 * waist
    points[6:9, 1] -= np.array([0.02, 0.06, 0.03]) * apex
    return spline(points, 400)


def rib_cage(frame: Frame, shape, rng: np.random.Generator, tilt: float) -> list[list[Tube]]:
    """Twelve pairs of ribs.

    Each rib leaves its vertebra almost level, follows the outline of the lung around the side of the chest and runs
    forwards and down to its cartilage.

    Parameters
    ----------
    frame : Frame
        The patient's lengths.
    shape : dict of int to float array (4,)
        Shape of the two lungs, as for `lung_edges`.
    rng : numpy.random.Generator
        For the small differences between ribs.
    tilt : float
        How far a rib sinks from back to front, relative to the average.

    Returns
    -------
    list of four lists of Tube
        Back parts of even and odd ribs, front parts of even and odd ribs. The ribs of one list do not touch, so each
        list can be projected in one go. Radii, walls and `strength` are set; attenuations are not.
    """
    groups: list[list[Tube]] = [[], [], [], []]
    w, h, d = frame.half, frame.height, frame.depth
    pitch = np.linspace(0.066, 0.096, 12) * (1 + rng.normal(0, 0.02, 12))
    starts = -0.012 + np.concatenate([[0], np.cumsum(pitch)[:-1]])
    thickness = rng.uniform(0.9, 1.1)
    for side in (RIGHT, LEFT):
        # The first rib is flat: its arch around the apex is seen from above.
        j = rng.normal(0, 0.012, 2)
        first = [(0.13, -0.012, -0.55), (0.28, -0.035, -0.6), (0.45, -0.012, -0.35), (0.535 + j[0], 0.04, 0.0),
                 (0.46 + j[0], 0.098, 0.35), (0.27, 0.145 + j[1], 0.6)]  # fmt: skip
        points = [(side * x * w, y * h, z * d) for x, y, z in first]
        rib = tube(points, np.array([5, 5.6, 6.2, 6.6, 7, 7.4]) * thickness, depth=[3] * 6, wall=1.0, count=120,
                   strength=[0.5, 0.6, 0.65, 0.6, 0.5, 0.15])  # fmt: skip
        groups[1].append(_part(rib, 0, 65))
        groups[3].append(_part(rib, 64, None))
    for number in range(2, 13):
        for side in (RIGHT, LEFT):
            full = {11: 1.85, 12: 1.3}.get(number, 2.5)  # the last two float: they end at the side
            turn = min(1.5, full)
            angle = np.concatenate([np.linspace(0, turn, 80), np.linspace(turn, full + rng.normal(0, 0.06), 61)[1:]])
            forward = (1 - np.cos(angle)) / 2  # 0 at the back, 1 at the front
            drop = {2: 0.24, 3: 0.31, 4: 0.36}.get(number, 0.40) * tilt
            arch = 0.014 * np.sin(np.minimum(angle * 1.7, np.pi)) - rng.normal(0, 0.002) * np.sin(angle)
            y = starts[number - 1] + drop * forward + 0.035 * np.sin(angle) ** 2 - arch
            y = h * (y + 0.14 * np.clip(angle - 1.65, 0, None) ** 1.4)  # the front part dives
            lateral, _ = lung_edges(frame, np.maximum(y, 0.004 * h), side, shape[side])
            reach = np.abs(lateral) + 2.5
            spine = 0.13 * w
            round_ = np.sin(np.minimum(angle, np.pi)) ** 0.8
            # At the back a rib stays close to the wall up to its angle; in front it turns inwards.
            x = np.where(angle < np.pi / 2, spine + (reach - spine) * round_, (0.2 + 0.8 * round_) * reach)
            z = -0.78 * d * np.cos(angle)
            back = angle < 1.0
            z[back] = np.interp(angle[back], [0, 0.35, 1.0], [-0.62, -0.80, -0.42]) * d
            # A rib is a ribbon: it shows its flat side at the back and in front, and its thin edge where it turns.
            flat = np.interp(angle, [0, 0.8, 1.35, 1.75, 2.2], [1, 1, 0.62, 0.62, 1.05])
            high = thickness * 4.7 * np.interp(angle, [0, 0.5, 1.6, 2.5], [0.78, 1.0, 1.0, 1.15])
            fade = 0.22 if number < 11 else 0.05
            strength = np.clip((angle[-1] - angle) / fade, 0, 1) * np.interp(
                angle, [0, 0.14, 1.4, 1.9, 2.5], [0.1, 1, 1, 0.72, 0.42]
            )
            rib = Tube(np.column_stack([side * x, y, z]), high * flat, 0.58 * high / np.sqrt(flat), 1.1,
                       strength=strength, bend=0.6)  # fmt: skip
            groups[number % 2].append(_part(rib, 0, 80))
            if number < 12:
                groups[2 + number % 2].append(_part(rib, 79, None))
    return [_bundles(group) for group in groups]


def _bundles(tubes: list[Tube]) -> list[Tube]:
    """Join tubes of equal length and wall, so that they are projected together."""
    kinds: dict = {}
    for each in tubes:
        kinds.setdefault((len(each.points), each.wall, each.bend), []).append(each)
    return [
        replace(
            same[0], **{k: np.stack([getattr(s, k) for s in same]) for k in ("points", "radius", "depth", "strength")}
        )
        for same in kinds.values()
    ]


def _part(whole: Tube, start: int, stop: int | None) -> Tube:
    cut = slice(start, stop)
    return replace(
        whole,
        points=whole.points[cut],
        radius=whole.radius[cut],
        depth=whole.depth[cut],
        strength=None if whole.strength is None else whole.strength[cut],
    )


def aorta(frame: Frame, unfolding: float, bore: float) -> Tube:
    """Aorta: up from the heart, over the left main bronchus and down beside the spine.

    Parameters
    ----------
    frame : Frame
        The patient's lengths.
    unfolding : float
        0 in the young, 1 for the long, wide aorta of old age.
    bore : float
        Radius of the aorta, mm.

    Returns
    -------
    Tube
        Solid, with `core_mu` 1: its projection is a thickness in mm.
    """
    w, h, d = frame.half, frame.height, frame.depth
    top = 0.225 - 0.03 * unfolding
    left = 0.135 + 0.04 * unfolding
    points = [(-0.02, 0.5, 0.25), (-0.10, 0.40, 0.28), (-0.09, top + 0.075, 0.2), (0.01, top + 0.01, 0.05),
              (left, top + 0.03, -0.18), (0.9 * left, top + 0.13, -0.32), (0.13, 0.6, -0.4), (0.09, 0.85, -0.4),
              (0.05, 1.15, -0.35)]  # fmt: skip
    return tube(np.array(points) * (w, h, d), np.array([1.1, 1.1, 1.05, 1, 1, 0.9, 0.82, 0.78, 0.75]) * bore)


def hila(frame: Frame, size: float) -> list[Tube]:
    """Right and left pulmonary artery with their descending branches, as solid tubes with `core_mu` 1."""
    w, h = frame.half, frame.height
    right = [(-0.04, 0.44, 0), (-0.24, 0.435, -5), (-0.315, 0.49, -12), (-0.36, 0.58, -22), (-0.41, 0.67, -32)]
    left = [(0.05, 0.44, 0), (0.22, 0.385, -10), (0.315, 0.42, -22), (0.34, 0.50, -30), (0.39, 0.60, -38)]
    radii = np.array([8.5, 8.0, 6.8, 5.0, 3.2]) * size
    return [tube(np.array(points) * (w, h, 1), radii) for points in (right, left)]


def vessel_tree(
    frame: Frame, side: int, rng: np.random.Generator, levels: int = 7
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Arteries and veins of one lung, branching from the hilum.

    Every branch splits in two; radii follow Murray's law (r^3 = r1^3 + r2^3; Murray 1926).

    Parameters
    ----------
    frame : Frame
        The patient's lengths.
    side : int
        `RIGHT` or `LEFT`.
    rng : numpy.random.Generator
        Draws the tree.
    levels : int
        Generations of branches.

    Returns
    -------
    list of (points, radii)
        One pair per generation: points (branches, steps, 3) and radii (branches, steps), in mm.
    """
    w, h = frame.half, frame.height
    hilum = np.array([side * 0.29 * w, (0.44 if side == RIGHT else 0.41) * h, -8.0])
    #          angle from straight down (degrees, outwards), radius
    trunks = np.array([(172, 2.6), (150, 3.0), (132, 2.3), (112, 2.4), (92, 2.2), (74, 2.6), (57, 2.9), (41, 3.2),
                       (27, 3.3), (13, 2.9), (0, 2.4)])  # fmt: skip
    angle = np.radians(trunks[:, 0] + rng.normal(0, 5, len(trunks)))
    radius = trunks[:, 1] * rng.uniform(0.8, 1.15, len(trunks))
    start = np.repeat(hilum[None], len(trunks), axis=0) + rng.normal(0, 2.5, (len(trunks), 3))
    start[:, 0] -= side * 0.05 * w
    start[:, 1] += 0.045 * h * np.cos(angle)
    out = []
    length = np.full(len(trunks), 0.125 * h) * rng.uniform(0.7, 1.3, len(trunks))
    for level in range(levels):
        n = len(angle)
        bend = rng.normal(0, 0.22, n)
        fore = np.cos(rng.normal(0, 0.55, n))  # a branch towards the front or the back looks shorter
        steps = max(int(8 + 150 * 0.72**level), 16)
        s = np.linspace(0, 1, steps)
        heading = angle[:, None] + bend[:, None] * (s - 0.5) * 2 + rng.normal(0, 0.15, (n, 1)) * np.sin(2 * np.pi * s)
        step = (length * fore / (steps - 1))[:, None]
        x = start[:, :1] + side * np.cumsum(np.sin(heading) * step, axis=1)
        y = start[:, 1:2] + np.cumsum(np.cos(heading) * step, axis=1)
        z = np.repeat(start[:, 2:], steps, axis=1)
        end = radius * 0.88
        out.append((np.stack([x, y, z], axis=2), radius[:, None] * (1 - s) + end[:, None] * s))
        share = rng.uniform(0.32, 0.68, n)
        spread = rng.uniform(0.35, 0.95, n)
        tip = np.column_stack([x[:, -1], y[:, -1], z[:, -1]])
        start = np.vstack([tip, tip])
        # The thinner branch turns off more sharply.
        angle = np.concatenate([heading[:, -1] - spread * (1 - share), heading[:, -1] + spread * share])
        radius = np.concatenate([end * share ** (1 / 3), end * (1 - share) ** (1 / 3)])
        length = np.concatenate([length, length]) * rng.uniform(0.6, 0.95, 2 * n)
    return out
