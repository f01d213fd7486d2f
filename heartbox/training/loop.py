"""The training loop, whatever is learnt: epochs, averaged weights, and runs that continue where they were stopped.

Plain PyTorch on a CPU, a CUDA card or Apple's MPS. What is learnt is a :class:`heartbox.training.task.Task`; the loop
knows nothing of boxes or classes. :class:`heartbox.training.recipes.BoxTask` is the task of this project.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from heartbox.training.checkpoints import Checkpoints
from heartbox.training.distributed import Ranks, SeededSamples, shared_loss, shared_model
from heartbox.training.fingerprint import fingerprint
from heartbox.training.task import Schedule, Task
from heartbox.utils.atomic import complete_or_absent
from heartbox.utils.progress import progress_bar


def fit(
    model: nn.Module,
    train: Dataset,
    val: Dataset,
    task: Task,
    folder: str | Path,
    seed: int = 0,
    device: str | None = None,
    on_epoch: Callable[[int, Any, pd.DataFrame], None] | None = None,
    progress: bool = True,
    checkpoints: bool = True,
    workers: int = 0,
) -> pd.DataFrame:
    """Train `model`, continuing from the last checkpoint of the same run if there is one.

    Everything random in an epoch follows from `seed` and the epoch's number, and a complete checkpoint is written
    after each epoch. A run that is killed at any moment therefore repeats only the epoch it was in, and on a CPU ends
    with the weights of an uninterrupted run. :mod:`heartbox.training.fingerprint` says what makes two runs the same,
    :class:`heartbox.training.checkpoints.Checkpoints` what becomes of a checkpoint of another run or a damaged one.

    Under ``torchrun`` the processes share each batch, and process 0 measures and writes
    (:mod:`heartbox.training.distributed`, ``docs/training.md``).

    Parameters
    ----------
    model : nn.Module
        Trained in place, and on the CPU at the end.
    train, val : Dataset
        Samples as the task expects them; the first part of each is a tensor.
    task : Task
        What is learnt, and its schedule.
    folder : path
        Where ``history.csv``, ``checkpoints/last.pt`` and ``checkpoints/best.pt`` (highest score) go.
    seed : int
        Decides the order of samples and the augmentation.
    device : str, optional
        See :func:`heartbox.training.device.choose_device`.
    on_epoch : callable, optional
        Called as ``on_epoch(epoch, validation_answers, history)`` after each epoch.
    progress : bool
        Whether to show a progress bar with the loss and the score.
    checkpoints : bool
        Whether to write checkpoints. Those of a network with a hundred million weights take 2 GB, which a short
        training may not be worth; without them a run that is stopped starts anew.
    workers : int
        Processes that read and augment the samples of the next batches; with 0 this is done between the steps. Each
        worker draws its own random numbers, so another number of workers gives other weights.

    Returns
    -------
    DataFrame
        One row per epoch: ``epoch, learning_rate, train_loss`` and the task's figures. Its ``attrs["seconds"]`` is
        the time that training took, over all the parts of an interrupted run.

    Raises
    ------
    FloatingPointError
        If the loss becomes NaN or infinite.
    """
    folder, schedule, ranks = Path(folder), task.schedule, Ranks.join()
    steps = math.ceil(len(train) / schedule.batch_size)
    learner = Learner(model, task, steps, ranks.device(device), ranks)
    store = state = None
    if checkpoints and ranks.rank == 0:
        mark = fingerprint(task, model, seed, train, val) + ranks.shared * " seeds by sample"
        store = Checkpoints(folder / "checkpoints", mark)
        state = store.read_last()
    state = ranks.share(state)
    history, seconds = learner.restore(state) if state else ([], 0.0)
    total, done = schedule.epochs * learner.steps, len(history) * learner.steps
    bar = progress_bar(None, "Training", "batch", total=total, initial=done, show=progress and ranks.rank == 0)
    loader = DataLoader(train, schedule.batch_size, shuffle=True, collate_fn=task.collate, num_workers=workers)
    for epoch in range(len(history) + 1, schedule.epochs + 1):
        started = time.perf_counter()
        torch.manual_seed(seed * 1_000_003 + epoch)
        train_loss = learner.train_epoch(loader, epoch, bar, score=history[-1][task.score] if history else "-")
        answers, figures = learner.validate(val) if ranks.rank == 0 else (None, None)
        figures = ranks.share(figures)
        row = {"epoch": epoch, "learning_rate": learner.learning_rate, "train_loss": train_loss, **figures}
        if store and (not history or row[task.score] > max(earlier[task.score] for earlier in history)):
            store.write_best(epoch, learner.answering.state_dict())
        history.append(row)
        bar.set_postfix({"loss": f"{train_loss:.3f}", task.score: row[task.score]}, refresh=False)
        seconds += time.perf_counter() - started
        if on_epoch and ranks.rank == 0:
            on_epoch(epoch, answers, pd.DataFrame(history))
        if store:
            store.write_last(learner.state(history, seconds))
    bar.close()
    table = pd.DataFrame(history)
    table.attrs["seconds"] = seconds
    if ranks.rank == 0:
        with complete_or_absent(folder / "history.csv") as part:
            table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
    learner.finish()
    return table


class Learner:
    """A network with everything that changes while it is trained: optimiser, learning rate and averaged weights.

    Parameters
    ----------
    model : nn.Module
        Trained in place.
    task : Task
        What is learnt.
    steps : int
        Batches per epoch.
    device : torch.device
        The device used.
    ranks : Ranks
        The processes that share the training; only this one by default.
    """

    def __init__(self, model: nn.Module, task: Task, steps: int, device: torch.device, ranks: Ranks | None = None):
        self.task, self.steps, self.device, self.ranks = task, steps, device, ranks or Ranks()
        # Channels-last is how convolutions on CPUs and tensor cores prefer their images: about a third faster here.
        self.given = model.to(device, memory_format=torch.channels_last)
        self.model = shared_model(self.given, device) if self.ranks.shared else self.given
        # The processes start from the same weights, of which the average must be a copy.
        self.shared_loss = shared_loss(self.model, task, device) if self.ranks.shared else None
        self.optimizer = make_optimizer(self.model, task.schedule)
        self.scheduler = None
        if task.schedule.one_cycle:
            self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer,
                task.schedule.learning_rate,
                epochs=task.schedule.epochs,
                steps_per_epoch=steps,
                pct_start=0.2,
            )
        self.average = running_average(self.model, task.schedule.average) if task.schedule.average else None

    @property
    def answering(self) -> nn.Module:
        """The network that gives the answers: the averaged one where there is one."""
        return self.average.module if self.average else self.model

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    def train_epoch(self, loader: DataLoader, epoch: int, bar: tqdm, score: float | str) -> float:
        """Take one step per batch; return the mean loss. `score` is shown in the progress bar beside it."""
        self.model.train()
        losses = []
        for loss in self._losses(loader, epoch):
            losses.append(self.ranks.total(loss) / self.ranks.count)
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"the loss became {losses[-1]} in epoch {epoch}: lower the learning rate "
                    f"({self.task.schedule.learning_rate:g}) or look for broken images and labels"
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.scheduler:
                self.scheduler.step()
            if self.average:
                self.average.update_parameters(self.model)
            bar.set_postfix({"loss": f"{np.mean(losses):.3f}", self.task.score: score}, refresh=False)
            bar.update()
        return float(np.mean(losses))

    def _losses(self, loader: DataLoader, epoch: int) -> Iterator[Tensor]:
        """Yield the loss of each batch; of a shared training, this process's part of it."""
        if not self.ranks.shared:
            for batch in loader:
                yield self.task.loss(self.model, batch, epoch, self.device)
            return
        parts = self.ranks.parts(loader.dataset, loader.batch_size)
        own = DataLoader(
            SeededSamples(loader.dataset),
            batch_sampler=[pairs for pairs, _ in parts],
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
        )
        for batch, (_, weight) in zip(own, parts, strict=True):
            yield weight * self.shared_loss(batch, epoch)

    @torch.no_grad()
    def validate(self, val: Dataset) -> tuple[Any, dict[str, float]]:
        """Return the answers on the validation set and the epoch's figures."""
        return self.task.validate(self.answering.eval(), val, self.device)

    def state(self, history: list[dict], seconds: float) -> dict[str, Any]:
        """Return what a checkpoint holds, in plain types and tensors."""
        return {
            "epoch": len(history),
            "history": history,
            "seconds": seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.scheduler.state_dict() if self.scheduler else None,
            "average": self.average.state_dict() if self.average else None,
        }

    def restore(self, state: dict[str, Any]) -> tuple[list[dict], float]:
        """Go back to the state of a checkpoint; return the history up to there and the seconds it took."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["schedule"])
        if self.average:
            self.average.load_state_dict(state["average"])
        return state["history"], state["seconds"]

    def finish(self) -> None:
        """Put the answering weights into the network, and the network on the CPU."""
        if self.answering is not self.given:
            self.given.load_state_dict(self.answering.state_dict())
        self.given.to("cpu").eval()


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Return AdamW, or Adam for a schedule without weight decay."""
    if schedule.weight_decay:
        return torch.optim.AdamW(model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
    return torch.optim.Adam(model.parameters(), schedule.learning_rate)


def running_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of `model` that follows its weights as a running average.

    The decay of step k is ``min(decay, k / (k + 10))``, so that the first steps are soon forgotten. Statistics of
    batch normalisation are averaged too, and counters are copied.
    """

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], step: Tensor) -> None:
        k = int(step)
        for mean, new in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(new, 1 - min(decay, k / (k + 10)))
            else:
                mean.copy_(new)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True).eval()
    average.n_averaged.fill_(1)  # from 0 it would copy the first step's weights instead of averaging them
    return average
