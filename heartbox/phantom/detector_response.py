"""From attenuation to an image: quanta, scatter, noise, and the processing of a digital detector plate.

Knows the exposure settings of a `Subject`; it does not know anatomy or DICOM.
"""

from __future__ import annotations

import cv2
import numpy as np

from .subject import NOISE, Subject, keyed_generator


def expose(attenuation: np.ndarray, subject: Subject, spacing: float) -> np.ndarray:
    """Expose the plate: Beer and Lambert's law, blur, scatter, quantum noise, logarithm.

    Parameters
    ----------
    attenuation : float32 array (size, size)
        Exponent along every ray.
    subject : Subject
        Exposure and scatter.
    spacing : float
        Pixel spacing, mm.

    Returns
    -------
    float32 array (size, size)
        Minus the logarithm of the dose relative to open air: bright where much radiation was absorbed.
    """
    size = len(attenuation)
    rng = keyed_generator(subject.seed, NOISE, subject.index)
    primary = np.exp(-attenuation)
    # Focal spot and plate blur by about 0.2 mm.
    primary = cv2.GaussianBlur(primary, (0, 0), max(0.2 / spacing, 0.3))
    # Scattered quanta arrive from all around: the primary radiation, blurred over centimetres. Where the beam passes
    # through air alone nothing scatters, so these parts are capped first.
    small = cv2.resize(np.minimum(primary, 0.25), (64, 64), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 64 * 28.0 / (spacing * size), borderType=cv2.BORDER_REPLICATE)
    dose = primary + subject.scatter * cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    # In open air 150 000 quanta fall on a square millimetre, behind the lung some 25 000, behind the abdomen
    # 3000: a few microgray and less, at 30 000 quanta a square millimetre and microgray (IEC 62220-1, RQA5).
    quanta = np.float32(150000 * subject.exposure * spacing**2)
    noise = rng.standard_normal((size, size), dtype=np.float32)
    dose += np.sqrt(dose / quanta) * noise
    return -np.log(np.maximum(dose, 1e-5))


def develop(signal: np.ndarray, subject: Subject, field_mask: np.ndarray) -> np.ndarray:
    """Turn the plate's signal into the image: range, flattening of broad shadows, edge enhancement, contrast curve.

    Parameters
    ----------
    signal : float32 array (size, size)
        From `expose`.
    subject : Subject
        The processing.
    field_mask : bool array (size, size)
        Where the lungs are; the range of grey values is taken from there.

    Returns
    -------
    float32 array (size, size)
        In [0, 1].
    """
    size = len(signal)
    small = cv2.resize(signal, (128, 128), interpolation=cv2.INTER_AREA)
    lung = cv2.resize(field_mask.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA) > 0.9
    low = np.percentile(small[lung], 5) if lung.sum() > 50 else np.percentile(small, 20)
    high = np.percentile(small[int(128 * 0.2) :], 97)
    broad = cv2.GaussianBlur(np.clip(small, low - 0.8, None), (0, 0), 9)
    middle = np.float32((low + high) / 2)
    broad = cv2.resize(broad, (size, size), interpolation=cv2.INTER_CUBIC)
    signal = signal - np.float32(subject.equalise) * (broad - middle)
    if subject.sharpen > 0.05:
        fine = cv2.GaussianBlur(signal, (0, 0), size / 350)
        signal += np.float32(1.2 * subject.sharpen) * (signal - fine)
    spread = np.float32((high - low) * (1 - 0.45 * subject.equalise))
    value = (signal - middle) / spread  # lungs near -0.5, abdomen near 0.5
    slope = np.float32(3.1 * subject.contrast)
    out = 1 / (1 + np.exp(-slope * (value + np.float32(subject.brightness + 0.14))))
    ends = 1 / (1 + np.exp(-slope * np.array([-0.95, 0.95])))
    return np.clip((out - np.float32(ends[0])) / np.float32(ends[1] - ends[0]), 0, 1)


def mark(image: np.ndarray, subject: Subject) -> np.ndarray:
    """Add the lead marker and the collimator's borders; the image is changed in place."""
    size = len(image)
    if subject.marker:
        rng = keyed_generator(subject.seed, NOISE, subject.index, 1)
        right = subject.marker == "R"  # the patient's right is on the left
        x = rng.uniform(0.04, 0.14) if right else rng.uniform(0.83, 0.92)
        y = rng.uniform(0.05, 0.16)
        scale = rng.uniform(0.9, 1.7) * size / 1024
        layer = np.zeros((size, size), np.uint8)
        at = (int(x * size), int(y * size))
        font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
        cv2.putText(layer, subject.marker, at, font, scale * 1.4, 255, max(1, round(4 * scale)), cv2.LINE_AA)
        if rng.random() < 0.4:
            w, h = int(29 * scale), int(30 * scale)
            cv2.ellipse(
                layer,
                (at[0] + w // 2, at[1] - h // 2),
                (int(0.95 * w), int(1.05 * h)),
                0,
                0,
                360,
                255,
                max(1, round(2 * scale)),
                cv2.LINE_AA,
            )
        np.maximum(image, layer.astype(np.float32) / 255 * np.float32(rng.uniform(0.85, 1.0)), out=image)
    left, top, right, bottom = (int(round(m * size)) for m in subject.collimation)
    for cut in (np.s_[:, :left], np.s_[:top], np.s_[:, size - right :], np.s_[size - bottom :]):
        image[cut] = 0.0
    return image
