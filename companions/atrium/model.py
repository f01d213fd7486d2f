"""A U-Net for the left atrium: the network, how it is trained, and how its output becomes a mask.

Built step by step in Atrium-Segmentation.ipynb. Knows torch and the slices of :mod:`companions.atrium.data`; no files
of volumes and no drawing. The training loop is :func:`heartbox.training.loop.fit`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from companions.atrium.data import OFFSETS, AtriumSlices, uncrop
from companions.atrium.metrics import dice
from heartbox.training.device import mixed_precision
from heartbox.training.task import Schedule, Task
from heartbox.utils.atomic import complete_or_absent

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as in companions.atrium.metrics
    from monai.losses import DiceLoss

# The exercise as published, and a schedule that reaches more in a fraction of the time.
SCHEDULES = {
    "published": Schedule(epochs=75, batch_size=8, learning_rate=1e-4, weight_decay=0.0, one_cycle=False),
    "quick": Schedule(epochs=40, batch_size=16, learning_rate=3e-3, weight_decay=1e-2, average=0.99),
}
SMOOTH_MM = 2.74  # along the slices, two slices of Task02_Heart; chosen in benchmarks/results/companion_atrium.md


# ---------------------------------------------------------------- the network


class DoubleConv(nn.Sequential):
    """Two 3 x 3 convolutions, each with batch normalisation and ReLU: the building block of a U-Net."""

    def __init__(self, channels_in: int, channels_out: int):
        layers = []
        for channels in (channels_in, channels_out):
            layers += [
                nn.Conv2d(channels, channels_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) with batch normalisation, padded so that the output has the input's size.

    Parameters
    ----------
    channels : int
        Input channels.
    width : int
        Channels of the first level; each level below has twice as many.
    levels : int
        Number of resolutions. Height and width of the input must be multiples of ``2 ** (levels - 1)``.
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
        """Return one logit per pixel: (N, channels, rows, columns) -> (N, 1, rows, columns)."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))  # half the size, a wider view at each place
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))  # context from below, exact position from the skip
        return self.answer(x)


# ---------------------------------------------------------------- training


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return one minus the soft Dice of a whole batch (Milletari et al. 2016), computed by MONAI.

    The batch counts as one volume: a slice without atrium has no Dice of its own, but what is predicted in it costs.

    Parameters
    ----------
    logits : Tensor, shape (N, 1, rows, columns)
        Output of the network.
    masks : Tensor, same shape
        0 or 1.
    """
    # The ones keep a batch without atrium from being 0 / 0.
    return DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(logits, masks)


class AtriumTask(Task):
    """Learn masks of the atrium; the figures of an epoch are ``val_loss`` and ``val_dice``, the mean 3-D Dice.

    Another loss is tried by overriding :meth:`loss`; the training loop then does not continue from a checkpoint of
    this one.

    Parameters
    ----------
    schedule : Schedule
        Epochs, batch size and learning rate.
    network : dict
        :attr:`UNet.config`, so that a checkpoint of another network is ignored.
    """

    score = "val_dice"

    def __init__(self, schedule: Schedule, network: dict[str, int]):
        self.schedule, self.network = schedule, network

    def settings(self) -> dict:
        """Return the schedule and the network's configuration."""
        return super().settings() | {"network": self.network}

    def labels(self, dataset: AtriumSlices) -> NDArray:
        """Return all masks of a dataset, packed to bits."""
        return np.concatenate([np.packbits(masks) for masks in dataset.masks])

    def loss(self, model: nn.Module, batch: Sequence[Tensor], epoch: int, device: torch.device) -> Tensor:
        """Return the Dice loss of a batch."""
        x, masks = batch
        with mixed_precision(device):
            logits = model(x.to(device, memory_format=torch.channels_last))
        return dice_loss(logits.float(), masks.to(device))

    def validate(
        self, model: nn.Module, val: AtriumSlices, device: torch.device
    ) -> tuple[list[NDArray], dict[str, float]]:
        """Return the probabilities of each volume within the window, and the figures of the epoch."""
        predicted = probabilities(model, val, device)
        scores = [dice(p > 0.5, masks) for p, masks in zip(predicted, val.masks, strict=True)]
        soft = [1 - 2 * (p * m).sum() / (p.sum() + m.sum()) for p, m in zip(predicted, val.masks, strict=True)]
        return predicted, {"val_loss": float(np.mean(soft)), "val_dice": round(float(np.mean(scores)), 4)}


# ---------------------------------------------------------------- from logits to masks


@torch.no_grad()
def probabilities(
    model: nn.Module, slices: AtriumSlices, device: torch.device | None = None, batch_size: int = 32
) -> list[NDArray[np.float32]]:
    """Run a network over every slice; return one array (slices, rows, columns) per volume, within the window."""
    device = device or next(model.parameters()).device
    model.eval()
    predicted = [
        model(x.to(device, memory_format=torch.channels_last)).sigmoid()[:, 0].cpu().numpy()
        for x, _ in DataLoader(slices, batch_size)
    ]
    ends = np.cumsum([len(images) for images in slices.images])[:-1]
    return np.split(np.concatenate(predicted), ends)


def largest_part(mask: NDArray) -> NDArray[np.bool_]:
    """Keep the largest connected part of a mask (voxels that share a face): a patient has one left atrium."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return np.asarray(mask, dtype=bool)
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def as_mask(
    predicted: NDArray, threshold: float = 0.5, keep_largest: bool = True, smooth: float = 0.0
) -> NDArray[np.bool_]:
    """Turn the probabilities of a volume, (slices, rows, columns), into a mask of the same shape.

    Parameters
    ----------
    predicted : ndarray
        Probabilities.
    threshold : float
        A voxel is atrium if its probability is higher.
    keep_largest : bool
        Whether to drop all but the largest connected part.
    smooth : float
        Standard deviation, in slices, of a Gaussian along the slices that smooths the probabilities first; 0 for
        none.
    """
    mask = (ndimage.gaussian_filter1d(predicted, smooth, axis=0) if smooth else predicted) > threshold
    return largest_part(mask) if keep_largest else mask


def segment(
    model: nn.Module,
    slices: AtriumSlices,
    threshold: float = 0.5,
    keep_largest: bool = True,
    smooth_mm: float = SMOOTH_MM,
) -> list[NDArray[np.bool_]]:
    """Return the predicted atrium of each volume, as a mask of the whole volume that is empty outside the window.

    Parameters
    ----------
    model : nn.Module
        A trained network.
    slices : AtriumSlices
        Not augmented.
    threshold, keep_largest
        See :func:`as_mask`.
    smooth_mm : float
        Standard deviation in mm of the Gaussian along the slices; 0 for none. A network that sees single slices
        flickers from one to the next where an atrium does not.
    """
    predictions = []
    for volume, predicted in zip(slices.volumes, probabilities(model, slices), strict=True):
        mask = as_mask(predicted, threshold, keep_largest, smooth_mm / volume.spacing[0])
        predictions.append(uncrop(mask, slices.window, volume.mask.shape))
    return predictions


def save_unet(path: str | Path, model: UNet, window: Sequence[int]) -> None:
    """Write a network and the window that its images are cropped to, as plain types and tensors."""
    with complete_or_absent(path) as part:
        torch.save({"config": model.config, "window": list(window), "state": model.state_dict()}, part)


def load_unet(path: str | Path) -> tuple[UNet, tuple[int, ...]]:
    """Return the network and the window that :func:`save_unet` wrote; the file cannot run code."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = UNet(**saved["config"])
    model.load_state_dict(saved["state"])
    return model.eval(), tuple(saved["window"])
