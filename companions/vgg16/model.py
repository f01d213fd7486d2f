"""VGG16 finds the heart's box: as published, and mended. Recipes, the training, and what the layers still know.

Knows networks, recipes and any folder that CardiacDataset serves; :mod:`companions.vgg16.data` makes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from cardiac_dataset import CardiacDataset
from heartbox.boxes import EDGES
from heartbox.evaluation.metrics import all_boxes, evaluate, mean_box, skill_over
from heartbox.reporting.plots import LABEL, PREDICTION
from heartbox.training.loop import fit
from heartbox.training.recipes import BoxTask, Recipe, make_model

REPORTED = 224  # all errors are given in pixels of an image of this side, whatever the network sees


@dataclass(frozen=True)
class VggRecipe(Recipe):
    """A recipe whose regression head may have hidden layers.

    Attributes
    ----------
    hidden : tuple of int
        See :func:`heartbox.models.build.build_model`.
    """

    hidden: tuple[int, ...] = ()


RECIPES = {
    # As published: VGG16 with its three fully connected layers and four more behind them, mean squared error on
    # pixels, Adam at a constant 1e-4, batches of 32, 25 epochs, images normalised and not augmented. The published
    # run began from ImageNet weights with a new first layer; see `pretrained`.
    "published": VggRecipe(
        backbone="vgg16",
        head="regression",
        hidden=(128, 64, 32),
        targets=("heart",),
        loss="mse",
        epochs=25,
        batch_size=32,
        learning_rate=1e-4,
        weight_decay=0.0,
        one_cycle=False,
        augment="",
        rule="corners",
    ),
    # The same convolutions, batch normalisation behind each, and a head that keeps what lies where.
    "mended": VggRecipe(
        backbone="vgg16_bn",
        head="edges",
        targets=("heart",),
        loss="edges",
        epochs=24,
        batch_size=8,
        learning_rate=1e-3,
        weight_decay=1e-2,
        average=0.99,
        augment="published",
        rule="ellipse",
        small_size=64,
        small_share=0.6,
    ),
}


# ---------------------------------------------------------------- training


def load_sides(processed: str | Path, recipe: Recipe) -> tuple[CardiacDataset, CardiacDataset]:
    """Return the training set of a recipe, augmented as it says, and the validation set."""
    train = CardiacDataset(processed, "train", recipe.augment or False, recipe.targets, recipe.rule)
    return train, CardiacDataset(processed, "val", targets=recipe.targets)


def build(recipe: VggRecipe, train: CardiacDataset, seed: int = 0) -> nn.Module:
    """Build a recipe's network, not yet trained; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return make_model(recipe, train, recipe.hidden)


def train_vgg(
    recipe: VggRecipe, processed: str | Path, folder: str | Path, seed: int = 0, **options
) -> tuple[nn.Module, pd.DataFrame]:
    """Build and train a recipe's network on a processed folder.

    Parameters
    ----------
    recipe : VggRecipe
        What to train.
    processed, folder : path
        The images; where ``history.csv`` and, if wanted, checkpoints go.
    seed : int
        Decides weights, order and augmentation.
    **options
        Of :func:`heartbox.training.loop.fit`.

    Returns
    -------
    tuple of nn.Module and DataFrame
        The network of the last epoch, and a row an epoch.
    """
    train, val = load_sides(processed, recipe)
    model = build(recipe, train, seed)
    return model, fit(model, train, val, BoxTask(recipe), folder, seed, **options)


# ---------------------------------------------------------------- measuring


def at_224(boxes: NDArray, size: int) -> NDArray[np.float64]:
    """Carry boxes, (N, 4), from an image of side `size` to one of 224 pixels."""
    return np.asarray(boxes, dtype=np.float64) * (REPORTED / size)


def compare(answers: dict[str, NDArray], train: CardiacDataset, val: CardiacDataset) -> pd.DataFrame:
    """Measure answers on the validation films beside the mean training box.

    Parameters
    ----------
    answers : dict
        For each name the predicted boxes, (N, 4), in pixels of the images.
    train, val : CardiacDataset
        The films; their side is that of the images.

    Returns
    -------
    DataFrame
        A row for the mean box and for each of `answers`: ``mae`` in pixels at 224 and ``mse`` in their squares;
        ``skill``, 1 - mae / mae of the mean box; ``iou_mean``, ``iou_worst``; and ``varies``, how much the answers
        vary from film to film, as a share of how much the labels do (see :func:`variation`).
    """
    size = val.stats["size"]
    truth = at_224(all_boxes(val), size)
    always = np.tile(mean_box(all_boxes(train)), (len(val), 1))
    rows = {}
    for name, predicted in {"mean box": always, **answers}.items():
        predicted = at_224(predicted, size)
        measured = evaluate(predicted, truth)
        baseline = rows.get("mean box", measured)
        kept = {key: measured[key] for key in ("images", "mae", "mse", "iou_mean", "iou_worst")}
        rows[name] = kept | {"skill": skill_over(measured, baseline), "varies": variation(predicted, truth)}
    columns = ["images", "mae", "skill", "mse", "iou_mean", "iou_worst", "varies"]
    return pd.DataFrame.from_dict(rows, orient="index")[columns].astype({"images": int})


def variation(predicted: NDArray, truth: NDArray) -> float:
    """Return the standard deviation of answers over films over that of the labels, averaged over the four edges.

    0: the same answer for every film. About 1: answers as varied as hearts are, which does not make them right.
    """
    return float((predicted.std(axis=0) / truth.std(axis=0)).mean())


# ---------------------------------------------------------------- what the layers still know


@torch.no_grad()
def difference_by_layer(model: nn.Module, x: Tensor) -> pd.DataFrame:
    """Measure how much films differ for each layer of a VGG16, and in how many ways.

    Near a difference of 0 the layer says the same of every film, and what comes after it can only be the same
    answer. With a single direction it says one number of each film: the four edges can then only move together.

    Parameters
    ----------
    model : nn.Module
        From :func:`build`, in evaluation mode afterwards.
    x : Tensor, shape (N, 1, size, size)
        Several films, normalised.

    Returns
    -------
    DataFrame
        A row for the image, the five blocks of convolutions, what follows them, and the coordinates; columns
        ``difference`` and ``directions``, see :func:`differ`.
    """
    found, handles = {"image": differ(x)}, []
    place = next(model.parameters()).device

    def watch(name: str, module: nn.Module) -> None:
        def look(_, __, output: Tensor) -> None:
            # What the next layer sees: VGG16 has a ReLU behind every layer but the last. (A copy: it works in place.)
            found[name] = differ(output.clamp_min(0))

        handles.append(module.register_forward_hook(look))

    pools = [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    for number, module in enumerate(pools, start=1):
        watch(f"block {number}", module)
    if model.head_name == "edges":
        watch("pyramid", model.smooth)
    else:
        layers = [module for module in model.regress if isinstance(module, nn.Linear)][:-1]
        for number, module in enumerate(layers, start=1):
            watch(f"fc {number}: {module.out_features}", module)
    try:
        found["coordinates"] = differ(model.eval()(x.to(place)))
    finally:
        for handle in handles:
            handle.remove()
    return pd.DataFrame.from_dict(found, orient="index", columns=["difference", "directions"])


def differ(values: Tensor | NDArray) -> tuple[float, float]:
    """Measure how much rows differ, and in how many ways.

    Parameters
    ----------
    values : Tensor or ndarray, shape (N, ...)
        A row a film.

    Returns
    -------
    tuple of float
        Standard deviation over the films (root mean square over the units) as a share of the root mean square of
        all values; and the number of independent directions in which the films differ: the participation ratio,
        (sum of the covariance's eigenvalues)^2 / sum of their squares, 1 if all films lie on one line. 0 and 0
        where nothing differs.
    """
    values = torch.as_tensor(values).flatten(1).cpu().double()  # Apple's MPS knows no double precision
    centred = values - values.mean(dim=0)
    # The small matrix of films by films has the same eigenvalues as the covariance of units by units.
    products = centred @ centred.T
    total = products.trace()
    if not total > 0:
        return 0.0, 0.0
    share = (total / values.square().sum()).sqrt()
    return float(share), float(total**2 / products.square().sum())


def first_films(dataset: CardiacDataset, count: int = 16) -> Tensor:
    """Return the first images of a dataset as one batch, (count, 1, size, size)."""
    return torch.stack([dataset[i][0] for i in range(min(count, len(dataset)))])


# ---------------------------------------------------------------- pictures


def draw_differences(networks: dict[str, pd.DataFrame]) -> Figure:
    """Draw what :func:`difference_by_layer` measured of several networks; directions as numbers over the bars."""
    figure, axes = plt.subplots(1, len(networks), figsize=(5.4 * len(networks), 3.2), sharey=True, squeeze=False)
    for ax, (name, layers) in zip(axes[0], networks.items(), strict=True):
        places = range(len(layers))
        ax.bar(places, 100 * layers["difference"], color="#4a6fa5")
        for place, layer in zip(places, layers.itertuples(), strict=True):
            ax.annotate(
                f"{layer.directions:.1f}", (place, 100 * layer.difference), ha="center", va="bottom", fontsize=8
            )
        ax.set_xticks(places, layers.index, rotation=60, ha="right", fontsize=8)
        ax.set(title=name, yscale="log")
        ax.margins(y=0.12)
        ax.yaxis.set_major_formatter("{x:g}")
    axes[0, 0].set_ylabel("difference between films, %")
    figure.tight_layout()
    return figure


def draw_answers(answers: dict[str, NDArray], truth: NDArray, names: Sequence[str] = EDGES) -> Figure:
    """Draw each answer against its label, one panel an edge: on the diagonal is right, a flat line looks at nothing."""
    figure, axes = plt.subplots(1, len(names), figsize=(3 * len(names), 3.2))
    for edge, (ax, name) in enumerate(zip(axes, names, strict=True)):
        for (who, predicted), colour, marker in zip(answers.items(), (PREDICTION, LABEL), "xo", strict=False):
            ax.scatter(truth[:, edge], predicted[:, edge], s=12, color=colour, marker=marker, label=who)
        ax.axline((truth[:, edge].mean(),) * 2, slope=1, color="grey", linewidth=0.8)
        ax.set(title=name, xlabel="label, px", aspect="equal", adjustable="datalim")
    axes[0].set_ylabel("answer, px")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    return figure
