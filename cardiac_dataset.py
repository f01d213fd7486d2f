"""CardiacDataset: prepared X-rays and their boxes, augmented together, as tensors for a network.

Built up cell by cell in 02-Dataset.ipynb. Knows the processed folder, imgaug and torch; no networks, no DICOM.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from heartbox.augmentation import augment_image, move_boxes, move_masks, strong_augmentation
from heartbox.boxes import EDGES, EDGES_PER_BOX, Rule
from heartbox.data.store import Statistics, load_labels, map_array
from heartbox.imgaug_compat import augmenters as iaa

TARGETS = ("heart", "thorax")  # in the order in which the processed folder keeps them


def make_augmentation(strength: str = "published") -> iaa.Augmenter:
    """Return a chain of random changes for :func:`augment_pair`.

    Parameters
    ----------
    strength : {"published", "strong", "ward"}
        ``"published"``, the recipe of the exercise: gamma contrast, then scale, rotation (degrees) and translation
        (pixels). ``"strong"``, and ``"ward"``, which adds what is seen on films of ill patients: see
        :func:`heartbox.augmentation.strong_augmentation`.

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
    if strength in ("strong", "ward"):
        return strong_augmentation(ward=strength == "ward")
    raise ValueError(f"unknown augmentation {strength!r}: choose 'published', 'strong' or 'ward'")


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
        See :func:`heartbox.augmentation.augment_image`.
    boxes : ndarray, shape (n, 4)
        Boxes in pixels of `image`; a row of NaN (an unknown box) stays NaN.
    rule : {"ellipse", "corners"}
        Shape assumed inside a rotated box, see :func:`heartbox.boxes.transform_box`.
    outlines : ndarray, shape (n, points, 2), optional
        Outlines of the masks that the boxes were taken from, see :func:`heartbox.boxes.outline_from_mask`. With
        them no shape is assumed: the new boxes are those of the moved masks.

    Returns
    -------
    tuple of ndarray
        The image in [0, 1] and the boxes, clipped to it.
    """
    changed, matrix = augment_image(image, augmentation, seed)
    return changed, move_boxes(boxes, matrix, image.shape, rule, outlines)


class CardiacDataset(Dataset):
    """Pairs of a z-normalised X-ray and its boxes.

    Every random choice comes from torch's own generator, which the DataLoader seeds anew for each worker and each
    epoch: no two workers and no two epochs repeat each other, and ``torch.manual_seed`` repeats them all.

    Parameters
    ----------
    folder : path
        The processed folder that 01-Preprocessing.ipynb writes.
    split : str
        ``"train"`` or ``"val"``.
    augment : bool or {"published", "strong", "ward"}
        Whether to augment, and how (:func:`make_augmentation`; True is ``"published"``). Leave it off to measure.
    targets : sequence of str
        Whose boxes to give: ``"heart"``, ``"thorax"`` or both, in this order.
    rule : {"ellipse", "corners", "mask"}
        How augmentation rotates a box, see :func:`augment_pair`; ``"mask"`` follows the mask itself.
    masks : bool
        Whether to give the masks too.

    Raises
    ------
    FileNotFoundError
        If the folder has not been prepared.
    ValueError
        If a file of the folder is damaged, there is no image in `split`, or masks are asked for and there are none.
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
        self.stats = Statistics.load(folder)
        table = load_labels(folder)
        self.count = len(table)
        self.positions = np.flatnonzero(table["split"] == split)
        if not len(self.positions):
            raise ValueError(f"no image in split {split!r}: there is {', '.join(table['split'].unique())}")
        if (masks or rule == "mask") and not self.has_masks(folder):
            raise ValueError(f"{folder} holds no masks: use rule='ellipse' and masks=False")
        self.labels = table.iloc[self.positions].reset_index(drop=True)
        columns = [f"{target}_{edge}" for target in targets for edge in EDGES]
        self.boxes = self.labels[columns].to_numpy(np.float32).reshape(-1, len(targets), EDGES_PER_BOX)
        self.organs = [TARGETS.index(target) for target in targets]
        self.rule, self.masks = rule, masks
        self.augmentation = make_augmentation("published" if augment is True else augment) if augment else None

    @staticmethod
    def known_targets(folder: str | Path, targets: Sequence[str]) -> tuple[str, ...]:
        """Return those of `targets` that the training films have boxes of; RSNA's csv has none of the thorax."""
        table = load_labels(folder).query("split == 'train'")
        return tuple(target for target in targets if table[f"{target}_{EDGES[0]}"].notna().any())

    @staticmethod
    def has_masks(folder: str | Path) -> bool:
        """Tell whether a processed folder holds masks beside the boxes."""
        return (Path(folder) / "masks.npy").is_file()

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        """Return x, float32 (1, size, size), and boxes, float32 (4 * targets,) in pixels; masks if asked for."""
        image, boxes = self.raw(index)
        masks = self.raw_masks(index) if self.masks else None
        if self.augmentation is not None:
            seed = int(torch.randint(2**31 - 1, ()))
            image, matrix = augment_image(image, self.augmentation, seed)
            moved = move_boxes(boxes, matrix, image.shape, self.rule, self.outlines(index))
            boxes = np.where(np.isnan(boxes), np.nan, moved)  # an outline does not make an unknown edge known
            masks = None if masks is None else move_masks(masks, matrix, image.shape[0])
        pair = self.normalise(image), torch.from_numpy(np.asarray(boxes, dtype=np.float32).reshape(-1))
        return pair if masks is None else (*pair, torch.from_numpy(masks))

    def raw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image (size, size) in [0, 1] and boxes (targets, 4), neither augmented nor normalised."""
        return self._row("images.npy", index).astype(np.float32), self.boxes[index]

    def normalise(self, image: np.ndarray) -> torch.Tensor:
        """Turn an image in [0, 1] into a z-normalised tensor (1, size, size), by the training statistics."""
        return torch.from_numpy((image - self.stats.mean) / self.stats.std).float().unsqueeze(0)

    def outlines(self, index: int) -> np.ndarray | None:
        """Return the outlines of the targets' masks, (targets, points, 2); None unless boxes follow the masks."""
        return self._row("outlines.npy", index)[self.organs] if self.rule == "mask" else None

    def raw_masks(self, index: int) -> np.ndarray:
        """Return how much of each place the targets cover, float32 (targets, size / 2, size / 2) in [0, 1]."""
        return self._row("masks.npy", index)[self.organs].astype(np.float32) / 255

    def _row(self, name: str, index: int) -> np.ndarray:
        # Mapped anew each time, which costs next to nothing: a worker process is then not sent every image.
        return map_array(self.folder, name, self.count)[self.positions[index]]
