"""Training: recipes, and the loop with its checkpoints.

Plain PyTorch on a CPU, a CUDA card or Apple's MPS. Knows networks, losses and measuring; takes any dataset of
(image, boxes) pairs and knows nothing of how it was made.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from heartbox.files import complete_or_absent
from heartbox.losses import box_loss, distribution_loss, mask_loss
from heartbox.measuring import all_boxes, evaluate, mean_box
from heartbox.networks import build_model
from heartbox.weights import file_sha256, load_weights

# ---------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained.

    Attributes
    ----------
    backbone, head, pretrained, targets
        See :func:`heartbox.networks.build_model`.
    start : str
        A weights file of the same network to start from, such as the released one; "" for none.
    epochs, batch_size, learning_rate, weight_decay
        The usual; Adam where `weight_decay` is 0, AdamW otherwise.
    one_cycle : bool
        Learning rate warmed up and annealed over the whole run (Smith & Topin 2019), or constant.
    loss : {"mse", "box", "edges"}
        ``"mse"``: mean squared error in square pixels, the classic. ``"box"``: smooth L1 and 1 - IoU.
        ``"edges"``: those two and the cross-entropy of each edge's distribution.
    start_at_mean : bool
        Start the regression head's bias at the mean training box, so that it need not be learnt first.
    rule : {"ellipse", "corners", "mask"}
        How boxes are turned in augmentation, see :class:`cardiac_dataset.CardiacDataset`.
    augment : {"published", "strong"}
        How strongly training images are changed, see :func:`cardiac_dataset.make_augmentation`.
    mask_weight : float
        Weight of the masks' loss beside that of the edges, where the training set gives masks; 0 for none.
    average : float
        Keep a running average of the weights with this decay a step, and answer with it (Polyak & Juditsky 1992);
        0 for the last step's weights.
    small_size, small_share : int, float
        Train that share of the epochs, the first ones, on images shrunk to `small_size`: coarse things first, and
        cheaper (compare the progressive resizing of Howard 2018). 0 for none.
    """

    backbone: str = "resnet18"
    head: str = "edges"
    pretrained: bool = False
    start: str = ""
    targets: tuple[str, ...] = ("heart", "thorax")
    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    one_cycle: bool = True
    loss: str = "edges"
    start_at_mean: bool = False
    rule: str = "ellipse"
    augment: str = "published"
    mask_weight: float = 0.0
    average: float = 0.0
    small_size: int = 0
    small_share: float = 0.0


RECIPES = {
    # As the exercise was published: MSE on raw pixels, Adam at 1e-4, 50 epochs, batches of 8, corners boxed.
    "classic": Recipe(
        head="regression",
        targets=("heart",),
        epochs=50,
        batch_size=8,
        learning_rate=1e-4,
        weight_decay=0.0,
        one_cycle=False,
        loss="mse",
        rule="corners",
    ),
    # The same network with what is good practice today.
    "sensible": Recipe(head="regression", loss="box", start_at_mean=True),
    # Distributions over columns and rows instead of four bare numbers, and what else helped: benchmarks/recipe.md.
    "edges": Recipe(
        epochs=24,
        rule="mask",
        augment="strong",
        mask_weight=1.0,
        average=0.99,
        small_size=160,
        small_share=0.6,
    ),
}


def make_model(recipe: Recipe, train: Dataset) -> nn.Module:
    """Build the network of a recipe, not yet trained, for the images and boxes of a training set.

    Raises
    ------
    ValueError
        If the weights that `recipe.start` names are of another network, if no training film has a label of one of
        the targets, or if the recipe asks a head for what it cannot do.
    """
    x = train[0][0]
    model = build_model(recipe.backbone, recipe.head, recipe.pretrained, recipe.targets, size=x.shape[-1])
    labels = all_boxes(train)
    unknown = np.isnan(labels.reshape(len(labels), -1, 4)).all(axis=(0, 2))
    if unknown.any():
        missing = [target for target, none in zip(recipe.targets, unknown, strict=True) if none]
        raise ValueError(f"no training film has a label of the {' or the '.join(missing)}: leave it out of the targets")
    if recipe.mask_weight and not hasattr(model, "add_mask_head"):
        raise ValueError(f"the {recipe.head} head cannot learn from masks: set mask_weight to 0")
    if recipe.start_at_mean:
        model.start_at(torch.from_numpy(mean_box(labels)).float())
    if recipe.start:
        _start_from(model, recipe)
    if recipe.mask_weight:
        model.add_mask_head()
    return model


def _start_from(model: nn.Module, recipe: Recipe) -> None:
    learnt, config = load_weights(recipe.start)
    if (config["backbone"], config["head"]) != (recipe.backbone, recipe.head):
        raise ValueError(
            f"{recipe.start}: weights of {config['backbone']} with the {config['head']} head; this recipe has "
            f"{recipe.backbone} with {recipe.head}"
        )
    if tuple(config["targets"])[: len(recipe.targets)] != tuple(recipe.targets):
        raise ValueError(f"{recipe.start}: knows {', '.join(config['targets'])}, not {', '.join(recipe.targets)}")
    # What belongs to an edge stands first along the first axis, so a network for fewer targets takes the first ones.
    mine = model.state_dict()
    model.load_state_dict(
        {name: value[: len(mine[name])] if value.ndim else value for name, value in learnt.state_dict().items()}
    )


def choose_device(name: str | None = None) -> torch.device:
    """Return the device of that name, or the best there is: CUDA, then MPS, then the CPU."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


# ---------------------------------------------------------------- the loop


def fit(
    model: nn.Module,
    train: Dataset,
    val: Dataset,
    recipe: Recipe,
    folder: str | Path,
    seed: int = 0,
    device: str | None = None,
    on_epoch: Callable[[int, NDArray, pd.DataFrame], None] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train `model`, going on from the last checkpoint of the same run where there is one.

    Everything random in an epoch follows from `seed` and the epoch's number, and a checkpoint is written whole
    after each. A run killed at any moment therefore repeats only the epoch it was in, and on a CPU ends with
    the weights of a run that nobody disturbed. A checkpoint of another recipe, seed or data is left aside.

    Parameters
    ----------
    model : nn.Module
        From :func:`make_model`; trained in place, and on the CPU at the end.
    train, val : Dataset
        Pairs of x, (1, size, size), and boxes, (4 * targets,), in pixels; from `train` also masks, (targets, h, w),
        where the recipe learns from them and there are any.
    recipe : Recipe
        How to train.
    folder : path
        Where ``history.csv`` and ``checkpoints/last.pt`` and ``best.pt`` (highest validation IoU) go.
    seed : int
        Decides the order of images and the augmentation.
    device : str, optional
        See :func:`choose_device`.
    on_epoch : callable, optional
        Called as ``on_epoch(epoch, validation_predictions, history)`` after each epoch.
    progress : bool
        Whether to show a bar with loss and validation IoU.

    Returns
    -------
    DataFrame
        A row an epoch: ``epoch, learning_rate, train_loss, val_loss, val_mae, val_iou``; its ``attrs["seconds"]``
        is what training took, over all the parts of an interrupted run.

    Raises
    ------
    FloatingPointError
        If the loss is no longer a number.
    """
    folder, place = Path(folder), choose_device(device)
    last, best = folder / "checkpoints" / "last.pt", folder / "checkpoints" / "best.pt"
    steps = math.ceil(len(train) / recipe.batch_size)
    # Channels-last is how convolutions on CPUs and tensor cores like their images: about a third faster here.
    model.to(place, memory_format=torch.channels_last)
    optimizer, schedule = _make_optimizer(model, recipe, steps)
    averaged = _Average(model, recipe.average) if recipe.average else None
    identity = _identity(recipe, seed, train, val)
    history, done, seconds = [], 0, 0.0
    if last.is_file():
        saved = torch.load(last, map_location=place, weights_only=True)
        if saved["identity"] == identity:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            if schedule:
                schedule.load_state_dict(saved["schedule"])
            history, done, seconds = saved["history"], saved["epoch"], saved["seconds"]
            if averaged:
                averaged.model.load_state_dict(saved["average"])
                averaged.steps = done * steps
    truth = all_boxes(val)
    bar = tqdm(
        total=recipe.epochs * steps,
        initial=done * steps,
        desc="Training",
        unit="batch",
        file=sys.stdout,
        mininterval=2.0,
        disable=not progress,
    )
    for epoch in range(done + 1, recipe.epochs + 1):
        started = time.perf_counter()
        torch.manual_seed(seed * 1_000_003 + epoch)
        loader = DataLoader(train, recipe.batch_size, shuffle=True)
        model.train()
        losses = []
        small = recipe.small_size < model.size and epoch <= recipe.small_share * recipe.epochs
        for x, boxes, *masks in loader:
            if small:
                boxes = boxes * (recipe.small_size / x.shape[-1])
                x = F.interpolate(x, size=recipe.small_size, mode="bilinear", antialias=True)
            x, boxes = x.to(place, memory_format=torch.channels_last), boxes.to(place)
            features = _features(model, x)
            loss, _ = compute_loss(model, features, boxes, recipe, x.shape[-1])
            if recipe.mask_weight and masks:
                loss = loss + recipe.mask_weight * mask_loss(model.mask_head(features), masks[0])
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss became {loss.item()} in epoch {epoch}: lower the learning rate "
                    f"({recipe.learning_rate:g}) or look for broken images and boxes"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            if averaged:
                averaged.update(model)
            losses.append(loss.item())
            bar.set_postfix(
                loss=f"{np.mean(losses):.3f}", val_iou=history[-1]["val_iou"] if history else "-", refresh=False
            )
            bar.update()
        answering = averaged.model if averaged else model
        predicted, val_loss = _validate(answering, val, recipe, place)
        measured = evaluate(predicted[:, :4], truth[:, :4])
        row = {
            "epoch": epoch,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "train_loss": float(np.mean(losses)),
            "val_loss": val_loss,
            "val_mae": measured["mae"],
            "val_iou": round(measured["iou_mean"], 4),
        }
        if not history or row["val_iou"] > max(earlier["val_iou"] for earlier in history):
            with complete_or_absent(best) as part:
                torch.save({"epoch": epoch, "model": answering.state_dict()}, part)
        history.append(row)
        seconds += time.perf_counter() - started
        if on_epoch:
            on_epoch(epoch, predicted, pd.DataFrame(history))
        with complete_or_absent(last) as part:
            state = {
                "identity": identity,
                "epoch": epoch,
                "history": history,
                "seconds": seconds,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict() if schedule else None,
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


def compute_loss(
    model: nn.Module, features: Tensor, boxes: Tensor, recipe: Recipe, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the recipe's loss and the coordinates (N, 4 * targets), from the backbone's features.

    `size` is the side of the images, where it is not the model's own.
    """
    size = size or model.size
    if recipe.loss == "edges":
        edges = model.head(features)
        loss = distribution_loss(edges, boxes) + box_loss(edges.coordinates, boxes, size)
        return loss, edges.coordinates
    predicted = model.read(features)
    if recipe.loss == "box":
        return box_loss(predicted, boxes, size), predicted
    if recipe.loss == "mse":
        known = ~boxes.isnan()
        # Nothing known: zero, with a gradient of zero.
        loss = F.mse_loss(predicted[known], boxes[known]) if known.any() else predicted.sum() * 0
        return loss, predicted
    raise ValueError(f"unknown loss {recipe.loss!r}: choose mse, box or edges")


def _make_optimizer(model: nn.Module, recipe: Recipe, steps: int):
    if recipe.weight_decay:
        optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    else:
        optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
    if not recipe.one_cycle:
        return optimizer, None
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, epochs=recipe.epochs, steps_per_epoch=steps, pct_start=0.2
    )
    return optimizer, schedule


def _identity(recipe: Recipe, seed: int, train: Dataset, val: Dataset) -> str:
    """Tell one run from another: recipe, seed, and a checksum of the data of both sides.

    All boxes count, and some images as they are served, so that another augmentation is another run too.
    """
    checksum = zlib.crc32(all_boxes(val).tobytes(), zlib.crc32(all_boxes(train).tobytes()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for side in (train, val):
            for i in np.linspace(0, len(side) - 1, min(len(side), 8)).astype(int):
                checksum = zlib.crc32(side[int(i)][0].numpy().tobytes(), checksum)
    # What a run starts from counts by its content: the same file elsewhere is the same, another of its name is not.
    start = file_sha256(recipe.start) if recipe.start else ""
    settings = {**dataclasses.asdict(recipe), "start": start}
    return json.dumps({**settings, "seed": seed, "data": checksum}, sort_keys=True)


def _features(model: nn.Module, x: Tensor) -> Tensor:
    """Run the backbone, in bfloat16 where a CUDA card has it; the head gets float32.

    A coordinate near 200 in bfloat16 is only good to a pixel, so the head never works in it.
    """
    half = x.device.type == "cuda" and torch.cuda.is_bf16_supported()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        features = model.features(x)
    return features.float()


@torch.no_grad()
def _validate(model: nn.Module, val: Dataset, recipe: Recipe, device: torch.device) -> tuple[NDArray, float]:
    model.eval()
    predicted, losses = [], []
    for x, boxes, *_ in DataLoader(val, recipe.batch_size):
        x, boxes = x.to(device, memory_format=torch.channels_last), boxes.to(device)
        loss, coordinates = compute_loss(model, _features(model, x), boxes, recipe)
        predicted.append(coordinates.cpu().numpy())
        losses += [loss.item()] * len(x)
    return np.concatenate(predicted), float(np.mean(losses))
