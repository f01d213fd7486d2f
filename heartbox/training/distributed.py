"""One training shared by the processes that ``torchrun`` starts: who does what, and one curve for any number of them.

Knows torch's process groups and samplers; nothing of what is learnt. :mod:`heartbox.training.loop` uses it.
"""

from __future__ import annotations

import atexit
import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, RandomSampler

from heartbox.training.device import choose_device
from heartbox.training.task import Task


@dataclass(frozen=True)
class Ranks:
    """The processes that share a training.

    Attributes
    ----------
    rank : int
        Number of this process, from 0. Process 0 measures and writes.
    count : int
        How many there are.
    shared : bool
        Whether this is a shared training, which one process alone under ``torchrun`` is too.
    """

    rank: int = 0
    count: int = 1
    shared: bool = False

    @classmethod
    def join(cls) -> Ranks:
        """Join the processes that ``torchrun`` started; a process that it did not start is alone."""
        if not distributed.is_available() or "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            atexit.register(distributed.destroy_process_group)
        return cls(distributed.get_rank(), distributed.get_world_size(), shared=True)

    def device(self, name: str | None) -> torch.device:
        """Return the device of that name; without one, each process of a machine has a card of its own."""
        device = choose_device(name)
        if self.shared and device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        return device

    def share(self, value: Any) -> Any:
        """Return process 0's value, in every process."""
        if not self.shared:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def total(self, value: Tensor) -> float:
        """Return the sum of a number over the processes."""
        value = value.detach().clone()
        if self.shared:
            distributed.all_reduce(value)
        return value.item()

    def parts(self, samples: Dataset, batch_size: int) -> list[tuple[list[tuple[int, int]], float]]:
        """Return this process's part of each batch of an epoch, and the weight of its loss.

        The order of samples and the seed of each follow from torch's generator alone, so that they are the same for
        any number of processes. The order is that of a ``DataLoader`` that shuffles.

        Returns
        -------
        list of tuple
            For each batch the (index, seed) pairs of :class:`SeededSamples`, and by what the mean loss of these must
            be multiplied for the mean over the processes to be the mean over the batch.
        """
        torch.empty((), dtype=torch.int64).random_()  # a DataLoader draws a seed for its workers first
        order = list(RandomSampler(samples))
        seeds = torch.randint(2**62, (len(order),)).tolist()
        pairs, parts = list(zip(order, seeds, strict=True)), []
        for start in range(0, len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            own = batch[self.rank :: self.count]
            # A process for which a small last batch leaves nothing computes with the others, and counts for nothing.
            parts.append((own or batch[:1], len(own) * self.count / len(batch)))
        return parts


class SeededSamples(Dataset):
    """Samples of a dataset, each with torch's generator set to a seed of its own while it is made.

    Parameters
    ----------
    samples : Dataset
        Indexed by numbers; this one is indexed by (number, seed).
    """

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __getitem__(self, item: tuple[int, int]) -> Any:
        """Return the sample."""
        index, seed = item
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.samples[index]


class _LossOf(nn.Module):
    """A task's loss as a module, because ``DistributedDataParallel`` follows what its module's ``forward`` does."""

    def __init__(self, model: nn.Module, task: Task, device: torch.device):
        super().__init__()
        self.model, self.task, self.device = model, task, device

    def forward(self, batch: Sequence, epoch: int) -> Tensor:
        return self.task.loss(self.model, batch, epoch, self.device)


def shared_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy whose batch normalisation counts the images of all processes, where torch can: on CUDA cards."""
    model = copy.deepcopy(model)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if device.type == "cuda" else model


def shared_loss(model: nn.Module, task: Task, device: torch.device) -> nn.Module:
    """Return a module that computes a task's loss, whose gradients are averaged over the processes.

    The weights of process 0 are copied to the others.
    """
    # A task need not use every parameter in every batch: the masks' head, for instance.
    return DistributedDataParallel(_LossOf(model, task, device), find_unused_parameters=True)
