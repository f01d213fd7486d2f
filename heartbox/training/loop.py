"""The training loop, whatever is learnt: checkpoints, averaged weights, runs that go on where they were stopped.

Plain PyTorch on a CPU, a CUDA card or Apple's MPS. What is learnt - the loss of a batch, the figures of an epoch - is
a :class:`Task`; the loop knows nothing of boxes or classes. :mod:`heartbox.training.recipes` has the task of this project.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from heartbox.training.device import choose_device
from heartbox.training.task import Schedule, Task
from heartbox.utils.atomic import complete_or_absent

# ---------------------------------------------------------------- what a training is made of


# ---------------------------------------------------------------- the loop


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
) -> pd.DataFrame:
    """Train `model`, going on from the last checkpoint of the same run where there is one.

    Everything random in an epoch follows from `seed` and the epoch's number, and a checkpoint is written whole
    after each. A run killed at any moment therefore repeats only the epoch it was in, and on a CPU ends with
    the weights of a run that nobody disturbed. A checkpoint of another task, seed or data is left aside.

    Parameters
    ----------
    model : nn.Module
        Trained in place, and on the CPU at the end.
    train, val : Dataset
        Samples as the task expects them; the first part of each is a tensor.
    task : Task
        What is learnt, and its schedule.
    folder : path
        Where ``history.csv`` and ``checkpoints/last.pt`` and ``best.pt`` (highest score) go.
    seed : int
        Decides the order of samples and the augmentation.
    device : str, optional
        See :func:`choose_device`.
    on_epoch : callable, optional
        Called as ``on_epoch(epoch, validation_answers, history)`` after each epoch.
    progress : bool
        Whether to show a bar with the loss and the score.
    checkpoints : bool
        Whether to write them. Those of a network with a hundred million weights take 2 GB, which a short training
        may not be worth; without them a run that is stopped starts anew.

    Returns
    -------
    DataFrame
        A row an epoch: ``epoch, learning_rate, train_loss`` and the task's figures; its ``attrs["seconds"]``
        is what training took, over all the parts of an interrupted run.

    Raises
    ------
    FloatingPointError
        If the loss is no longer a number.
    """
    folder, place, schedule = Path(folder), choose_device(device), task.schedule
    last, best = folder / "checkpoints" / "last.pt", folder / "checkpoints" / "best.pt"
    steps = math.ceil(len(train) / schedule.batch_size)
    # Channels-last is how convolutions on CPUs and tensor cores like their images: about a third faster here.
    model.to(place, memory_format=torch.channels_last)
    optimizer, rate = _make_optimizer(model, schedule, steps)
    averaged = _Average(model, schedule.average) if schedule.average else None
    identity = _identity(task, seed, train, val)
    history, done, seconds = [], 0, 0.0
    if checkpoints and last.is_file():
        saved = torch.load(last, map_location=place, weights_only=True)
        if saved["identity"] == identity:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            if rate:
                rate.load_state_dict(saved["schedule"])
            history, done, seconds = saved["history"], saved["epoch"], saved["seconds"]
            if averaged:
                averaged.model.load_state_dict(saved["average"])
                averaged.steps = done * steps
    bar = tqdm(
        total=schedule.epochs * steps,
        initial=done * steps,
        desc="Training",
        unit="batch",
        file=sys.stdout,
        mininterval=2.0,
        disable=not progress,
    )
    for epoch in range(done + 1, schedule.epochs + 1):
        started = time.perf_counter()
        torch.manual_seed(seed * 1_000_003 + epoch)
        loader = DataLoader(train, schedule.batch_size, shuffle=True, collate_fn=task.collate)
        model.train()
        losses = []
        for batch in loader:
            loss = task.loss(model, batch, epoch, place)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss became {loss.item()} in epoch {epoch}: lower the learning rate "
                    f"({schedule.learning_rate:g}) or look for broken images and labels"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if rate:
                rate.step()
            if averaged:
                averaged.update(model)
            losses.append(loss.item())
            score = history[-1][task.score] if history else "-"
            bar.set_postfix({"loss": f"{np.mean(losses):.3f}", task.score: score}, refresh=False)
            bar.update()
        answering = averaged.model if averaged else model
        answering.eval()
        with torch.no_grad():
            answers, figures = task.validate(answering, val, place)
        row = {"epoch": epoch, "learning_rate": optimizer.param_groups[0]["lr"], "train_loss": float(np.mean(losses))}
        row |= figures
        better = not history or row[task.score] > max(earlier[task.score] for earlier in history)
        if checkpoints and better:
            with complete_or_absent(best) as part:
                torch.save({"epoch": epoch, "model": answering.state_dict()}, part)
        history.append(row)
        seconds += time.perf_counter() - started
        if on_epoch:
            on_epoch(epoch, answers, pd.DataFrame(history))
        if not checkpoints:
            continue
        with complete_or_absent(last) as part:
            state = {
                "identity": identity,
                "epoch": epoch,
                "history": history,
                "seconds": seconds,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": rate.state_dict() if rate else None,
                "average": averaged.model.state_dict() if averaged else None,
            }
            torch.save(state, part)
    bar.close()
    if averaged:
        model.load_state_dict(averaged.model.state_dict())
    table = pd.DataFrame(history)
    table.attrs["seconds"] = seconds
    with complete_or_absent(folder / "history.csv") as part:
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
    model.to("cpu").eval()
    return table


class _Average:
    """A copy of a model whose weights follow those of the training one as a running average."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval()
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))  # the first steps are soon forgotten
        for mine, new in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(new, 1 - decay)  # batch normalisation's statistics among them
            else:
                mine.copy_(new)


def _make_optimizer(model: nn.Module, schedule: Schedule, steps: int):
    if schedule.weight_decay:
        optimizer = torch.optim.AdamW(model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
    else:
        optimizer = torch.optim.Adam(model.parameters(), schedule.learning_rate)
    if not schedule.one_cycle:
        return optimizer, None
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, epochs=schedule.epochs, steps_per_epoch=steps, pct_start=0.2
    )
    return optimizer, rate


def _identity(task: Task, seed: int, train: Dataset, val: Dataset) -> str:
    """Tell one run from another: task, schedule, seed, and a checksum of the data of both sides.

    All labels count, and some images as they are served, so that another augmentation is another run too.
    """
    checksum = zlib.crc32(task.labels(val).tobytes(), zlib.crc32(task.labels(train).tobytes()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for side in (train, val):
            for i in np.linspace(0, len(side) - 1, min(len(side), 8)).astype(int):
                checksum = zlib.crc32(side[int(i)][0].numpy().tobytes(), checksum)
    return json.dumps({"task": type(task).__name__, **task.settings(), "seed": seed, "data": checksum}, sort_keys=True)
