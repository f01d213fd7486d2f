"""What is learnt and for how long: schedules, and the base class of tasks.

Knows torch; nothing of boxes. :mod:`heartbox.training.loop` runs a task.
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
    """How long a network is trained, and how fast.

    Attributes
    ----------
    epochs, batch_size, learning_rate, weight_decay
        As usual; Adam where `weight_decay` is 0, AdamW otherwise.
    one_cycle : bool
        Whether the learning rate is warmed up and annealed over the whole run (Smith & Topin 2019) or constant.
    average : float
        Decay per step of a running average of the weights, which then gives the answers (Polyak & Juditsky 1992);
        0 for the weights of the last step.
    """

    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    one_cycle: bool = True
    average: float = 0.0


@dataclass(frozen=True)
class ProgressiveSchedule(Schedule):
    """A schedule whose first epochs use smaller images: coarse structure first, and at lower cost.

    Compare the progressive resizing of Howard 2018.

    Attributes
    ----------
    small_size : int
        Side of the smaller images, in pixels; 0 for none.
    small_share : float
        Share of the epochs, from the first, that use them.
    """

    small_size: int = 0
    small_share: float = 0.0

    def shrink(self, x: Tensor, epoch: int) -> Tensor:
        """Return images, (N, C, size, size), at the size of this epoch, which is counted from 1."""
        if 0 < self.small_size < x.shape[-1] and epoch <= self.small_share * self.epochs:
            return F.interpolate(x, size=self.small_size, mode="bilinear", antialias=True)
        return x


class Task:
    """What is learnt: how a batch becomes a loss, and how an epoch is measured. Derive your own task from it.

    Attributes
    ----------
    schedule : Schedule
        How long and how fast.
    score : str
        The figure of :meth:`validate` that says how good the network is; larger is better.
    collate : callable or None
        How samples become a batch, see :class:`torch.utils.data.DataLoader`.
    """

    schedule: Schedule
    score: str
    collate: Callable | None = None

    def loss(self, model: nn.Module, batch: Sequence, epoch: int, device: torch.device) -> Tensor:
        """Return the loss of one training batch from the loader, on `device`; `epoch` is counted from 1."""
        raise NotImplementedError

    def validate(self, model: nn.Module, val: Dataset, device: torch.device) -> tuple[Any, dict[str, float]]:
        """Run the network over the validation set, without gradients; return its answers and the epoch's figures."""
        raise NotImplementedError

    def labels(self, dataset: Dataset) -> NDArray:
        """Return all labels of a dataset, which tell a run on other labels from this one."""
        raise NotImplementedError

    def settings(self) -> dict:
        """Return what decides the training, in plain types; it tells this training from another."""
        return dataclasses.asdict(self.schedule)
