"""Heart MRI volumes and the slices that a network learns from: checked, normalised, split, cropped and augmented.

Knows arrays, imgaug and torch's ``Dataset``; no files (:mod:`companions.atrium.layouts`) and no networks.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from heartbox.data.tables import ItemError
from heartbox.imgaug_compat import augmenters as iaa
from heartbox.imgaug_compat import imgaug

SPACING_RANGE_MM = (0.1, 20.0)  # a voxel size outside this range was given in another unit
LARGEST_SHARE = 0.5  # of a volume that a mask may cover; the Decathlon's atria cover 1 to 2 %
FIELD = 256  # rows and columns kept: the published exercise crops 320 by 32 pixels on each side
OFFSETS = (-4, -2, 0, 2, 4)  # slices used as input channels, counted from the slice to be segmented


@dataclass(frozen=True, eq=False)
class AtriumVolume:
    """One heart MRI volume with its mask; all arrays are (slices, rows, columns).

    Attributes
    ----------
    name : str
        The file's name without its extensions.
    image : ndarray of float16
        In [0, 1], see :func:`normalise`.
    mask : ndarray of bool
        The left atrium.
    spacing : tuple of float
        Millimetres from slice to slice, row to row and column to column.
    axes : tuple of str
        The directions of the three axes as stored in the file, such as ``("R", "A", "S")`` for right, anterior,
        superior; empty where the file does not say.
    """

    name: str
    image: NDArray[np.float16]
    mask: NDArray[np.bool_]
    spacing: tuple[float, float, float]
    axes: tuple[str, ...] = ()

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres (1 mL is 1000 cubic millimetres)."""
        return float(np.prod(self.spacing)) / 1000

    @property
    def volume_ml(self) -> float:
        """Volume of the labelled atrium in millilitres."""
        return float(self.mask.sum()) * self.voxel_ml


# ---------------------------------------------------------------- one volume, checked


def normalise(image: NDArray) -> NDArray[np.float32]:
    """Map a volume's grey values to [0, 1]: z-scores over the whole volume, clipped to -1 to 5 and rescaled.

    An MRI scanner's values have no unit, so each volume is measured by its own mean and standard deviation. The ends
    of the range are fixed. Dividing the z-scores by their own range instead, as is often done, cancels them: the
    result equals min-max scaling of the raw values, and one bright voxel darkens the whole heart.
    """
    image = np.asarray(image, dtype=np.float32)
    scores = (image - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)
    return ((np.clip(scores, -1, 5) + 1) / 6).astype(np.float32)


def crop_to_centre(volume: NDArray, size: int = FIELD) -> NDArray:
    """Crop rows and columns to the middle `size` pixels; a smaller volume stays as it is."""
    rows, columns = (max(0, (n - size) // 2) for n in volume.shape[1:])
    return volume[:, rows : rows + size, columns : columns + size]


def check_volume(
    name: str, image: NDArray, label: NDArray, spacing: Sequence[float], axes: tuple[str, ...] = ()
) -> AtriumVolume:
    """Check an image and its label, crop both to the centre, and normalise the image.

    The crop comes first, so that the air around the patient does not weigh in the mean.

    Raises
    ------
    ItemError
        If the shapes differ, the spacing is impossible, the image is constant or not finite, or the label is empty,
        covers most of the volume, or holds values other than 0 and 1.
    """
    low, high = SPACING_RANGE_MM
    if len(spacing) != 3 or not all(low <= mm <= high for mm in spacing):
        raise ItemError("spacing", f"the spacing is {tuple(spacing)}: expected three numbers from {low} to {high} mm")
    for kind, what, array in (("pixels", "image", image), ("mask", "mask", label)):
        if array.dtype.kind not in "biuf":
            raise ItemError(kind, f"the {what} has the type {array.dtype}: expected one number per voxel")
    if image.ndim != 3 or image.shape != label.shape:
        reason = f"the image has the shape {image.shape} and the mask {label.shape}: expected two equal volumes"
        raise ItemError("mask", reason)
    with np.errstate(over="ignore"):
        if not np.isfinite(image.astype(np.float32)).all():
            raise ItemError("pixels", "the image holds NaN, infinite values or values beyond 32 bits")
    values = np.unique(label)
    if not np.isin(values, (0, 1)).all():
        seen = ", ".join(f"{value:g}" for value in values[:6])
        raise ItemError("mask", f"the mask holds {seen}: expected 0 and 1 (left atrium)")
    if not values.any():
        raise ItemError("mask", "the mask is empty: no voxel is labelled as left atrium")
    if (covered := np.count_nonzero(label) / label.size) > LARGEST_SHARE:
        raise ItemError("mask", f"the mask covers {covered:.0%} of the volume, too much for an atrium: is it inverted?")
    image, inside = crop_to_centre(image), crop_to_centre(label).astype(bool)
    if not image.std() > 0:
        raise ItemError("pixels", "the image has the same value everywhere")
    if inside.sum() < np.count_nonzero(label):
        reason = f"the mask extends beyond the middle {FIELD} x {FIELD} pixels: is the voxel size right?"
        raise ItemError("mask", reason)
    return AtriumVolume(name, normalise(image).astype(np.float16), inside, tuple(map(float, spacing)), tuple(axes))


# ---------------------------------------------------------------- the split


def find_duplicates(volumes: Sequence[AtriumVolume]) -> list[tuple[int, int]]:
    """Return the positions of each two volumes with identical images: one patient, labelled twice."""
    checksums = [zlib.crc32(np.ascontiguousarray(volume.image).tobytes()) for volume in volumes]
    return [(i, j) for j in range(len(checksums)) for i in range(j) if checksums[i] == checksums[j]]


def split_volumes(volumes: Sequence[AtriumVolume], val_count: int = 4, seed: int = 0) -> tuple[list[int], list[int]]:
    """Choose the validation volumes by order and seed alone, before anything is looked at.

    Both copies of a duplicate image go to the training split: one heart must not stand in both splits, and a heart
    with two different labels is not a reference.

    Parameters
    ----------
    volumes : sequence of AtriumVolume
        In the order of their names.
    val_count : int
        Number of validation volumes.
    seed : int
        Seed of the random choice.

    Returns
    -------
    tuple of list of int
        Positions of the training volumes and of the validation volumes, in ascending order.

    Raises
    ------
    ValueError
        If fewer than two volumes would be left for training.
    """
    duplicated = {position for pair in find_duplicates(volumes) for position in pair}
    unique = [position for position in range(len(volumes)) if position not in duplicated]
    if val_count < 1 or len(unique) < val_count or len(volumes) - val_count < 2:
        raise ValueError(
            f"{len(volumes)} volumes are too few to validate on {val_count} and train on the others: validate on "
            "fewer, or add volumes"
        )
    chosen = np.random.default_rng(seed).permutation(len(unique))[:val_count]
    val = sorted(unique[position] for position in chosen)
    return [position for position in range(len(volumes)) if position not in val], val


# ---------------------------------------------------------------- cropped to the heart


def learn_window(
    volumes: Sequence[AtriumVolume], margin_mm: float = 20.0, multiple: int = 16
) -> tuple[int, int, int, int]:
    """Find the window of rows and columns that contains every atrium of the training volumes, with a margin.

    The window is the same for all volumes and is measured from the centre of the image. A new image therefore needs
    no label to be cropped.

    Parameters
    ----------
    volumes : sequence of AtriumVolume
        The training volumes.
    margin_mm : float
        Added on each side, because other hearts may lie elsewhere.
    multiple : int
        Height and width become a multiple of this, because a U-Net halves them several times.

    Returns
    -------
    tuple of int
        First row, end row, first column, end column, in pixels from the centre pixel (n // 2).
    """
    boxes = []
    for volume in volumes:
        _, rows, columns = np.nonzero(volume.mask)
        centre = np.array(volume.mask.shape[1:]) // 2
        boxes.append([rows.min() - centre[0], rows.max() + 1 - centre[0]])
        boxes[-1] += [columns.min() - centre[1], columns.max() + 1 - centre[1]]
    boxes = np.array(boxes)
    window = []
    for axis in (0, 1):
        margin = margin_mm / volumes[0].spacing[1 + axis]
        low, high = boxes[:, 2 * axis].min() - margin, boxes[:, 2 * axis + 1].max() + margin
        size = int(np.ceil((high - low) / multiple)) * multiple
        start = int(np.floor((low + high - size) / 2))
        window += [start, start + size]
    return tuple(window)


def crop(volume: NDArray, window: Sequence[int]) -> NDArray:
    """Cut a window out of each slice; what lies outside the image is filled with zeros."""
    top, bottom, left, right = window
    cropped = np.zeros((len(volume), bottom - top, right - left), dtype=volume.dtype)
    in_volume, in_window = _overlap(volume.shape[1:], window)
    cropped[:, *in_window] = volume[:, *in_volume]
    return cropped


def uncrop(cropped: NDArray, window: Sequence[int], shape: Sequence[int]) -> NDArray:
    """Put a window back to where it was cut from, in a volume of zeros with that `shape`: the inverse of `crop`."""
    volume = np.zeros((len(cropped), *shape[1:]), dtype=cropped.dtype)
    in_volume, in_window = _overlap(shape[1:], window)
    volume[:, *in_volume] = cropped[:, *in_window]
    return volume


def _overlap(shape: Sequence[int], window: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the part that image and window share, as slices of the image and as slices of the window."""
    in_volume, in_window = [], []
    for n, low, high in zip(shape, window[::2], window[1::2], strict=True):
        start, end = max(0, n // 2 + low), min(n, n // 2 + high)
        in_volume.append(slice(start, end))
        in_window.append(slice(start - n // 2 - low, end - n // 2 - low))
    return tuple(in_volume), tuple(in_window)


# ---------------------------------------------------------------- slices, augmented together with their masks


def make_augmentation() -> iaa.Augmenter:
    """Return the random changes of a slice: contrast, scale, rotation, shift, soft bends. No mirroring.

    Mirrored hearts do not occur: the left atrium is on the left.
    """
    return iaa.Sequential(
        [
            iaa.GammaContrast((0.7, 1.4)),
            iaa.Affine(
                scale=(0.85, 1.15), rotate=(-20, 20), translate_percent={"x": (-0.06, 0.06), "y": (-0.06, 0.06)}
            ),
            iaa.Sometimes(0.5, iaa.ElasticTransformation(alpha=(0, 40), sigma=7, order=1)),
        ]
    )


def augment_slice(x: NDArray, mask: NDArray, augmentation: iaa.Augmenter, seed: int) -> tuple[NDArray, NDArray]:
    """Apply one random draw of the augmentation to a slice and its mask.

    Parameters
    ----------
    x : ndarray of float32, shape (rows, columns, channels)
        In [0, 1].
    mask : ndarray of bool, shape (rows, columns)
        Moved with the image but not brightened: imgaug treats it as a segmentation map.
    augmentation : imgaug Augmenter
        See :func:`make_augmentation`.
    seed : int
        Seed of every random choice.

    Returns
    -------
    tuple of ndarray
        Image in [0, 1] and mask, with the shapes of the input.
    """
    augmentation.seed_(seed)
    changed, moved = augmentation(image=x, segmentation_maps=imgaug.SegmentationMapsOnImage(mask, shape=mask.shape))
    return np.clip(changed, 0, 1), moved.get_arr()


class AtriumSlices(Dataset):
    """The slices of several volumes with their masks.

    Each slice comes with some of its neighbours as further channels, so that a 2-D network sees a little of the
    depth. Random choices are drawn from torch's global generator, as in :class:`cardiac_dataset.CardiacDataset`.

    Parameters
    ----------
    volumes : sequence of AtriumVolume
        The volumes to take slices from.
    window : sequence of int
        See :func:`learn_window`.
    augment : bool
        Whether to augment at random; leave it off when measuring.
    offsets : sequence of int
        The slices that become channels, counted from the slice to be segmented; ``(0,)`` for that slice alone.
        Beyond each end of the volume, the slice at that end is repeated.
    """

    def __init__(
        self,
        volumes: Sequence[AtriumVolume],
        window: Sequence[int],
        augment: bool = False,
        offsets: Sequence[int] = OFFSETS,
    ):
        self.volumes, self.window, self.offsets = list(volumes), tuple(window), np.array(offsets)
        self.images = [crop(volume.image, window) for volume in self.volumes]
        self.masks = [crop(volume.mask, window) for volume in self.volumes]
        self.positions = [(i, k) for i, images in enumerate(self.images) for k in range(len(images))]
        self.augmentation = make_augmentation() if augment else None

    def __len__(self) -> int:
        return len(self.positions)

    def raw(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return a slice with its neighbours, (rows, columns, channels) in [0, 1], and its mask (rows, columns)."""
        i, k = self.positions[index]
        neighbours = np.clip(k + self.offsets, 0, len(self.images[i]) - 1)
        return self.images[i][neighbours].transpose(1, 2, 0).astype(np.float32), self.masks[i][k]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return x, float32 (channels, rows, columns), and the mask, float32 (1, rows, columns)."""
        x, mask = self.raw(index)
        if self.augmentation is not None:
            x, mask = augment_slice(x, mask, self.augmentation, int(torch.randint(2**31 - 1, ())))
        x = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))
        return x, torch.from_numpy(mask.astype(np.float32))[None]
