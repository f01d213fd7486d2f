"""The left atrium in MRI: slices cropped to the heart, a U-Net, and how it is trained and asked.

Built up in Atrium-Segmentation.ipynb. Knows torch, imgaug and the volumes of :mod:`companions.atrium.data`; the
training loop is :func:`heartbox.training.loop.fit`, the figures are in :mod:`companions.atrium.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from companions.atrium.data import AtriumVolume
from companions.atrium.metrics import dice
from heartbox.imgaug_compat import augmenters as iaa
from heartbox.imgaug_compat import imgaug
from heartbox.training.device import mixed_precision
from heartbox.training.task import Schedule, Task
from heartbox.utils.atomic import complete_or_absent

# As the exercise was published, and one that gets further in a fraction of the time.
SCHEDULES = {
    "published": Schedule(epochs=75, batch_size=8, learning_rate=1e-4, weight_decay=0.0, one_cycle=False),
    "quick": Schedule(epochs=40, batch_size=16, learning_rate=3e-3, weight_decay=1e-2, average=0.99),
}

SMOOTH_MM = 2.74  # from slice to slice, two slices of Task02_Heart; chosen in benchmarks/results/companion_atrium.md
OFFSETS = (-4, -2, 0, 2, 4)  # slices that are shown beside each other as channels: some way to both sides

# ---------------------------------------------------------------- cropped to the heart


def learn_window(
    subjects: Sequence[AtriumVolume], margin_mm: float = 20.0, multiple: int = 16
) -> tuple[int, int, int, int]:
    """Find the window of rows and columns that holds every atrium of the training subjects, with a margin.

    Nobody's label is needed to cut a new image: the window is the same for all, given from the image's middle, and
    is learnt from training subjects alone.

    Parameters
    ----------
    subjects : sequence of AtriumVolume
        Those who train.
    margin_mm : float
        Added on each side: other hearts lie elsewhere.
    multiple : int
        Both sides become a multiple of this, for a U-Net halves them again and again.

    Returns
    -------
    tuple of int
        First row, end row, first column, end column; in pixels from the middle pixel (n // 2).
    """
    boxes = []
    for subject in subjects:
        _, rows, columns = np.nonzero(subject.mask)
        middle = np.array(subject.mask.shape[1:]) // 2
        boxes.append([rows.min() - middle[0], rows.max() + 1 - middle[0]])
        boxes[-1] += [columns.min() - middle[1], columns.max() + 1 - middle[1]]
    boxes = np.array(boxes)
    window = []
    for axis in (0, 1):
        margin = margin_mm / subjects[0].spacing[1 + axis]
        low, high = boxes[:, 2 * axis].min() - margin, boxes[:, 2 * axis + 1].max() + margin
        size = int(np.ceil((high - low) / multiple)) * multiple
        start = int(np.floor((low + high - size) / 2))
        window += [start, start + size]
    return tuple(window)


def crop(volume: NDArray, window: Sequence[int]) -> NDArray:
    """Cut a window out of each slice; what reaches over the border is zero."""
    top, bottom, left, right = window
    middle = [n // 2 for n in volume.shape[1:]]
    out = np.zeros((len(volume), bottom - top, right - left), dtype=volume.dtype)
    inside, place = _overlap(volume.shape[1:], middle, window)
    out[:, *place] = volume[:, *inside]
    return out


def uncrop(cropped: NDArray, window: Sequence[int], shape: Sequence[int]) -> NDArray:
    """Put a window back where it was cut from, into zeros of the volume's `shape`: the other way round of `crop`."""
    out = np.zeros((len(cropped), *shape[1:]), dtype=cropped.dtype)
    inside, place = _overlap(shape[1:], [n // 2 for n in shape[1:]], window)
    out[:, *inside] = cropped[:, *place]
    return out


def _overlap(shape: Sequence[int], middle: Sequence[int], window: Sequence[int]) -> tuple[tuple, tuple]:
    inside, place = [], []
    for n, half, low, high in zip(shape, middle, window[::2], window[1::2], strict=True):
        start, end = max(0, half + low), min(n, half + high)
        inside.append(slice(start, end))
        place.append(slice(start - half - low, end - half - low))
    return tuple(inside), tuple(place)


# ---------------------------------------------------------------- slices, augmented together with their masks


def make_augmentation() -> iaa.Augmenter:
    """Return the random changes of a slice: size, turn, place, soft bends, contrast. Never mirrored: hearts are not."""
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
    """Change a slice and its mask by one draw of the augmentation.

    Parameters
    ----------
    x : ndarray of float32, shape (rows, columns, channels)
        In [0, 1].
    mask : ndarray of bool, shape (rows, columns)
        Moved with the image, and not brightened with it: imgaug knows it as a segmentation map.
    augmentation : imgaug Augmenter
        See :func:`make_augmentation`.
    seed : int
        Decides every random choice.

    Returns
    -------
    tuple of ndarray
        Image in [0, 1] and mask, shaped as they were.
    """
    augmentation.seed_(seed)
    changed, moved = augmentation(image=x, segmentation_maps=imgaug.SegmentationMapsOnImage(mask, shape=mask.shape))
    return np.clip(changed, 0, 1), moved.get_arr()


class AtriumSlices(Dataset):
    """Slices of several subjects with their masks.

    A slice comes with others around it as further channels, so that a flat network sees a little of the depth. Every
    random choice is drawn from torch's own generator, as in :class:`cardiac_dataset.CardiacDataset`.

    Parameters
    ----------
    subjects : sequence of AtriumVolume
        Whose slices.
    window : sequence of int
        See :func:`learn_window`.
    augment : bool
        Whether to change them at random; leave it off to measure.
    offsets : sequence of int
        Which slices become channels, counted from the one that is asked about; ``(0,)`` for that one alone. Beyond
        the volume's ends the last slice stands in.
    """

    def __init__(
        self,
        subjects: Sequence[AtriumVolume],
        window: Sequence[int],
        augment: bool = False,
        offsets: Sequence[int] = OFFSETS,
    ):
        self.subjects, self.window, self.offsets = list(subjects), tuple(window), np.array(offsets)
        self.images = [crop(subject.image, window) for subject in self.subjects]
        self.masks = [crop(subject.mask, window) for subject in self.subjects]
        self.places = [(i, k) for i, images in enumerate(self.images) for k in range(len(images))]
        self.augmentation = make_augmentation() if augment else None

    def __len__(self) -> int:
        return len(self.places)

    def raw(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return a slice with those around it, (rows, columns, channels) in [0, 1], and its mask (rows, columns)."""
        i, k = self.places[index]
        around = np.clip(k + self.offsets, 0, len(self.images[i]) - 1)
        return self.images[i][around].transpose(1, 2, 0).astype(np.float32), self.masks[i][k]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return x, float32 (channels, rows, columns), and the mask, float32 (1, rows, columns)."""
        x, mask = self.raw(index)
        if self.augmentation is not None:
            x, mask = augment_slice(x, mask, self.augmentation, int(torch.randint(2**31 - 1, ())))
        x = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))
        return x, torch.from_numpy(mask.astype(np.float32))[None]


# ---------------------------------------------------------------- the network


class DoubleConv(nn.Sequential):
    """Two 3 x 3 convolutions, each with batch normalisation and ReLU: what a U-Net is made of."""

    def __init__(self, before: int, after: int):
        steps = []
        for channels in (before, after):
            steps += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*steps)


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015), with batch normalisation, and padding so that the answer keeps its size.

    Parameters
    ----------
    channels : int
        Of the input.
    width : int
        Channels of the first level; each level below has twice as many.
    levels : int
        How many sizes there are. Both sides of the input must be a multiple of ``2 ** (levels - 1)``.
    """

    def __init__(self, channels: int = len(OFFSETS), width: int = 16, levels: int = 5):
        super().__init__()
        self.config = {"channels": channels, "width": width, "levels": levels}
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in zip([channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(DoubleConv(2 * w, w) for w in reversed(widths[:-1]))
        self.answer = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a logit for each pixel: (N, channels, rows, columns) -> (N, 1, rows, columns)."""
        kept = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))  # smaller, and more meaning in each place
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(kept[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))  # meaning from below, exact places from beside
        return self.answer(x)


# ---------------------------------------------------------------- learning


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return one minus the soft Dice of a whole batch (Milletari et al. 2016).

    The batch counts as one volume: a slice without atrium has no Dice of its own, but what is found in it costs.

    Parameters
    ----------
    logits : Tensor
        Of any shape.
    masks : Tensor
        0 or 1, in the same shape.
    """
    found = logits.sigmoid()
    # The 1 keeps a batch without any atrium from dividing nothing by nothing.
    return 1 - (2 * (found * masks).sum() + 1) / (found.sum() + masks.sum() + 1)


class AtriumTask(Task):
    """Learn masks of the atrium; the figures of an epoch are ``val_loss`` and ``val_dice``, the mean 3-D Dice.

    Parameters
    ----------
    schedule : Schedule
        How long and how fast.
    network : dict
        What the network is made of (:attr:`UNet.config`), so that the checkpoint of another one is left aside.
    """

    score = "val_dice"

    def __init__(self, schedule: Schedule, network: dict[str, int]):
        self.schedule, self.network = schedule, network

    def settings(self) -> dict:
        """Return the schedule and what the network is made of."""
        return super().settings() | {"network": self.network}

    def labels(self, side: AtriumSlices) -> NDArray:
        """Return all masks, packed."""
        return np.concatenate([np.packbits(masks) for masks in side.masks])

    def loss(self, model: nn.Module, batch: Sequence[Tensor], epoch: int, device: torch.device) -> Tensor:
        """Return the Dice loss of a batch."""
        x, masks = batch
        with mixed_precision(device):
            logits = model(x.to(device, memory_format=torch.channels_last))
        return dice_loss(logits.float(), masks.to(device))

    def validate(
        self, model: nn.Module, val: AtriumSlices, device: torch.device
    ) -> tuple[list[NDArray], dict[str, float]]:
        """Return the probabilities of each subject's window, and how good they are."""
        found = probabilities(model, val, device)
        scores = [dice(p > 0.5, masks) for p, masks in zip(found, val.masks, strict=True)]
        soft = [1 - 2 * (p * m).sum() / (p.sum() + m.sum()) for p, m in zip(found, val.masks, strict=True)]
        return found, {"val_loss": float(np.mean(soft)), "val_dice": round(float(np.mean(scores)), 4)}


# ---------------------------------------------------------------- answering


@torch.no_grad()
def probabilities(
    model: nn.Module, slices: AtriumSlices, device: torch.device | str | None = None, batch_size: int = 32
) -> list[NDArray[np.float32]]:
    """Ask a network about every slice; return one volume (slices, rows, columns) a subject, within the window."""
    device = device or next(model.parameters()).device
    model.eval()
    found = [
        model(x.to(device, memory_format=torch.channels_last)).sigmoid()[:, 0].cpu().numpy()
        for x, _ in DataLoader(slices, batch_size)
    ]
    ends = np.cumsum([len(images) for images in slices.images])[:-1]
    return np.split(np.concatenate(found), ends)


def largest_part(mask: NDArray) -> NDArray[np.bool_]:
    """Keep the largest connected part of a mask (voxels that share a face): a patient has one left atrium."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return np.asarray(mask, dtype=bool)
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def as_mask(
    found: NDArray, threshold: float = 0.5, keep_largest: bool = True, smooth: float = 0.0
) -> NDArray[np.bool_]:
    """Turn the probabilities of a volume, (slices, rows, columns), into a mask of the same shape.

    Parameters
    ----------
    found : ndarray
        Probabilities.
    threshold : float
        A voxel is atrium if its probability is above.
    keep_largest : bool
        Whether to drop all but the largest connected part.
    smooth : float
        Width of a Gaussian along the slices, in slices, that the probabilities are smoothed with first; 0 for none.
    """
    mask = (ndimage.gaussian_filter1d(found, smooth, axis=0) if smooth else found) > threshold
    return largest_part(mask) if keep_largest else mask


def segment(
    model: nn.Module,
    slices: AtriumSlices,
    threshold: float = 0.5,
    keep_largest: bool = True,
    smooth_mm: float = SMOOTH_MM,
) -> list[NDArray[np.bool_]]:
    """Return the atrium of each subject, as a mask of its whole volume: outside the window nothing is found.

    Parameters
    ----------
    model : nn.Module
        A trained network.
    slices : AtriumSlices
        Not augmented.
    threshold, keep_largest
        See :func:`as_mask`.
    smooth_mm : float
        Width in mm of the Gaussian that smooths probabilities from slice to slice: a network that sees slices
        flickers where an atrium does not. 0 for none.
    """
    answers = []
    for subject, found in zip(slices.subjects, probabilities(model, slices), strict=True):
        mask = as_mask(found, threshold, keep_largest, smooth_mm / subject.spacing[0])
        answers.append(uncrop(mask, slices.window, subject.mask.shape))
    return answers


def save_unet(path: str | Path, model: UNet, window: Sequence[int]) -> None:
    """Write a network and the window that its images are cut with, as plain types and tensors."""
    with complete_or_absent(path) as part:
        torch.save({"config": model.config, "window": list(window), "state": model.state_dict()}, part)


def load_unet(path: str | Path) -> tuple[UNet, tuple[int, ...]]:
    """Return the network and the window that :func:`save_unet` wrote; runs no foreign code."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = UNet(**saved["config"])
    model.load_state_dict(saved["state"])
    return model.eval(), tuple(saved["window"])


def mean_mask(train: AtriumSlices, depth: int) -> NDArray[np.bool_]:
    """Return where most training subjects have their atrium, for a volume of `depth` slices: the answer to beat.

    Volumes are laid over each other at their middle slice, and a voxel counts as atrium from the share of subjects
    on that gives the best mean Dice on the training subjects themselves.
    """
    stack = np.stack([_of_depth(masks, depth) for masks in train.masks]).astype(np.float32)
    share = stack.mean(axis=0)
    levels = np.linspace(0.1, 0.9, 9)
    return share > max(levels, key=lambda level: np.mean([dice(share > level, one > 0) for one in stack]))


def _of_depth(volume: NDArray, depth: int) -> NDArray:
    """Cut or fill a volume's slices on both ends to `depth`, its middle slice staying in the middle."""
    out = np.zeros((depth, *volume.shape[1:]), dtype=volume.dtype)
    shift = depth // 2 - len(volume) // 2
    first, last = max(0, shift), min(depth, len(volume) + shift)
    out[first:last] = volume[first - shift : last - shift]
    return out
