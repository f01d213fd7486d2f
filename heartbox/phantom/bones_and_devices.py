"""Bones of the shoulder, and medical devices: leads, tubes, lines and wires, all as tubes in mm.

Knows where these lie in a `Body`; it does not know rays, pixels or DICOM.
"""

from __future__ import annotations

import numpy as np

from .anatomy import LEFT, RIGHT, Tube, tube
from .body import Body
from .projection import MU_BONE, MU_METAL, MU_SOFT
from .subject import Subject


def shoulder_bones(subject: Subject, body: Body, rng) -> list[list[Tube]]:
    """Return clavicles, borders and spines of the shoulder blades, and upper arms, as layers that may overlap."""
    w, h, d = body.frame.half, body.frame.height, body.frame.depth
    lift = rng.normal(0.03, 0.018)
    ap = subject.view == "AP"
    arm = np.radians(subject.arm_angle_deg)
    front, back, top, arms = [], [], [], []
    bone = {"wall_mu": MU_BONE - MU_SOFT, "core_mu": 0.009}
    for side in (RIGHT, LEFT):
        e = rng.normal(0, 0.012, 6)
        rise = 0.03 if ap else 0.0
        points = [(0.11, 0.15 + e[0] - rise), (0.24, 0.13 + e[0] - rise), (0.48, 0.055 + lift + e[1] - 0.6 * rise),
                  (0.74, 0.012 + lift + e[2]), (0.98, 0.018 + lift + e[3]), (1.16, 0.012 + lift + e[3])]  # fmt: skip
        depth = np.array([0.72, 0.74, 0.62, 0.35, 0.1, 0.0]) * d
        front.append(tube([(side * a * w, b * h, z) for (a, b), z in zip(points, depth, strict=True)],
                          [9, 6.8, 5.6, 5.6, 6.6, 6.0], depth=[6.5, 5.5, 5, 5, 4.5, 3.5], wall=1.5,
                          strength=[0.25, 0.9, 1, 1, 0.9, 0.5], **bone))  # fmt: skip
        out = body.scapulae[0 if side == RIGHT else 1]
        glenoid, lower = (1.17 + out, 0.13 + lift), (1.0 + 1.4 * out, 0.50 + e[5])
        upper = (0.80 + out, 0.03 + lift)
        z = -0.5 * d

        def p(a, b, side=side, z=z):
            return (side * a * w, b * h, z)

        back.append(tube([p(*glenoid), p(1.08 + 1.1 * out, 0.27), p(*lower)], [4.5, 3.4, 3.8], wall=1.0, **bone))
        back.append(
            tube(
                [p(*lower), p(0.88 + 1.2 * out, 0.36), p(0.80 + out, 0.18), p(*upper)],
                [3.0, 1.6, 1.5, 2.0],
                wall=0.5,
                **bone,
            )
        )
        back.append(
            tube([p(*upper), p(0.88 + out, 0.045 + lift), p(1.05 + out, 0.06 + lift)], [2, 1.7, 3.0], wall=0.8, **bone)
        )
        back.append(
            tube(
                [p(1.12 + out, 0.05 + lift), p(1.18 + out, 0.13 + lift), p(1.14 + out, 0.20 + lift)],
                [3.2, 4.2, 3.4],
                wall=1.2,
                strength=[0.2, 0.7, 0.2],
                **bone,
            )
        )
        ridge = [(0.82, 0.14), (0.97, 0.06), (1.18, -0.015), (1.30, 0.0)]
        top.append(
            tube([p(a + out, b + lift) for a, b in ridge], [2.2, 3.6, 5.5, 6.5], depth=[2, 3, 4, 4], wall=0.9, **bone)
        )
        head = np.array([side * (1.27 + out) * w, 0.155 * h, 0.0])
        axis = np.array([side * np.sin(arm), np.cos(arm), 0.0])
        shaft = np.array([head + 17 * axis, head + 60 * axis, head + 300 * axis])
        arms.append(
            tube(shaft, [14, 11.5, 11], wall=2.0, strength=[0.2, 1, 1], wall_mu=MU_BONE - MU_SOFT, core_mu=0.0035)
        )
    return [front, back, top, arms]


def devices(subject: Subject, body: Body, rng) -> list[Tube]:
    """Return leads, electrodes, tubes, lines and wires (metal, or plastic with barium), and calcium of the aorta."""
    w, h = body.frame.half, body.frame.height
    out = []

    def line(points, radius, mu, **more):  # points in fractions of frame.half and frame.height, z in mm
        out.append(tube([(a * w, b * h, z) for a, b, z in points], radius, core_mu=mu, **more))

    if subject.has_pacemaker:  # one lead to the right ventricle's apex, one curled up in the right auricle
        vein = [(0.62, 0.17, 90), (0.40, 0.12, 80), (0.16, 0.15, 40), (-0.12, 0.25, 20)]
        line([*vein, (-0.15, 0.45, 20), (-0.13, 0.68, 30), (0.1, 0.84, 50), (0.36, 0.86, 60)], 0.9, 0.16)
        vein = [(0.60, 0.20, 90), (0.42, 0.14, 80), (0.15, 0.17, 40), (-0.11, 0.26, 20)]
        line([*vein, (-0.16, 0.5, 20), (-0.22, 0.66, 30), (-0.19, 0.60, 40)], 0.9, 0.16)
    if subject.has_central_line:
        line([(-0.30, -0.2, 30), (-0.24, -0.05, 30), (-0.15, 0.1, 30), (-0.14, 0.36, 25)], 1.0, 0.05)
    if subject.has_tube:
        line([(0.02, -0.4, 0), (0.03, 0.2, 0), (0.05, 0.6, -20), (0.10, 0.88, 0), (0.35, 1.05, 20), (0.5, 1.2, 30)],
             1.7, 0.05)  # fmt: skip
    if subject.has_sternal_wires:
        for k in range(6):
            y = (0.15 + 0.085 * k) * h
            s, t = rng.normal(0, 2, 2)
            ring = np.linspace(0, 2 * np.pi, 13)
            loop = [(7 * np.cos(a) + s, y + 5 * np.sin(a) + t, 95) for a in ring]
            out.append(tube(loop, 0.5, core_mu=MU_METAL))
    if subject.has_calcified_aorta:  # a rim of calcium on the aortic knob
        k = int(np.argmax(body.aorta.points[:110, 0]))
        centre, r = body.aorta.points[k], 0.93 * body.aorta.radius[k]
        arc = np.linspace(-1.0, 0.9, 14)
        rind = [(centre[0] + r * np.cos(a), centre[1] + r * np.sin(a), centre[2]) for a in arc]
        chalk = rng.uniform(0.2, 1, len(arc))
        out.append(tube(rind, 1.1, core_mu=0.045, strength=chalk))
    if subject.has_ecg_leads:
        for cx, cy, ex, ey in ((-0.62, 0.05, -0.9, 1.3), (0.66, 0.08, 0.95, 1.3), (0.62, 0.92, 0.8, 1.3)):
            j = rng.normal(0, 0.06, 6)
            cx, cy = cx + j[0], cy + j[1]
            line([(cx, cy, 110), (0.8 * cx + j[2], 0.45 * cy + 0.4, 110), (0.6 * ex + j[4], 0.92 + j[5], 110),
                  (ex, ey, 110)], 0.8, 0.12)  # fmt: skip
            line([(cx + 4.5 / w * np.cos(a), cy + 4.5 / h * np.sin(a), 110) for a in np.linspace(0, 6.3, 13)], 1.6, 0.2)
    return out
