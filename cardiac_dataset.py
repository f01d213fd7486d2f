"""CardiacDataset: prepared X-rays and their boxes, augmented together, as tensors for a network.

Built up cell by cell in 02-Dataset.ipynb. Knows the processed folder, imgaug and torch; no networks, no DICOM.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from heartbox.augmentation import augment_image, move_boxes, move_masks, strong_augmentation
from heartbox.boxes import EDGES, Rule
from heartbox.imgaug_compat import augmenters as iaa


def make_augmentation(strength: str = "published") -> iaa.Augmenter:
    """Return a chain of random changes for :func:`augment_pair`.

    Parameters
    ----------
    strength : {"published", "strong"}
        ``"published"``: the recipe of the exercise: gamma contrast, then scale, rotation (degrees) and
        translation (px). ``"strong"``: see :func:`heartbox.augmentation.strong_augmentation`.

    Raises
    ------
    ValueError
        If there is no augmentation of that name.
    """
    if strength == "published":
        return iaa.Sequential(
            [
                iaa.GammaContrast((0.7, 1.7)),
                iaa.Affine(scale=(0.8, 1.2), rotate=(-10, 10), translate_px={"x": (-10, 10), "y": (-10, 10)}),
            ]
        )
    if strength == "strong":
        return strong_augmentation()
    raise ValueError(f"unknown augmentation {strength!r}: choose 'published' or 'strong'")


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
