"""Augmentation: images changed at random, boxes and masks moved along, and the strong pipeline.

The strong pipeline imitates the ways in which films of other hospitals differ. Knows imgaug, arrays and boxes; it
does not know files or networks.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from heartbox.boxes import Rule, clip_boxes, transform_box, transform_outline
from heartbox.imgaug_compat import KeypointsOnImage
from heartbox.imgaug_compat import augmenters as iaa
from heartbox.ward_effects import add_ward_effects


def strong_augmentation(ward: bool = False) -> iaa.Augmenter:
    """Return a chain of random changes that imitates films of other hospitals.

    It changes field of view, proportions, tilt, exposure, tone curve, shading, sharpness and noise, and adds a
    collimator's border or an object in the way. It never inverts an image, because films are read with bone bright.

    Parameters
    ----------
    ward : bool
        Whether to imitate films of ill patients too, see :mod:`heartbox.ward_effects`.
    """
    return iaa.Sequential(
        [
            *([_step(add_ward_effects)] if ward else []),
            # Field of view and proportions: oblong films are squeezed into a square.
            iaa.Affine(scale=(0.75, 1.25), cval=(0.0, 0.3), mode=["constant", "edge"]),
            iaa.Affine(
                scale={"x": (0.88, 1.12), "y": (0.88, 1.12)},
                rotate=(-12, 12),
                shear=(-4, 4),
                translate_percent={"x": (-0.08, 0.08), "y": (-0.08, 0.08)},
                cval=(0.0, 0.3),
                mode=["constant", "edge"],
            ),
            iaa.GammaContrast((0.5, 2.0)),
            _step(_tone_curve),
            iaa.Sometimes(0.5, _step(_shade)),
            iaa.Sometimes(0.3, _step(_resolution)),
            iaa.Sometimes(0.3, _step(_noise)),
            iaa.Sometimes(0.2, _step(_collimate)),
            iaa.Sometimes(0.2, _step(_cut_out)),
        ]
    )


def _step(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> iaa.Augmenter:
    """Turn a function of a float image and a generator into an imgaug step that changes the image alone."""

    def images(batch, random_state, parents, hooks):
        return [
            change(image[..., 0], np.random.default_rng(int(random_state.generate_seed_())))[..., np.newaxis]
            for image in batch
        ]

    return iaa.Lambda(func_images=images)


def _tone_curve(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stretch or flatten the middle greys, and raise or lower both ends, as the tone curves of manufacturers do."""
    low, high = rng.uniform(-0.15, 0.2), rng.uniform(0.8, 1.15)
    bend = rng.uniform(-0.8, 0.8)  # below 0 flattens the middle, above 0 steepens it; the order of greys never changes
    image = np.clip(image, 0.0, 1.0)
    image = image + bend * image * (1 - image) * (2 * image - 1)
    return np.clip(low + (high - low) * image, 0.0, 1.0).astype(np.float32)


def _shade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brighten one side, as the heel effect of the anode or a grid that is off centre does."""
    rows, columns = image.shape
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None] * np.sin(angle)
    x = np.linspace(-1, 1, columns, dtype=np.float32) * np.cos(angle)
    return (image * (1 + depth * (x + y))).astype(np.float32)


def _resolution(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, or sharpen as a manufacturer's edge enhancement does."""
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.5))
    return soft if rng.random() < 0.5 else np.clip(image + rng.uniform(0, 1.5) * (image - soft), 0, 1)


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of few photons."""
    return image + rng.uniform(0.0, 0.08) * rng.standard_normal(image.shape, dtype=np.float32)


def _collimate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blacken or whiten a border on some sides, like a collimator's shadow or the frame of a print."""
    image, grey = image.copy(), np.float32(rng.choice([0.0, 0.0, 1.0]))
    top, bottom, left, right = (rng.integers(1, n // 11 + 2) * (rng.random() < 0.5) for n in np.repeat(image.shape, 2))
    image[:top], image[image.shape[0] - bottom :] = grey, grey
    image[:, :left], image[:, image.shape[1] - right :] = grey, grey
    return image


def _cut_out(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cover a random rectangle with one grey (cutout, DeVries & Taylor 2017), like a device or a sticker."""
    image, (rows, columns) = image.copy(), image.shape
    height, width = rng.integers(rows // 12 + 1, rows // 4 + 2), rng.integers(columns // 12 + 1, columns // 4 + 2)
    y, x = rng.integers(0, rows - height), rng.integers(0, columns - width)
    image[y : y + height, x : x + width] = rng.random()
    return image


def augment_image(image: np.ndarray, augmentation: iaa.Augmenter, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Augment one image, and return the map that its points followed.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        Image in [0, 1].
    augmentation : imgaug Augmenter
        Any chain of photometric and affine steps.
    seed : int
        Decides every random choice; the same seed gives the same result.

    Returns
    -------
    image : ndarray of float32, shape (rows, columns)
        In [0, 1].
    matrix : ndarray of float64, shape (2, 3)
        The affine map of points, ``(x', y') = matrix @ (x, y, 1)``, in pixels.
    """
    augmentation.seed_(seed)
    fixed = augmentation.to_deterministic()  # the same draw for the image and for the points below
    # Three points determine the affine map, and the map moves boxes and masks.
    corners = np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32) * 100
    moved = fixed.augment_keypoints(KeypointsOnImage.from_xy_array(corners, shape=image.shape))
    origin, right, down = moved.to_xy_array().astype(np.float64)
    matrix = np.column_stack([(right - origin) / 100, (down - origin) / 100, origin])
    bright = np.clip(fixed.augment_image(image[..., np.newaxis])[..., 0], 0.0, 1.0)
    return bright, matrix


def move_boxes(
    boxes: np.ndarray,
    matrix: np.ndarray,
    shape: tuple[int, int],
    rule: Rule = "ellipse",
    outlines: np.ndarray | None = None,
) -> np.ndarray:
    """Move boxes (n, 4) by an affine map and clip them to an image of `shape`; see :func:`augment_pair`."""
    if outlines is None:
        moved = np.stack([transform_box(box, matrix, rule) for box in boxes])
    else:
        moved = np.stack([transform_outline(points, matrix) for points in outlines])
    return clip_boxes(moved, shape)


def move_masks(masks: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Move masks, (n, h, w), by an affine map that is given in pixels of the image of side `size`."""
    scale = masks.shape[-1] / size
    # OpenCV counts from the centre of the first pixel, boxes and outlines from its corner.
    shift = matrix[:, 2] * scale + matrix[:, :2] @ [0.5, 0.5] - 0.5
    moved = np.column_stack([matrix[:, :2], shift])
    return np.stack([cv2.warpAffine(mask, moved, mask.shape[::-1], flags=cv2.INTER_LINEAR) for mask in masks])
