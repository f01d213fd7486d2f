"""What is learnt and for how long: the base class of tasks, and schedules.

The loop that runs a task is :mod:`heartbox.training.loop`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Schedule:
    """How long and how fast is learnt, whatever it is.

    Attributes
    ----------
    epochs, batch_size, learning_rate, weight_decay
        The usual; Adam where `weight_decay` is 0, AdamW otherwise.
    one_cycle : bool
        Learning rate warmed up and annealed over the whole run (Smith & Topin 2019), or constant.
    average : float
        Keep a running average of the weights with this decay a step, and answer with it (Polyak & Juditsky 1992);
        0 for the last step's weights.
    """

    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    one_cycle: bool = True
    average: float = 0.0


@dataclass(frozen=True)
class ProgressiveSchedule(Schedule):
    """A schedule whose first epochs learn from shrunken images: coarse things first, and cheaper.

    Compare the progressive resizing of Howard 2018.

    Attributes
    ----------
    small_size, small_share : int, float
        Train that share of the epochs, the first ones, on images shrunk to `small_size`. 0 for none.
    """

    small_size: int = 0
    small_share: float = 0.0

    def shrink(self, x: Tensor, epoch: int) -> Tensor:
        """Return images (N, C, size, size) as the epoch of that number, from 1, is to see them."""
        if 0 < self.small_size < x.shape[-1] and epoch <= self.small_share * self.epochs:
            return F.interpolate(x, size=self.small_size, mode="bilinear", antialias=True)
        return x


class Task:
    """What is learnt: how a batch becomes a loss, and how an epoch is measured. A base class for one's own.

    Attributes
    ----------
    schedule : Schedule
        How long and how fast.
    score : str
        Which of the figures of :meth:`validate` says how good the network is; the larger, the better.
    collate : callable or None
        How samples become a batch, see :class:`torch.utils.data.DataLoader`.
    """

    schedule: Schedule
    score: str
    collate: Callable | None = None

    def loss(self, model: nn.Module, batch: Sequence, epoch: int, device: torch.device) -> Tensor:
        """Return the loss of one training batch, as the loader gives it, on `device`; `epoch` counts from 1."""
        raise NotImplementedError

    def validate(self, model: nn.Module, val: Dataset, device: torch.device) -> tuple[Any, dict[str, float]]:
        """Answer the validation set, without gradients; return the answers and the figures of this epoch."""
        raise NotImplementedError

    def labels(self, side: Dataset) -> NDArray:
        """Return all labels of a dataset, so that a run on other labels is told from this one."""
        raise NotImplementedError

    def settings(self) -> dict:
        """Return what decides the training, as plain types, so that another training is told from this one."""
        return dataclasses.asdict(self.schedule)
