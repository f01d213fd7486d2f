"""From a healthy subject to an ill one: what an intensive care unit's films show, drawn from the same seed.

Every draw has its own key, so that a healthy subject is the same whether or not its ill twin is ever made.
Knows random numbers; it does not know shapes, rays or DICOM.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .anatomy import LEFT, RIGHT
from .illness import Illness, Opacity
from .subject import ILLNESS, Subject, keyed_generator

# Shares were set by eye, beside films of ill and supine patients; they are not statistics of any hospital.
SUPINE, SITTING, STANDING = range(3)
POSTURES = (0.45, 0.30, 0.25)
WORDS = ("PORTABLE", "SUPINE", "AP", "ERECT", "SEMI ERECT", "BED", "10:42", "0730", "LM", "R", "L", "CHEST AP", "ICU 4")


def make_ill(subject: Subject) -> Subject:
    """Return the subject as an ill patient.

    Parameters
    ----------
    subject : Subject
        From `sample_subject`. Its seed, index and patient decide everything that is drawn.

    Returns
    -------
    Subject
        With `illness` set, other lengths and angles, and a name of its own; a subject that is ill already is returned
        as it is.
    """
    if subject.illness is not None:
        return subject
    p = keyed_generator(subject.seed, ILLNESS, subject.patient)
    scoliosis = subject.scoliosis
    sway = (0.0, 0.0)
    if p.random() < 0.16:
        scoliosis = float(p.choice([-1, 1]) * p.uniform(10, 30))
        sway = (0.5 * scoliosis * float(p.uniform(0.3, 1.2)), float(p.uniform(-0.6, 1.2)))
    enlarged = float(np.clip(p.normal(0.005, 0.035), -0.06, 0.12))
    pacemaker, wires = bool(p.random() < 0.14), bool(p.random() < 0.16)

    f = keyed_generator(subject.seed, ILLNESS, subject.index, 0)
    posture = int(f.choice(3, p=POSTURES))
    lying = posture == SUPINE
    rotation = float(f.choice([-1, 1]) * f.uniform(6, 20)) if f.random() < 0.35 else subject.rotation_deg
    opacities = tuple(_opacities(f, lying))
    ctr = float(np.clip(subject.ctr + enlarged + (f.uniform(0, 0.035) if lying else 0), 0.38, 0.74))
    # A collapsed lung pulls the heart towards it; a large effusion pushes the heart away.
    pull = sum(
        o.side * f.normal(-0.03 if o.kind == "effusion" else 0.05, 0.05)
        for o in opacities
        if o.size > 0.6 and o.kind in ("effusion", "opaque lung")
    )
    right_share = subject.heart_shift - 0.006 * rotation - pull
    reach = 0.43 / ctr  # the heart stays within the chest
    raised = [0.0, 0.0]
    if f.random() < 0.18:
        raised[f.integers(2)] = float(f.uniform(0.08, 0.24))
    illness = Illness(
        opacities=opacities,
        devices=tuple(_devices(f, lying)),
        text=tuple(str(word) for word in f.choice(WORDS, f.integers(1, 4), replace=False)) if f.random() < 0.4 else (),
        source=float(f.uniform(950, 1150)) if lying else None,
        lung_height=float(f.uniform(0.78, 1.0) if lying else f.uniform(0.86, 1.05)),
        mediastinum=float(f.uniform(1.1, 1.55) if lying else f.uniform(0.95, 1.25)),
        raised_domes=(raised[0], raised[1]),
        sway=sway,
        slope=float(0.016 * rotation * f.uniform(0.2, 1.2) + f.normal(0, 0.06)),
    )
    return replace(
        subject,
        film_id=f"{subject.film_id}-ill",
        tissue=min(subject.tissue * float(f.uniform(1.0, 2.0)), 75.0),  # heavy, or swollen with fluid
        scoliosis=scoliosis,
        breast=subject.breast * (0.15 if lying else 0.5),  # it flattens, and slides aside
        has_pacemaker=subject.has_pacemaker or pacemaker,
        has_sternal_wires=subject.has_sternal_wires or wires,
        vessels=float(np.clip(subject.vessels * f.uniform(0.95, 1.35), 0.65, 1.7)),
        ctr=ctr,
        heart_shift=float(np.clip(right_share, max(0.1, 1 - reach), min(0.62, reach))),
        inspiration=float(f.uniform(0, 0.6)) if lying else 0.75 * subject.inspiration,
        rotation_deg=rotation,
        tilt_deg=float(np.clip(f.normal(0, 3.0), -9, 9)),
        arm_angle_deg=float(np.clip(f.normal(14, 9), 3, 45)) if posture != STANDING else subject.arm_angle_deg,
        has_ecg_leads=bool(f.random() < 0.25),
        has_tube=bool(f.random() < (0.4 if lying else 0.1)),
        has_central_line=bool(f.random() < (0.5 if lying else 0.2)),
        stomach_gas=float(max(f.normal(0.9, 0.8), 0.0)),
        field=max(subject.field * float(f.uniform(1.0, 1.35)), 1.3 * (subject.thorax_width + 2 * abs(sway[0]))),
        offset=(float(f.normal(0.5, 0.03)), float(np.clip(f.normal(0.21, 0.06), 0.03, 0.36))),
        view="PA" if posture == STANDING else "AP",
        exposure=subject.exposure * float(np.exp(f.normal(-0.5, 0.4))),
        scatter=float(np.clip(f.normal(0.55 if lying else 0.42, 0.14), 0.15, 1.0)),
        illness=illness,
    )


def _side(rng: np.random.Generator, left: float = 0.5) -> int:
    return LEFT if rng.random() < left else RIGHT


def _opacities(rng: np.random.Generator, lying: bool) -> list[Opacity]:
    """Draw the opacities of one film: at the bases most of all, and more on the left, where the heart lies on them."""
    out = []

    def add(kind, side, density, size=None):
        out.append(Opacity(kind, side, float(density), float(rng.uniform() if size is None else size)))

    def dense():  # as a rule there is little air left where a lung has collapsed
        return 0.5 + 0.5 * rng.beta(2.5, 1)

    if rng.random() < 0.42:
        for side in (RIGHT, LEFT) if rng.random() < 0.4 else (_side(rng),):
            if lying:
                add("veil", side, rng.uniform(0.25, 0.9))
            else:
                add("effusion", side, rng.uniform(0.85, 1.0), rng.beta(1.3, 2.2))
    if rng.random() < 0.45:
        for side in (RIGHT, LEFT) if rng.random() < 0.3 else (_side(rng, 0.65),):
            add("consolidation", side, dense())
    if rng.random() < 0.22:
        add("retrocardiac", _side(rng, 0.85), dense())
    if rng.random() < 0.07:
        add("opaque lung", _side(rng), rng.uniform(0.85, 1.0), rng.uniform(0.3, 1))
    if rng.random() < 0.4:
        add("oedema", 0, rng.uniform(0.1, 0.7))
    if rng.random() < 0.25:
        add("patches", 0, rng.uniform(0.2, 0.75))
    if rng.random() < 0.12:
        add("fat pad", _side(rng, 0.7), rng.uniform(0.25, 0.6))
    return out


def _devices(rng: np.random.Generator, lying: bool) -> list[str]:
    often = {"electrodes": 0.35, "cables": 0.35, "tracheal tube": 0.3 if lying else 0.04, "right drain": 0.06,
             "left drain": 0.08, "port": 0.10, "pulmonary catheter": 0.08, "defibrillator coils": 0.05,
             "valve": 0.05, "spinal rods": 0.03, "hose": 0.12 if lying else 0.03}  # fmt: skip
    return [name for name, share in often.items() if rng.random() < share]
