"""Figures of the VGG16 companion against numbers worked out by hand."""

import numpy as np
import pytest
import torch

from cardiac_dataset import CardiacDataset
from companions.vgg16.metrics import compare, difference_by_layer, measure_difference, variation
from companions.vgg16.model import RECIPES, build_network, load_splits


def test_measures_by_hand(processed):
    """Each answer 1 px of 64 too far to the right: 3.5 px at 224 on two of the four edges."""
    train, val = CardiacDataset(processed, "train"), CardiacDataset(processed, "val")
    truth = val.boxes.reshape(-1, 4).astype(float)
    table = compare({"shifted": truth + [1, 0, 1, 0], "labels": truth}, train, val)
    assert table.loc["shifted", "mae"] == pytest.approx(1.75)
    assert table.loc["shifted", "mse"] == pytest.approx(3.5**2 / 2)
    always = train.boxes.reshape(-1, 4).mean(axis=0)
    baseline = np.abs(truth - always).mean() * 3.5
    assert table.loc["mean box", "mae"] == pytest.approx(baseline)
    assert table.loc["shifted", "skill"] == pytest.approx(1 - 1.75 / baseline)
    assert table.loc["mean box", ["skill", "variation"]].tolist() == pytest.approx([0, 0])
    assert table.loc["labels", ["skill", "variation", "iou_mean", "mae"]].tolist() == pytest.approx([1, 1, 1, 0])


def test_variation_by_hand():
    truth = np.array([[0.0, 0, 0, 0], [2, 4, 6, 8]])  # standard deviations 1, 2, 3, 4
    answers = np.array([[5.0, 5, 5, 5], [5, 6, 5, 7]])  # 0, 0.5, 0, 1
    assert variation(answers, truth) == pytest.approx((0 + 0.25 + 0 + 0.25) / 4)


def test_directions_by_hand():
    """Four films at the corners of a rectangle of 2 by 4: eigenvalues 4 and 16, (4 + 16)^2 / (16 + 256)."""
    corners = np.array([[0.0, 0], [2, 0], [0, 4], [2, 4]])
    share, directions = measure_difference(corners)
    assert directions == pytest.approx(400 / 272)
    assert share == pytest.approx(np.sqrt((1 + 4) / 2) / np.sqrt((0 + 4 + 16 + 20) / 8))
    assert measure_difference(np.ones((3, 5))) == (0, 0)


class Tiny(torch.nn.Module):
    """One pooling layer and two linear ones, small enough to be followed by hand."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.MaxPool2d(2)
        self.head_name = "regression"
        first, last = torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)
        self.regress = torch.nn.Sequential(first, torch.nn.ReLU(inplace=True), last)
        with torch.no_grad():
            first.weight[:, 0], first.bias[:] = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 0.0])
            last.weight[:], last.bias[:] = 1.0, 10.0

    def forward(self, x):
        return self.regress(self.features(x).flatten(1))


def test_difference_by_layer_by_hand():
    """Two films, all 1 and all 3: standard deviation 1 and root mean square sqrt(5) until the bias of 10 drowns it."""
    x = torch.ones(2, 1, 2, 2)
    x[1] = 3
    layers = difference_by_layer(Tiny(), x)
    assert layers["directions"].tolist() == pytest.approx([1, 1, 1, 1])  # two films always lie on one line
    shares = layers["difference"]
    assert list(shares.index) == ["image", "block 1", "fc 1: 2", "coordinates"]
    assert shares["image"] == pytest.approx(1 / np.sqrt(5))
    assert shares["block 1"] == pytest.approx(1 / np.sqrt(5))
    # The second unit is dead (-1 and -3), so root mean squares are over (1, 0) and (3, 0).
    assert shares["fc 1: 2"] == pytest.approx(np.sqrt(0.5) / np.sqrt(2.5))
    assert shares["coordinates"] == pytest.approx(1 / np.sqrt((11**2 + 13**2) / 2))


def test_the_extra_layers_squeeze_the_films_out(processed):
    """What the notebook shows: untrained already, hardly anything of the films comes out of the last of them."""
    train, val = load_splits(processed, RECIPES["published"])
    shares = difference_by_layer(
        build_network(RECIPES["published"], train), torch.stack([val[i][0] for i in range(6)])
    )["difference"]
    assert shares["fc 6: 32"] < 0.2 * shares["fc 3: 1000"]
    assert shares["coordinates"] < 0.05 * shares["image"]
