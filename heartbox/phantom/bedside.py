"""Devices of the ward, as tubes in mm: electrodes and their cables, drains, catheters, ports, rods.

Knows where these lie in a `Body`; it does not know rays, pixels or DICOM.
"""

from __future__ import annotations

import numpy as np

from .anatomy import LEFT, RIGHT, Tube, tube
from .body import Body
from .projection import MU_METAL
from .subject import ILLNESS, Subject, keyed_generator

ON_SKIN = 110.0  # mm in front of the body's middle


def bedside_devices(subject: Subject, body: Body) -> list[Tube]:
    """Lay out the devices that `subject.illness` names; each is drawn from a generator of its own film."""
    rng = keyed_generator(subject.seed, ILLNESS, subject.index, 2)
    w, h = body.frame.half, body.frame.height
    out: list[Tube] = []

    def line(points, radius, mu, **more):  # points in fractions of frame.half and frame.height, z in mm
        out.append(tube([(a * w, b * h, z) for a, b, z in points], radius, core_mu=mu, **more))

    def ring(a, b, radius, thick, mu, z=ON_SKIN, squeeze=1.0):
        turn = np.linspace(0, 2 * np.pi, 17)
        points = [(a * w + radius * np.cos(t), b * h + squeeze * radius * np.sin(t), z) for t in turn]
        out.append(tube(points, thick, core_mu=mu))

    def cable(start, end, radius, mu):
        middle = [
            (start[0] + (end[0] - start[0]) * t + rng.normal(0, 0.16), start[1] + (end[1] - start[1]) * t
             + rng.normal(0, 0.12), ON_SKIN)
            for t in (0.3, 0.65)
        ]  # fmt: skip
        line([(*start, ON_SKIN), *middle, (*end, ON_SKIN)], radius, mu, count=240)

    def around():  # a place outside the chest
        return [(-1.5, rng.uniform(0, 1.2)), (1.5, rng.uniform(0, 1.2)), (rng.uniform(-1, 1), 1.5)][rng.integers(3)]

    if "electrodes" in subject.illness.devices:
        for _ in range(rng.integers(2, 6)):
            a, b = rng.uniform(-0.9, 0.9), rng.uniform(0.0, 1.1)
            ring(a, b, 4.0, 2.0, 0.14)
            ring(a, b, 1.0, 1.0, MU_METAL)
            if rng.random() < 0.5:  # the clip
                angle = rng.uniform(0, 2 * np.pi)
                tip = (a + 16 / w * np.cos(angle), b + 16 / h * np.sin(angle))
                line([(a, b, ON_SKIN), (*tip, ON_SKIN)], 3.0, 0.06)
            cable((a, b), around(), rng.uniform(0.6, 1.0), 0.12)
    if "cables" in subject.illness.devices:
        for _ in range(rng.integers(1, 4)):
            start = (rng.choice([-1.5, 1.5]), rng.uniform(-0.2, 1.2))
            cable(start, (-start[0] * rng.uniform(0.2, 1), rng.uniform(0, 1.5)), rng.uniform(0.7, 1.6), 0.09)
    if "tracheal tube" in subject.illness.devices:
        low = rng.uniform(0.16, 0.29)
        line([(0.03, -0.5, 20), (-0.01, -0.1, 5), (-0.02, low, -8)], 5.0, 0.0, wall=1.3, wall_mu=0.03)
        line([(0.06, -0.5, 20), (0.02, -0.1, 5), (0.01, low, -8)], 0.7, 0.07)
    for name, side in (("right drain", RIGHT), ("left drain", LEFT)):
        if name in subject.illness.devices:
            a, b = rng.uniform(0.2, 0.75), rng.uniform(0.12, 0.75)
            enter = rng.uniform(0.6, 0.95)
            path = [(1.5, enter + 0.12, 0), (1.0, enter, 0), (0.8, 0.5 * (enter + b), -20), (a, b, -20)]
            line([(side * p, q, z) for p, q, z in path], 4.0, 0.0, wall=1.2, wall_mu=0.03)
            line([(side * p + 0.02, q, z) for p, q, z in path], 0.7, 0.09)
    if "port" in subject.illness.devices:
        side = RIGHT if rng.random() < 0.7 else LEFT
        a, b = side * rng.uniform(0.5, 0.72), rng.uniform(0.16, 0.34)
        ring(a, b, 9.0, 3.4, 0.05, z=95)
        ring(a, b, 4.0, 2.0, 0.16, z=95)
        line([(a, b, 95), (side * 0.42, 0.06, 70), (side * 0.2, 0.06, 40), (-0.13, 0.2, 25), (-0.14, 0.42, 25)],
             1.1, 0.10)  # fmt: skip
    if "pulmonary catheter" in subject.illness.devices:
        line([(-0.3, -0.25, 30), (-0.17, 0.05, 30), (-0.15, 0.4, 25), (-0.16, 0.62, 30), (0.08, 0.8, 45),
              (0.2, 0.66, 45), (0.1, 0.48, 30), (-0.15, 0.44, 10), (-0.3, 0.47, 0)], 1.1, 0.10, count=300)  # fmt: skip
    if "defibrillator coils" in subject.illness.devices:
        vein = [(0.62, 0.19, 90), (0.38, 0.13, 80), (0.14, 0.17, 40), (-0.12, 0.27, 20)]
        line(vein, 1.2, 0.14)
        line([vein[-1], (-0.14, 0.5, 20)], 2.0, 0.16)
        line([(-0.14, 0.5, 20), (-0.12, 0.66, 30), (0.04, 0.78, 45)], 1.2, 0.14)
        line([(0.04, 0.78, 45), (0.2, 0.85, 55), (0.42, 0.86, 60)], 2.0, 0.16)
    if "valve" in subject.illness.devices:
        a, b = rng.uniform(0.0, 0.3), rng.uniform(0.55, 0.75)
        ring(a, b, rng.uniform(10, 15), 1.2, 0.2, z=20, squeeze=rng.uniform(0.3, 0.9))
    if "spinal rods" in subject.illness.devices:
        first = rng.uniform(0.2, 0.6)
        last = first + rng.uniform(0.3, 0.6)
        for side in (RIGHT, LEFT):
            line([(side * 0.09, first, -60), (side * 0.10, last, -60)], 2.5, MU_METAL)
            for b in np.arange(first + 0.03, last, 0.1):
                line([(side * 0.09, b, -62), (side * 0.02, b + 0.012, -30)], 2.4, 0.2)
    if "hose" in subject.illness.devices:
        side = rng.choice([RIGHT, LEFT])
        path = [
            (0.1, -0.35, 120),
            (side * 0.4, rng.uniform(-0.2, 0.15), 120),
            (side * 1.5, rng.uniform(-0.1, 0.5), 120),
        ]
        line(path, 9.0, 0.0, wall=1.4, wall_mu=0.03)
    return out
