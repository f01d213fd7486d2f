"""The subject of a phantom film: everything that varies from film to film, drawn from one integer seed.

A subject does not depend on which other subjects are drawn, and two films of one patient share the patient.
Knows random numbers, but no shapes, rays or DICOM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .illness import Illness

CTR_RANGE = (0.38, 0.70)


@dataclass(frozen=True)
class Subject:
    """Everything that varies from film to film; lengths in mm, angles in degrees.

    The same `Subject` always gives the same image. Two films of one patient share the fields under "The patient",
    but for those that `make_ill` changes.
    """

    seed: int
    index: int
    patient_id: str
    film_id: str
    patient: int  # number of the patient within the seed
    film: int  # 0, or 1 for a patient's second film
    # The patient
    sex: str  # "F" or "M"
    age: int  # years
    thorax_width: float  # widest inner thorax, mm
    thorax_aspect: float  # lung height / thorax width at full inspiration
    chest_depth: float  # body depth front to back, mm
    tissue: float  # chest wall at the side, mm
    breast: float  # volume of the breast shadow relative to the average woman's, 0 without
    roundness: float  # 0 triangular heart, 1 globular
    aorta_unfolding: float  # 0 young, 1 old
    vessels: float  # prominence of the lung vessels, 1 is average
    scoliosis: float  # sideways bend of the spine, mm
    has_pacemaker: bool
    has_sternal_wires: bool
    has_calcified_aorta: bool
    # The day of the examination
    ctr: float  # widest heart / widest inner thorax on the film
    heart_shift: float  # fraction of the heart's width to the right of the midline
    inspiration: float  # 0 shallow, 1 full
    rotation_deg: float  # about the body's long axis
    tilt_deg: float  # in the plane of the film
    arm_angle_deg: float  # arms away from the body
    has_ecg_leads: bool
    has_tube: bool  # nasogastric
    has_central_line: bool
    stomach_gas: float  # size of the stomach bubble, 1 is average, 0 none
    # The film
    view: str  # "PA" or "AP"
    field: float  # side of the detector, mm
    offset: tuple[float, float]  # position of the thorax's middle and of the lung apex, fractions of the field
    exposure: float  # quanta relative to the usual
    scatter: float  # scatter to primary in the lung field
    contrast: float  # slope of the display curve
    brightness: float  # shift of the display curve
    equalise: float  # how strongly the processing flattens broad shadows: 0 not at all, 1 fully
    sharpen: float  # edge enhancement of the processing
    collimation: tuple[float, float, float, float]  # collimated margins at left, top, right, bottom, fractions
    marker: str  # "L", "R" or "" for none
    bits: int
    photometric: str
    illness: Illness | None = None  # of an ill patient, from `make_ill`


def keyed_generator(seed: int, *key: int) -> np.random.Generator:
    """Return a separate random generator for each key, so that no draw depends on how many came before it."""
    return np.random.default_rng(np.random.SeedSequence([seed, *key]))


PAIRING, PATIENT, FILM, ANATOMY, LUNG, NOISE, ILLNESS = range(7)  # keys of independent streams


def sample_subject(seed: int, index: int) -> Subject:
    """Draw subject number `index` of a seed; it does not depend on the other subjects.

    Parameters
    ----------
    seed, index : int
        Not negative.

    Returns
    -------
    Subject

    Raises
    ------
    ValueError
        If seed or index is negative.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed {seed} and index {index}")
    # Subjects 2k and 2k + 1 are sometimes two films of one patient.
    paired = keyed_generator(seed, PAIRING, index // 2).random() < 0.12
    patient = index - index % 2 if paired else index
    film = index % 2 if paired else 0

    p = keyed_generator(seed, PATIENT, patient)
    sex = "M" if p.random() < 0.52 else "F"
    age = int(np.clip(p.normal(56, 17), 18, 92))
    width = p.normal(296 if sex == "M" else 264, 17)
    habitus = float(np.clip(p.normal(0, 1) + 0.15, -1.8, 2.6))
    old = np.clip((age - 35) / 45, 0, 1)
    ctr = _truncated(p, 0.485 + 0.035 * old + 0.02 * max(habitus, 0), 0.068, *CTR_RANGE)
    fixed = {
        "sex": sex,
        "age": age,
        "thorax_width": float(width),
        "thorax_aspect": float(np.clip(p.normal(0.95 if sex == "M" else 0.92, 0.06) - 0.02 * habitus, 0.74, 1.1)),
        "chest_depth": float(np.clip(p.normal(222 if sex == "M" else 205, 12) + 16 * habitus, 170, 300)),
        "tissue": float(np.clip(p.normal(22, 4) + 9 * habitus, 9, 60)),
        "breast": float(np.clip(p.normal(1, 0.35) + 0.25 * habitus, 0.25, 2)) if sex == "F" else 0.0,
        "roundness": float(np.clip(0.32 + 1.6 * (ctr - 0.5) + p.normal(0, 0.22), 0, 1)),
        "aorta_unfolding": float(np.clip(old + p.normal(0, 0.2), 0, 1)),
        "vessels": float(np.clip(p.normal(1, 0.15), 0.65, 1.5)),
        "scoliosis": float(p.normal(0, 3.5)),
        "has_pacemaker": bool(p.random() < 0.03 + 0.05 * old),
        "has_sternal_wires": bool(p.random() < 0.02 + 0.04 * old),
        "has_calcified_aorta": bool(age > 62 and p.random() < 0.35),
    }

    f = keyed_generator(seed, FILM, index)
    ap = f.random() < 0.22
    ill = f.random() < (0.6 if ap else 0.08)
    inspiration = float(np.clip(f.normal(0.42 if ap else 0.72, 0.2), 0, 1))
    # After a shallow breath the diaphragm is high and the heart lies flatter, so the same heart looks wider.
    seen_ctr = float(
        np.clip(ctr + 0.05 * (0.65 - inspiration) + (0.015 if ap else 0) + film * f.normal(0, 0.01), 0.382, 0.698)
    )
    field_mm = width * 1.1 / np.clip(f.normal(0.80, 0.068), 0.56, 0.94)
    edges = np.where(f.random(4) < 0.16, f.uniform(0.004, 0.05, 4), 0.0)
    film_like = f.random()  # 0 a flat, bright film; 1 a modern plate
    return Subject(
        seed=seed,
        index=index,
        patient_id=f"HBX-{seed}-{patient:06d}",
        film_id=f"phantom-{seed}-{index:06d}",
        patient=patient,
        film=film,
        **fixed,
        ctr=seen_ctr,
        heart_shift=float(np.clip(f.normal(0.32, 0.035) + 0.05 * (seen_ctr - 0.5), 0.2, 0.42)),
        inspiration=inspiration,
        rotation_deg=float(np.clip(f.normal(0, 3.2 if ap else 1.8), -7, 7)),
        tilt_deg=float(np.clip(f.normal(0, 1.8 if ap else 1.0), -5, 5)),
        arm_angle_deg=float(np.clip(f.normal(14 if ap else 32, 9), 3, 60)),
        has_ecg_leads=bool(ill and f.random() < 0.7),
        has_tube=bool(ill and f.random() < 0.35),
        has_central_line=bool(ill and f.random() < 0.45),
        stomach_gas=float(max(f.normal(0.8, 0.5), 0.0)),
        view="AP" if ap else "PA",
        field=float(field_mm),
        offset=(float(f.normal(0.505, 0.018)), float(np.clip(f.normal(0.10, 0.045), 0.015, 0.27))),
        exposure=float(np.exp(f.normal(0, 0.35))),
        scatter=float(np.clip(f.normal(0.42 if ap else 0.28, 0.08), 0.1, 0.7)),
        contrast=float(np.clip(f.normal(1.0, 0.16), 0.65, 1.4)),
        brightness=float(f.normal(0.04, 0.05) + (0.16 if film_like < 0.22 else 0)),
        equalise=float(np.clip(0.08 + 0.5 * film_like + f.normal(0, 0.06), 0, 0.7)),
        sharpen=float(np.clip(f.normal(0.15 + 0.5 * film_like, 0.15), 0, 1)),
        collimation=tuple(float(e) for e in edges),
        marker=str(f.choice(["L", "R", "R", "L", ""])),
        bits=int(f.choice([8, 12])),
        photometric=str(f.choice(["MONOCHROME2", "MONOCHROME2", "MONOCHROME1"])),
    )


def _truncated(rng: np.random.Generator, mean: float, std: float, low: float, high: float) -> float:
    """Draw from a normal distribution until the value is within bounds, so that no values pile up at a bound."""
    while True:
        value = rng.normal(mean, std)
        if low <= value <= high:
            return float(value)
