"""CardiacDataset: prepared X-rays and their boxes, augmented together, as tensors for a network.

Built up cell by cell in 02-Dataset.ipynb. Knows the processed folder, imgaug and torch; no networks, no DICOM.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from heartbox.boxes import EDGES, Rule, clip_boxes, transform_box
from heartbox.imgaug_compat import KeypointsOnImage
from heartbox.imgaug_compat import augmenters as iaa


def make_augmentation() -> iaa.Augmenter:
    """Return the published recipe: gamma contrast, then scale, rotation (degrees) and translation (px)."""
    return iaa.Sequential(
        [
            iaa.GammaContrast((0.7, 1.7)),
            iaa.Affine(scale=(0.8, 1.2), rotate=(-10, 10), translate_px={"x": (-10, 10), "y": (-10, 10)}),
        ]
    )


def augment_pair(
    image: np.ndarray, boxes: np.ndarray, augmentation: iaa.Augmenter, seed: int, rule: Rule = "ellipse"
) -> tuple[np.ndarray, np.ndarray]:
    """Augment one image and its boxes together.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        Image in [0, 1].
    boxes : ndarray, shape (n, 4)
        Boxes in pixels of `image`; a row of NaN (an unknown box) stays NaN.
    augmentation : imgaug Augmenter
        Any chain of photometric and affine steps.
    seed : int
        Decides every random choice: the same seed gives the same pair.
    rule : {"ellipse", "corners"}
        What is thought to be inside a turned box, see :func:`heartbox.boxes.transform_box`.

    Returns
    -------
    tuple of ndarray
        The image in [0, 1] and the boxes, clipped to it.
    """
    augmentation.seed_(seed)
    fixed = augmentation.to_deterministic()  # the same draw for the image and for the points below
    # Where three points go tells the affine map, and the map tells where the boxes go.
    corners = np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32) * 100
    moved = fixed.augment_keypoints(KeypointsOnImage.from_xy_array(corners, shape=image.shape))
    origin, right, down = moved.to_xy_array().astype(np.float64)
    matrix = np.column_stack([(right - origin) / 100, (down - origin) / 100, origin])
    turned = np.stack([transform_box(box, matrix, rule) for box in boxes])
    bright = np.clip(fixed.augment_image(image[..., np.newaxis])[..., 0], 0.0, 1.0)
    return bright, clip_boxes(turned, image.shape)


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
    augment : bool
        Whether to augment; leave it off to measure.
    targets : sequence of str
        Whose boxes to give: ``"heart"``, ``"thorax"`` or both, in this order.
    rule : {"ellipse", "corners"}
        See :func:`augment_pair`.

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
        augment: bool = False,
        targets: Sequence[str] = ("heart",),
        rule: Rule = "ellipse",
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
        self.rule = rule
        self.augmentation = make_augmentation() if augment else None

    @staticmethod
    def known_targets(folder: str | Path, targets: Sequence[str]) -> tuple[str, ...]:
        """Return those of `targets` that a processed folder has labels for: RSNA's csv, say, knows no thorax."""
        table = pd.read_csv(Path(folder) / "labels.csv")
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

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x, float32 (1, size, size), and boxes, float32 (4 * targets,) in pixels."""
        image, boxes = self.raw(index)
        if self.augmentation is not None:
            seed = int(torch.randint(2**31 - 1, ()))
            image, boxes = augment_pair(image, boxes, self.augmentation, seed, self.rule)
        return self.normalise(image), torch.from_numpy(np.asarray(boxes, dtype=np.float32).reshape(-1))
