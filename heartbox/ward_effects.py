"""What a ward does to a film, imitated on any film whose boxes are known: fluid, consolidation, lines and stickers.

Films of ill patients are rarely labelled. These steps cover the borders of hearts whose borders are known, so that a
network learns to find a border from what is left of it. They change the image alone. Knows arrays; no boxes.
"""

from __future__ import annotations

import cv2
import numpy as np

SOFT_TISSUE = (0.55, 0.9)  # grey of the heart and of fluid on films with normalised contrast
COARSE = 4  # veils are soft: they are computed on every fourth row and column


def add_ward_effects(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add each of the effects below to some of the films: fluid and consolidation to a quarter, lines to a third.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        In [0, 1], bone bright.
    rng : numpy Generator
        Decides everything.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
    """
    for share, effect in ((0.25, add_effusion), (0.25, add_consolidation), (0.35, add_lines), (0.2, add_writing)):
        if rng.random() < share:
            image = effect(image, rng)
    return image


def add_effusion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fill the base of one or both lungs with fluid, which rises at the chest wall, or veil it where the patient lies.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        In [0, 1], bone bright.
    rng : numpy Generator
        Decides the sides, the level and how dense the fluid is.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
    """
    rows, columns = coarse = tuple(-(-side // COARSE) for side in image.shape)
    y = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, columns, dtype=np.float32)
    middle = rng.uniform(-0.1, 0.1)
    veil = np.zeros(coarse, np.float32)
    for side in rng.permutation([-1, 1])[: rng.integers(1, 3)]:
        height, softness = rng.uniform(0.35, 0.85), rng.uniform(0.02, 0.15)
        rise = rng.uniform(0, 0.25) * np.clip(side * (x - middle), 0, 1) ** 2  # the meniscus
        inside = _sigmoid((y - height + rise) / softness) * _sigmoid(side * (x - middle) / 0.08)
        veil = np.maximum(veil, inside * rng.uniform(0.2, 0.9))
    return _cover(image, veil, rng)


def add_consolidation(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add one to three patches of airless lung with soft, irregular borders, most often near the heart.

    Parameters and result are those of :func:`add_effusion`.
    """
    rows, columns = coarse = tuple(-(-side // COARSE) for side in image.shape)
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j].astype(np.float32)
    rough = cv2.resize(rng.standard_normal((12, 12)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    veil = np.zeros(coarse, np.float32)
    for _ in range(rng.integers(1, 4)):
        centre_x, centre_y = rng.normal(0.5, 0.2), rng.normal(0.58, 0.15)
        width, height = rng.uniform(0.06, 0.22, 2)
        distance = np.hypot((x - centre_x) / width, (y - centre_y) / height) + rng.uniform(0.1, 0.5) * rough
        veil = np.maximum(veil, _sigmoid((1 - distance) / rng.uniform(0.1, 0.4)) * rng.uniform(0.2, 0.9))
    return _cover(image, veil, rng)


def add_lines(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay tubes, catheters and wires over the film, and the electrodes and buttons at their ends.

    Parameters and result are those of :func:`add_effusion`.
    """
    rows, columns = image.shape
    layer = np.zeros_like(image)
    t = np.linspace(0, 1, 40)[:, None]
    for _ in range(rng.integers(1, 6)):
        start, bend, end = rng.uniform(-0.1, 1.1, (3, 2)) * (columns, rows)
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        width, grey = int(rng.choice([1, 1, 2])), float(rng.uniform(0.1, 0.5))
        cv2.polylines(layer, [np.round(curve * 8).astype(np.int32)], False, grey, width, cv2.LINE_AA, shift=3)
        if rng.random() < 0.5:
            cv2.circle(
                layer, tuple(int(v) for v in end), int(rng.integers(2, columns // 40 + 3)), grey, -1, cv2.LINE_AA
            )
    return np.clip(image + cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.4, 0.9)), 0, 1)


def add_writing(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Burn letters or a bar of one grey into the film, as printers, archives and nurses do.

    Parameters and result are those of :func:`add_effusion`.
    """
    image, (rows, columns) = image.copy(), image.shape
    for _ in range(rng.integers(1, 4)):
        x, y = (
            int(rng.uniform(0, 0.9) * columns),
            int(rng.choice([rng.uniform(0.02, 0.2), rng.uniform(0.85, 1)]) * rows),
        )
        if rng.random() < 0.3:
            image[y : y + int(rng.integers(3, rows // 16 + 4)), x : x + columns // 3] = rng.choice([0.0, 1.0])
        else:
            text = "".join(rng.choice(list("ALRPSUINE0123456789:"), int(rng.integers(1, 9))))
            scale, grey = rng.uniform(0.25, 0.8) * columns / 224, float(rng.integers(200, 256))
            layer = np.zeros(image.shape, np.uint8)  # OpenCV writes on bytes alone
            cv2.putText(layer, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, grey, 1, cv2.LINE_AA)
            image = np.maximum(image, layer.astype(np.float32) / 255)
    return image


def _cover(image: np.ndarray, veil: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend an image with the grey of soft tissue, by a coarse veil in [0, 1]; ribs shine through a thin one."""
    veil = cv2.resize(np.float32(veil), image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return (image + veil * np.clip(rng.uniform(*SOFT_TISSUE) - image, -0.1, 1)).astype(np.float32)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))
