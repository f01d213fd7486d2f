"""VGG16 finds the heart's box, as published and corrected: recipes, networks and their training.

Knows networks, recipes and any folder that CardiacDataset serves; :mod:`companions.vgg16.data` makes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from cardiac_dataset import CardiacDataset
from heartbox.models.heads import BoxNet
from heartbox.training.loop import fit
from heartbox.training.recipes import BoxTask, Recipe, make_model


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
    # As published: VGG16 with its three fully connected layers and four more after them, mean squared error in
    # pixels, Adam at a constant 1e-4, batches of 32, 25 epochs, images normalised and not augmented. The published
    # run started from ImageNet weights with a new first layer; see `pretrained`.
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
    # The same convolutions with batch normalisation after each, and a head that keeps positions.
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


def load_splits(processed: str | Path, recipe: Recipe) -> tuple[CardiacDataset, CardiacDataset]:
    """Return the training set, augmented as the recipe says, and the validation set."""
    train = CardiacDataset(processed, "train", recipe.augment or False, recipe.targets, recipe.rule)
    return train, CardiacDataset(processed, "val", targets=recipe.targets)


def build_network(recipe: VggRecipe, train: CardiacDataset, seed: int = 0) -> BoxNet:
    """Build a recipe's network, not yet trained; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return make_model(recipe, train, recipe.hidden)


def train_network(
    recipe: VggRecipe, processed: str | Path, folder: str | Path, seed: int = 0, **options
) -> tuple[BoxNet, pd.DataFrame]:
    """Build and train a recipe's network on a processed folder.

    Parameters
    ----------
    recipe : VggRecipe
        What to train.
    processed, folder : path
        The images; where ``history.csv`` and the checkpoints, if any, go.
    seed : int
        Seed of weights, order and augmentation.
    **options
        See :func:`heartbox.training.loop.fit`.

    Returns
    -------
    tuple of BoxNet and DataFrame
        The network after the last epoch, and one row per epoch.
    """
    train, val = load_splits(processed, recipe)
    model = build_network(recipe, train, seed)
    return model, fit(model, train, val, BoxTask(recipe), folder, seed, **options)
