"""One subject's body: where lungs, heart and great vessels lie, and the exact boxes and masks that follow.

Arranges the shapes of `anatomy` for a `Subject` in front of a `Beam`; the image is computed from the same outlines.
Knows nothing of the detector's response or of DICOM.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from . import anatomy
from .anatomy import LEFT, RIGHT, Frame, Tube
from .illness import Illness
from .projection import Beam
from .subject import ANATOMY, Subject, keyed_generator


@dataclass
class Body:
    """One subject's anatomy: curves and tubes in mm, before any ray is cast."""

    frame: Frame
    beam: Beam
    lungs: dict = field(default_factory=dict)  # side -> shape for lung_edges
    domes: dict = field(default_factory=dict)  # side -> (top, lean)
    lung_outlines: dict = field(default_factory=dict)  # side -> outline (n, 2) on the upright detector plane, mm
    heart: np.ndarray | None = None  # outline, likewise
    edges: tuple = ()  # landmarks of the mediastinum's right and left edge
    aorta: Tube | None = None
    scapulae: tuple = ()  # how far right and left shoulder blade are turned outwards, fractions of frame.half

    def middle(self, y) -> tuple[np.ndarray, np.ndarray]:
        """Right and left edge of the mediastinum at heights y, mm."""
        n = np.asarray(y) / self.frame.height
        return tuple(self.frame.half * anatomy.profile(n, edge) for edge in self.edges)


def build(subject: Subject, size: int) -> Body:
    """Lay out a subject's anatomy and the beam that will meet it.

    Parameters
    ----------
    subject : Subject
        Who is X-rayed, and how.
    size : int
        Side of the film, in pixels.

    Returns
    -------
    Body
        With the heart scaled so that its box and the thorax box have the ratio `subject.ctr`.
    """
    rng = keyed_generator(subject.seed, ANATOMY, subject.patient)
    half = subject.thorax_width / 2
    ill = subject.illness or Illness()
    height = subject.thorax_width * subject.thorax_aspect * (0.78 + 0.22 * subject.inspiration) * ill.lung_height
    frame = Frame(half, height, subject.chest_depth / 2, subject.tissue)
    ap = subject.view == "AP"
    source, gap = (1150.0, subject.chest_depth / 2 + 45) if ap else (1800.0, subject.chest_depth / 2 + 20)
    source = ill.source or source
    field_mm = subject.field
    centre = ((0.5 - subject.offset[0]) * field_mm / 1.1, (0.5 - subject.offset[1]) * field_mm / 1.08)
    beam = Beam(
        source, gap, -1 if ap else 1, np.radians(subject.rotation_deg), np.radians(subject.tilt_deg),
        centre, 0.45 * height, field_mm / size, size, (ill.sway[0], 2.2 / height, ill.sway[1]) if ill.sway[0] else None,
    )  # fmt: skip
    body = Body(frame, beam)
    common = rng.normal(0, [0.02, 0.018, 0.01, 0.015])
    for side in (RIGHT, LEFT):
        body.lungs[side] = common + rng.normal(0, [0.012, 0.008, 0.006, 0.008])
    top = 0.80 + 0.03 * subject.inspiration + rng.normal(0, 0.015)
    body.domes[RIGHT] = (top, 0.50 + rng.normal(0, 0.04))
    body.domes[LEFT] = (min(top + 0.025 + rng.normal(0, 0.015), 0.9), 0.50 + rng.normal(0, 0.04))
    for side, raised in zip((RIGHT, LEFT), ill.raised_domes, strict=True):
        body.domes[side] = (body.domes[side][0] - raised, body.domes[side][1])
        body.lung_outlines[side] = _lung_outline(body, side)
    # A film that cuts off a lung would be repeated, so the detector is shifted until both lungs fit.
    thorax = _thorax_box(body)
    edge = 0.008 * size
    shift = np.maximum(edge - thorax[:2], 0) - np.maximum(thorax[2:] - (size - edge), 0)
    shift = shift * beam.spacing / beam.magnification(0)
    body.beam = replace(beam, centre=(centre[0] - shift[0], centre[1] - shift[1]))
    body.heart = _heart(subject, body, rng)
    j = rng.normal(0, 0.008, 8)
    body.edges = (
        [(-0.3, -0.2), (0.0, -0.24 + j[0]), (0.06, -0.185 + j[1]), (0.16, -0.155 + j[2]), (0.3, -0.17 + j[3]),
         (0.5, -0.185), (0.7, -0.14), (1.2, -0.14)],
        [(-0.3, 0.2), (0.0, 0.26 + j[4]), (0.06, 0.20 + j[5]), (0.16, 0.145 + j[6]), (0.28, 0.155), (0.39, 0.195),
         (0.46, 0.18), (0.6, 0.15), (1.2, 0.13)],
    )  # fmt: skip
    if ill.mediastinum != 1 or abs(subject.rotation_deg) > 7:  # what lies in front moves with the turn
        aside = 0.1 * np.sin(beam.turn)
        body.edges = tuple([(n, ill.mediastinum * a + aside) for n, a in edge] for edge in body.edges)
    bore = (12.0 if subject.sex == "F" else 13.5) + 3 * subject.aorta_unfolding
    outward = 0.06 * np.sin(np.radians(subject.arm_angle_deg)) * (0.3 if ap else 1.0) - (0.10 if ap else 0.0)
    body.scapulae = tuple(outward + rng.normal(0, 0.015, 2))
    body.aorta = anatomy.aorta(frame, subject.aorta_unfolding, bore)
    return body


def _lung_outline(body: Body, side: int) -> np.ndarray:
    """Outline (n, 2) of a lung above the diaphragm on the upright detector plane, mediastinum not yet cut out."""
    frame = body.frame
    y = np.concatenate([np.linspace(0, 0.05, 80) ** 2 / 0.05, np.linspace(0.05, 1.2, 500)[1:]]) * frame.height
    lateral, medial = anatomy.lung_edges(frame, y, side, body.lungs[side])
    top, lean = body.domes[side]
    out = lateral[y < anatomy.dome(frame, lateral, side, top, lean)]
    inn = medial[y < anatomy.dome(frame, medial, side, top, lean)]
    x = np.linspace(out[-1], inn[-1], 200)
    floor = np.column_stack([x, anatomy.dome(frame, x, side, top, lean)])
    line = np.vstack([np.column_stack([out, y[: len(out)]]), floor, np.column_stack([inn, y[: len(inn)]])[::-1]])
    return body.beam.cast(np.column_stack([line, np.zeros(len(line))]))[0]


def _box(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _thorax_box(body: Body) -> np.ndarray:
    return _box(np.vstack([body.beam.pixels(line) for line in body.lung_outlines.values()]))


HEART_DEPTH = 22.0  # mm in front of the body's middle


def _heart(subject: Subject, body: Body, rng: np.random.Generator) -> np.ndarray:
    """Outline the heart on the detector plane, scaled until its box has the ratio that the subject asks for."""
    frame = body.frame
    shape = anatomy.heart_outline(subject.roundness, rng.uniform(0, 1), rng.uniform(0, 1))
    thorax = _thorax_box(body)
    # The heart lies on the diaphragm left of the middle: only a raised left half lifts it, and not all the way.
    raised = (subject.illness or Illness()).raised_domes
    bottom = min(body.domes[RIGHT][0] + raised[0], body.domes[LEFT][0] + 0.6 * raised[1]) + 0.075 + rng.normal(0, 0.012)
    width = subject.ctr * subject.thorax_width
    aspect = 0.80 + 0.12 * (subject.roundness - 0.4) - 0.5 * (subject.ctr - 0.5) + rng.normal(0, 0.04)
    tall = np.clip(width * aspect, 0.36 * frame.height, 0.53 * frame.height)
    share = np.where(shape[:, 0] < 0, subject.heart_shift, 1 - subject.heart_shift)
    for _ in range(6):  # magnification, turn and tilt change the ratio a little; a few rounds settle it
        x = shape[:, 0] * share * width
        y = bottom * frame.height + (shape[:, 1] - 1) * tall
        plane = body.beam.cast(np.column_stack([x, y, np.full(len(x), HEART_DEPTH)]))[0]
        box = _box(body.beam.pixels(plane))
        width *= subject.ctr * (thorax[2] - thorax[0]) / (box[2] - box[0])
    return plane


def truth_boxes(body: Body) -> tuple[np.ndarray, np.ndarray]:
    """Heart box and thorax box, from the same outlines that the rays meet."""
    return _box(body.beam.pixels(body.heart)), _thorax_box(body)


def truth(body: Body) -> dict:
    """Masks of the heart ("heart") and of the lung fields (`LEFT`, `RIGHT`), from the same outlines."""
    beam = body.beam
    size = beam.size

    def fill(outline):
        # fillPoly counts from the centre of the first pixel, and also paints every pixel that the border touches:
        # on a grid twice as fine, where a pixel needs three of its four parts, that evens out.
        fine = np.zeros((2 * size, 2 * size), np.uint8)
        points = np.round((2 * beam.pixels(outline) - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(fine, [points], 1, shift=4)
        return fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2] >= 3

    heart = fill(body.heart)
    y = np.linspace(-0.3, 1.2, 300) * body.frame.height
    right, left = body.middle(y)
    line = np.vstack([np.column_stack([right, y]), np.column_stack([left, y])[::-1]])
    other = fill(beam.cast(np.column_stack([line, np.full(len(line), -5.0)]))[0])
    # The aortic knob: the union of discs along the aorta.
    plane, scale = beam.cast(body.aorta.points)
    disc = np.zeros((size, size), np.uint8)
    radii = 0.95 * body.aorta.radius * scale / beam.spacing
    for (px, py), r in zip(beam.pixels(plane) - 0.5, radii, strict=True):
        cv2.circle(disc, (round(px * 16), round(py * 16)), round(r * 16), 1, -1, shift=4)
    other |= disc.astype(bool)
    masks = {"heart": heart}
    for side in (RIGHT, LEFT):
        masks[side] = fill(body.lung_outlines[side]) & ~heart & ~other
    return masks
