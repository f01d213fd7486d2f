"""Path lengths of X-rays through simple bodies: stacks of ellipses, ellipsoids and bent tubes.

Everything is projected along the beam onto the plane of the detector; a path length is in mm.
Knows shapes and materials; it does not know organs or DICOM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from .anatomy import Tube

# Linear attenuation per mm at 70 keV, about the mean energy of a filtered 120 kV beam behind the patient:
# mass attenuation interpolated in NIST's tables (Hubbell and Seltzer 1995, tables 3 and 4: soft tissue, adipose
# tissue, cortical bone of ICRU-44) times density. Inflated lung has 0.26 times the density of soft tissue.
MU_SOFT = 0.0204
MU_FAT = 0.0178
MU_LUNG = 0.0053
MU_BONE = 0.0500
MU_METAL = 0.35


@dataclass(frozen=True)
class Beam:
    """Where focus, patient and detector stand, and how the detector's pixels lie.

    Parameters
    ----------
    source : float
        Distance from the focus to the detector, mm.
    gap : float
        Distance from the patient's z = 0 to the detector, mm.
    facing : int
        1 where the patient faces the detector (PA), -1 where the back does (AP).
    turn : float
        Rotation of the patient about the long axis, radians.
    tilt : float
        Rotation of the detector about the beam, radians.
    centre : tuple of float
        The point (x, y) of the patient, at z = 0, that the middle of the detector sees.
    axis : float
        Height y of the central ray, mm.
    spacing : float
        Pixel spacing on the detector, mm.
    size : int
        Pixels a side.
    sway : tuple of float, optional
        Sideways curve of a bent trunk's shadow: a sine's amplitude (mm), wave number (per mm) and phase (radians).
    """

    source: float
    gap: float
    facing: int
    turn: float
    tilt: float
    centre: tuple[float, float]
    axis: float
    spacing: float
    size: int
    sway: tuple[float, float, float] | None = None

    def magnification(self, z):
        """Size of the shadow relative to the object at depth z: similar triangles."""
        return self.source / (self.source - self.gap + self.facing * np.asarray(z, float))

    def cast(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points (..., 3) in mm to the upright detector plane (..., 2) in mm; also return the scale."""
        x = points[..., 0] * np.cos(self.turn) + points[..., 2] * np.sin(self.turn)
        scale = self.magnification(points[..., 2] * np.cos(self.turn) - points[..., 0] * np.sin(self.turn))
        return np.stack([x * scale, self.axis + (points[..., 1] - self.axis) * scale], axis=-1), scale

    @cached_property
    def matrix(self) -> np.ndarray:
        """Affine matrix (2, 3) from the upright detector plane in mm to pixel edges (0 to size)."""
        m = self.magnification(0.0)
        middle = np.array([self.centre[0] * m, self.axis + (self.centre[1] - self.axis) * m])
        c, s = np.cos(self.tilt) / self.spacing, np.sin(self.tilt) / self.spacing
        linear = np.array([[c, -s], [s, c]])
        return np.column_stack([linear, self.size / 2 - linear @ middle])

    def pixels(self, plane: np.ndarray) -> np.ndarray:
        """Take points (..., 2) of the detector plane in mm to pixel coordinates, 0 at the image's outer edge."""
        m = self.matrix
        if self.sway is not None:
            plane = np.stack([plane[..., 0] + self.bend(plane[..., 1]), plane[..., 1]], axis=-1)
        return plane @ m[:, :2].T + m[:, 2]

    def bend(self, plane_y) -> np.ndarray:
        """How far a bent trunk's shadow is moved sideways at heights of the detector plane, mm."""
        amplitude, wave, phase = self.sway
        return amplitude * np.sin(wave * np.asarray(plane_y) + phase)

    def edges(self, x, z: float) -> np.ndarray:
        """Shift and scale the x of an upright body at depth z into the detector plane."""
        return (np.asarray(x) * np.cos(self.turn) + z * np.sin(self.turn)) * self.magnification(z)

    def heights(self, plane_y, z: float) -> np.ndarray:
        """Patient y at depth z seen at these heights of the detector plane."""
        return self.axis + (np.asarray(plane_y) - self.axis) / self.magnification(z)


def stack_path(x, left, right, half_depth, *, box: int = 0) -> np.ndarray:
    """Path through a stack of elliptical slices, one slice for each row of the image.

    Parameters
    ----------
    x : float array (columns,)
        Where the rays are, mm.
    left, right, half_depth : float arrays (rows,)
        The slice's extent across and half its extent along the ray, mm; no slice where right <= left.
    box : int
        1: slices nearer to a rounded box (u^4 for u^2); 2, 3: only their left or right half.

    Returns
    -------
    float32 array (rows, columns)
    """
    a = np.maximum((right - left) / 2, 1e-3)
    scale = (1 / a).astype(np.float32)[:, None]
    u = np.asarray(x, np.float32)[None, :] * scale
    u -= ((left + right) / 2).astype(np.float32)[:, None] * scale
    half = None if box < 2 else u < 0 if box == 2 else u > 0
    u *= u
    if box:
        np.multiply(u, u, out=u, where=True if half is None else half)
    np.subtract(1, u, out=u)
    np.maximum(u, 0, out=u)
    np.sqrt(u, out=u)
    u *= (2 * np.where(right > left, half_depth, 0)).astype(np.float32)[:, None]
    return u


def ellipsoid_path(x, y, centre, radii, *, angle: float = 0.0) -> np.ndarray:
    """Path through an ellipsoid, float32 (rows, columns): 2 r_z sqrt(1 - u^2 - v^2).

    Parameters
    ----------
    x, y : float arrays (columns,), (rows,)
        Where the rays are, mm.
    centre, radii : sequences of float
        Centre (x, y) and radii (across, down, along the ray), mm.
    angle : float
        Rotation in the image plane, radians.
    """
    out = np.zeros((len(y), len(x)), np.float32)
    reach = max(radii[0], radii[1])
    cols = np.flatnonzero(np.abs(x - centre[0]) < reach)
    rows = np.flatnonzero(np.abs(y - centre[1]) < reach)
    if not len(cols) or not len(rows):
        return out
    cols, rows = slice(cols[0], cols[-1] + 1), slice(rows[0], rows[-1] + 1)
    dx = (np.asarray(x[cols], np.float32) - np.float32(centre[0]))[None, :]
    dy = (np.asarray(y[rows], np.float32) - np.float32(centre[1]))[:, None]
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = (dx * c + dy * s) / np.float32(radii[0])
    v = (dy * c - dx * s) / np.float32(radii[1])
    out[rows, cols] = np.sqrt(np.maximum(1 - u * u - v * v, 0)) * np.float32(2 * radii[2])
    return out


def union(*paths: np.ndarray) -> np.ndarray:
    """Path through bodies that lie inside one another: their maximum, with rounded corners (a 4-norm)."""
    total = np.zeros_like(paths[0])
    for path in paths:
        square = path * path
        total += square * square
    return np.sqrt(np.sqrt(total))


def tube_samples(tube: Tube, beam: Beam) -> np.ndarray:
    """Cut the shadow of a tube, or of a bundle of tubes, into steps of about a pixel.

    Returns
    -------
    float32 array (n, 11)
        x, y in pixels; the unit normal (2); half height in pixels; half depth in mm, lengthened where the tube
        runs along the ray; wall in mm and in pixels; excess attenuation per mm of wall and of core; the way to
        the nearer end in pixels, negative towards the start.
    """
    points = tube.points.reshape(-1, *tube.points.shape[-2:])  # bundle, steps, 3
    shape = points.shape[:2]
    plane, scale = beam.cast(points)
    pixels = beam.pixels(plane)
    along = np.diff(points, axis=1)
    slant = np.linalg.norm(along[..., :2], axis=2) / np.maximum(np.linalg.norm(along, axis=2), 1e-9)
    slant = np.concatenate([slant, slant[:, -1:]], axis=1)
    radius, depth = tube.radius.reshape(shape), tube.depth.reshape(shape)
    strength = np.ones(shape) if tube.strength is None else tube.strength.reshape(shape)
    # The path through a tube that runs along the ray is longer; `bend` keeps it from growing without limit.
    columns = [pixels[..., 0], pixels[..., 1], radius * scale / beam.spacing, depth / np.maximum(slant, tube.bend)]
    columns = np.stack([*columns, tube.wall * scale / beam.spacing, strength], axis=2)

    step = np.linalg.norm(np.diff(pixels, axis=1), axis=2)
    count = int(np.clip(0.8 * step.max() * (shape[1] - 1), 8, 6000))
    at = np.linspace(0, shape[1] - 1, count)
    i = np.minimum(at.astype(int), shape[1] - 2)
    f = (at - i)[None, :, None].astype(np.float32)
    columns = columns.astype(np.float32)
    columns = columns[:, i] * (1 - f) + columns[:, i + 1] * f
    x, y, high, deep, wall_px, strength = np.moveaxis(columns, 2, 0)
    tx, ty = np.diff(x, axis=1), np.diff(y, axis=1)
    norm = np.maximum(np.hypot(tx, ty), np.float32(1e-6))
    nx, ny = -ty / norm, tx / norm
    nx, ny = np.concatenate([nx, nx[:, -1:]], axis=1), np.concatenate([ny, ny[:, -1:]], axis=1)
    wall = np.full_like(x, tube.wall)
    far = np.cumsum(norm, axis=1)
    far = np.concatenate([np.zeros_like(far[:, :1]), far], axis=1)
    left = far[:, -1:] - far
    # Ends are flat, but a solid branch reaches a little into the next one, so that a fork shows no gap.
    spare = 0.5 if tube.wall else 0.5 + 0.8 * high
    end = np.where(left < far, left + spare, -far - spare).astype(np.float32)
    out = [x, y, nx, ny, high, deep, wall, wall_px, tube.wall_mu * strength, tube.core_mu * strength, end]
    return np.stack(out, axis=2).reshape(-1, 11)


def project_tubes(samples: Sequence[np.ndarray], size: int, coarse: int = 1) -> np.ndarray:
    """Sum wall and core along rays through tubes.

    Every pixel belongs to the nearest centre line, which a distance transform on a coarser grid finds. Its exact
    distance from that line then gives the chords through the outer and the inner oval. Tubes of one call are
    united, not summed, where they cross.

    Parameters
    ----------
    samples : sequence of float32 arrays (n, 11)
        From `tube_samples`, thin tubes first: where two centre lines share a cell the later one wins.
    size : int
        Pixels a side.
    coarse : int
        Cell of the distance transform in pixels, a divisor of `size`.

    Returns
    -------
    float32 array (size, size)
    """
    out = np.zeros((size, size), np.float32)
    samples = [s for s in samples if len(s)]
    if not samples:
        return out
    s = np.concatenate(samples)
    # A margin keeps centre lines that run just outside the picture.
    margin = int(s[:, 4].max() / coarse) + 1
    column = np.floor(s[:, 0] / coarse).astype(np.int32)
    row = np.floor(s[:, 1] / coarse).astype(np.int32)
    cells = size // coarse
    seen = (column >= -margin) & (row >= -margin) & (column < cells + margin) & (row < cells + margin)
    s, column, row = s[seen], column[seen], row[seen]
    if not len(s):
        return out
    # Only the rectangle that the tubes can reach is looked at: most groups of tubes are small.
    left, upper = column.min() - margin, row.min() - margin
    wide, tall = column.max() + margin + 1 - left, row.max() + margin + 1 - upper
    owner = np.full(tall * wide, -1, np.int32)
    owner[(row - upper) * wide + column - left] = np.arange(len(s), dtype=np.int32)
    empty = (owner < 0).astype(np.uint8).reshape(tall, wide)
    distance, label = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    filled = np.flatnonzero(owner >= 0)
    first = np.zeros(len(filled) + 1, np.int32)
    first[label.ravel()[filled]] = owner[filled]
    near = np.flatnonzero(distance.ravel() * coarse < s[:, 4].max() + 1.5 * coarse)
    nearest = first[label.ravel()[near]]
    # Drop cells beyond their own tube before the expansion to pixels.
    keep = distance.ravel()[near] * coarse < s[nearest, 4] + 1.5 * coarse
    row, column = near // wide + upper, near % wide + left
    keep &= (row >= 0) & (column >= 0) & (row < cells) & (column < cells)
    nearest, row, column = nearest[keep], row[keep] * coarse, column[keep] * coarse
    x, y, nx, ny, high, deep, wall, wall_px, wall_mu, core_mu, end = np.ascontiguousarray(s[nearest].T)
    thin = np.maximum(high, 0.6)  # a line thinner than the pixel keeps its amount, spread over the pixel
    deep = deep * high / thin
    inner_high = np.maximum(thin - wall_px, 0)
    inner_deep = np.maximum(deep - wall, 0)
    solid = not wall.any()
    toward, way = np.sign(end), np.abs(end)
    inv_outer, inv_inner = 1 / thin, 1 / np.maximum(inner_high, 1e-3)
    for i in range(coarse):
        for j in range(coarse):
            dx = column + np.float32(j + 0.5) - x
            dy = row + np.float32(i + 0.5) - y
            across = dx * nx + dy * ny
            beyond = (dx * ny - dy * nx) * toward > way  # ends are cut off flat
            square = across * across + beyond * np.float32(1e6)
            outer = np.sqrt(np.maximum(1 - square * inv_outer * inv_outer, 0)) * deep
            if solid:
                value = 2 * core_mu * outer
            else:
                inner = np.sqrt(np.maximum(1 - square * inv_inner * inv_inner, 0)) * inner_deep
                value = 2 * (wall_mu * (outer - inner) + core_mu * inner)
            out[row + i, column + j] = value
    return out
