"""CardiacDataset: prepared X-rays and their boxes, augmented together, as tensors for a network.

Built up cell by cell in 02-Dataset.ipynb. Knows the processed folder, imgaug and torch; no networks, no DICOM.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from heartbox.boxes import EDGES, Rule, clip_boxes, transform_box, transform_outline
from heartbox.imgaug_compat import KeypointsOnImage
from heartbox.imgaug_compat import augmenters as iaa


def make_augmentation(strength: str = "published") -> iaa.Augmenter:
    """Return a chain of random changes for :func:`augment_pair`.

    Parameters
    ----------
    strength : {"published", "strong"}
        ``"published"``: the recipe of the exercise: gamma contrast, then scale, rotation (degrees) and
        translation (px). ``"strong"``: what films of other hospitals may differ in: field of view, proportions,
        tilt, exposure and tone curve, shading, sharpness, noise, a collimator's border, something in the way.
        Never inverted: a film is read with bone bright.
    """
    if strength == "published":
        return iaa.Sequential(
            [
                iaa.GammaContrast((0.7, 1.7)),
                iaa.Affine(scale=(0.8, 1.2), rotate=(-10, 10), translate_px={"x": (-10, 10), "y": (-10, 10)}),
            ]
        )
    if strength != "strong":
        raise ValueError(f"unknown augmentation {strength!r}: choose 'published' or 'strong'")
    return iaa.Sequential(
        [
            # Field of view and proportions: oblong films come squeezed into a square.
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
    """Make a step of imgaug that changes the image alone from a function of a float image and a generator."""

    def images(batch, random_state, parents, hooks):
        return [
            change(image[..., 0], np.random.default_rng(int(random_state.generate_seed_())))[..., np.newaxis]
            for image in batch
        ]

    return iaa.Lambda(func_images=images)


def _tone_curve(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stretch or flatten the middle greys, and lift or sink the ends: the tone curves of other makers."""
    low, high = rng.uniform(-0.15, 0.2), rng.uniform(0.8, 1.15)
    bend = rng.uniform(-0.8, 0.8)  # below 0 flattens the middle, above steepens it; never turns the order
    image = np.clip(image, 0.0, 1.0)
    image = image + bend * image * (1 - image) * (2 * image - 1)
    return np.clip(low + (high - low) * image, 0.0, 1.0).astype(np.float32)


def _shade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brighten one side: the anode's heel effect, or a grid that is not quite centred."""
    rows, columns = image.shape
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None] * np.sin(angle)
    x = np.linspace(-1, 1, columns, dtype=np.float32) * np.cos(angle)
    return (image * (1 + depth * (x + y))).astype(np.float32)


def _resolution(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, or sharpen as makers' edge enhancement does."""
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.5))
    return soft if rng.random() < 0.5 else np.clip(image + rng.uniform(0, 1.5) * (image - soft), 0, 1)


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of few photons."""
    return image + rng.uniform(0.0, 0.08) * rng.standard_normal(image.shape, dtype=np.float32)


def _collimate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blacken or whiten a border on some sides: a collimator's shadow, a print's frame."""
    image, grey = image.copy(), np.float32(rng.choice([0.0, 0.0, 1.0]))
    top, bottom, left, right = (rng.integers(1, n // 11 + 2) * (rng.random() < 0.5) for n in np.repeat(image.shape, 2))
    image[:top], image[image.shape[0] - bottom :] = grey, grey
    image[:, :left], image[:, image.shape[1] - right :] = grey, grey
    return image


def _cut_out(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a plain rectangle somewhere (DeVries & Taylor 2017): a device, a label, a reason to look elsewhere too."""
    image, (rows, columns) = image.copy(), image.shape
    height, width = rng.integers(rows // 12 + 1, rows // 4 + 2), rng.integers(columns // 12 + 1, columns // 4 + 2)
    y, x = rng.integers(0, rows - height), rng.integers(0, columns - width)
    image[y : y + height, x : x + width] = rng.random()
    return image


def augment_image(image: np.ndarray, augmentation: iaa.Augmenter, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Augment one image, and say where its points went.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        Image in [0, 1].
    augmentation : imgaug Augmenter
        Any chain of photometric and affine steps.
    seed : int
        Decides every random choice: the same seed gives the same answer.

    Returns
    -------
    image : ndarray of float32, shape (rows, columns)
        In [0, 1].
    matrix : ndarray of float64, shape (2, 3)
        The affine map of points, ``(x', y') = matrix @ (x, y, 1)``, in pixels.
    """
    augmentation.seed_(seed)
    fixed = augmentation.to_deterministic()  # the same draw for the image and for the points below
    # Where three points go tells the affine map, and the map tells where boxes and masks go.
    corners = np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32) * 100
    moved = fixed.augment_keypoints(KeypointsOnImage.from_xy_array(corners, shape=image.shape))
    origin, right, down = moved.to_xy_array().astype(np.float64)
    matrix = np.column_stack([(right - origin) / 100, (down - origin) / 100, origin])
    bright = np.clip(fixed.augment_image(image[..., np.newaxis])[..., 0], 0.0, 1.0)
    return bright, matrix


def augment_pair(
    image: np.ndarray,
    boxes: np.ndarray,
    augmentation: iaa.Augmenter,
    seed: int,
    rule: Rule = "ellipse",
    outlines: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Augment one image and its boxes together.

    Parameters
    ----------
    image, augmentation, seed
        See :func:`augment_image`.
    boxes : ndarray, shape (n, 4)
        Boxes in pixels of `image`; a row of NaN (an unknown box) stays NaN.
    rule : {"ellipse", "corners"}
        What is thought to be inside a turned box, see :func:`heartbox.boxes.transform_box`.
    outlines : ndarray, shape (n, points, 2), optional
        Outlines of the masks that the boxes were taken from, see :func:`heartbox.boxes.outline_from_mask`.
        Nothing need then be thought: the new boxes are those of the moved masks.

    Returns
    -------
    tuple of ndarray
        The image in [0, 1] and the boxes, clipped to it.
    """
    bright, matrix = augment_image(image, augmentation, seed)
    return bright, move_boxes(boxes, matrix, image.shape, rule, outlines)


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


class CardiacDataset(Dataset):
    """Pairs of a z-normalised X-ray and its boxes.

    Every random choice is drawn from torch's own generator, which the DataLoader seeds anew for each worker and
    each epoch: no two workers and no two epochs repeat each other, and ``torch.manual_seed`` repeats them all.

    Parameters
    ----------
    folder : path
        The processed folder that 01-Preprocessing.ipynb writes.
    split : str
        ``"train"`` or ``"val"``.
    augment : bool or {"published", "strong"}
        Whether to augment, and how (:func:`make_augmentation`; ``True`` is ``"published"``). Leave it off to measure.
    targets : sequence of str
        Whose boxes to give: ``"heart"``, ``"thorax"`` or both, in this order.
    rule : {"ellipse", "corners", "mask"}
        See :func:`augment_pair`. ``"mask"`` follows the mask itself where the folder has them, else the ellipse.
    masks : bool
        Whether to give the masks too, for training with them.

    Raises
    ------
    FileNotFoundError
        If the folder has not been prepared; says which notebook prepares it.
    ValueError
        If there is no image in `split`.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        augment: bool | str = False,
        targets: Sequence[str] = ("heart",),
        rule: Rule | Literal["mask"] = "ellipse",
        masks: bool = False,
    ):
        self.folder = Path(folder)
        if not (self.folder / "stats.json").is_file():
            raise FileNotFoundError(f"{self.folder} holds no prepared X-rays: run 01-Preprocessing.ipynb first")
        self.stats = json.loads((self.folder / "stats.json").read_text(encoding="utf-8"))
        table = pd.read_csv(self.folder / "labels.csv", dtype={"name": str})
        self.positions = np.flatnonzero(table["split"] == split)
        if not len(self.positions):
            raise ValueError(f"no image in split {split!r}: there is {', '.join(table['split'].unique())}")
        count = len(np.load(self.folder / "images.npy", mmap_mode="r"))
        if count != len(table):
            raise ValueError(f"{self.folder}: {count} images but {len(table)} labels; run 01-Preprocessing.ipynb again")
        self.labels = table.iloc[self.positions].reset_index(drop=True)
        columns = [f"{target}_{edge}" for target in targets for edge in EDGES]
        self.boxes = self.labels[columns].to_numpy(np.float32).reshape(-1, len(targets), 4)
        self.organs = [("heart", "thorax").index(target) for target in targets]
        has_masks = (self.folder / "masks.npy").is_file()
        self.rule: Rule = "ellipse" if rule == "mask" else rule
        self.outlines = None
        if rule == "mask" and has_masks:
            self.outlines = np.load(self.folder / "outlines.npy")[self.positions][:, self.organs]
        self.with_masks = masks and has_masks
        self.augmentation = make_augmentation("published" if augment is True else augment) if augment else None

    @staticmethod
    def known_targets(folder: str | Path, targets: Sequence[str]) -> tuple[str, ...]:
        """Return those of `targets` that a folder's training films have labels of: RSNA's csv, say, knows no thorax."""
        table = pd.read_csv(Path(folder) / "labels.csv").query("split == 'train'")
        return tuple(target for target in targets if table[f"{target}_{EDGES[0]}"].notna().any())

    def __len__(self) -> int:
        return len(self.positions)

    def raw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image (size, size) in [0, 1] and boxes (targets, 4), neither augmented nor normalised."""
        # Mapped anew each time, which costs next to nothing: a worker process is then not handed every image.
        images = np.load(self.folder / "images.npy", mmap_mode="r")
        return np.asarray(images[self.positions[index]], dtype=np.float32), self.boxes[index]

    def normalise(self, image: np.ndarray) -> torch.Tensor:
        """Turn an image in [0, 1] into a z-normalised tensor (1, size, size), by the training statistics."""
        return torch.from_numpy((image - self.stats["mean"]) / self.stats["std"]).float().unsqueeze(0)

    def raw_masks(self, index: int) -> np.ndarray:
        """Return how much of each place the targets cover, float32 (targets, size / 2, size / 2) in [0, 1]."""
        masks = np.load(self.folder / "masks.npy", mmap_mode="r")
        return masks[self.positions[index]][self.organs].astype(np.float32) / 255

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        """Return x, float32 (1, size, size), and boxes, float32 (4 * targets,) in pixels; masks if asked for."""
        image, boxes = self.raw(index)
        masks = self.raw_masks(index) if self.with_masks else None
        if self.augmentation is not None:
            seed = int(torch.randint(2**31 - 1, ()))
            outlines = None if self.outlines is None else self.outlines[index]
            image, matrix = augment_image(image, self.augmentation, seed)
            moved = move_boxes(boxes, matrix, image.shape, self.rule, outlines)
            boxes = np.where(np.isnan(boxes), np.nan, moved)  # an outline does not make an unknown edge known
            if masks is not None:
                masks = move_masks(masks, matrix, image.shape[0])
        pair = self.normalise(image), torch.from_numpy(np.asarray(boxes, dtype=np.float32).reshape(-1))
        return pair if masks is None else (*pair, torch.from_numpy(masks))
