"""The pneumonia classifier: its loss, its maps, what it starts from, and that it learns."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from pneumonia_films import prepare_quietly, write_nih

from companions.pneumonia import metrics
from companions.pneumonia.data import make_datasets
from companions.pneumonia.model import (
    RECIPES,
    PneumoniaNet,
    PneumoniaRecipe,
    PneumoniaTask,
    build_classifier,
    fit_last_layer,
    load_classifier,
    predict_logits,
    save_classifier,
)
from heartbox.explain.attribution import class_activation_map
from heartbox.models.build import build_model
from heartbox.models.weights import save_weights
from heartbox.training.loop import fit

torch.set_num_threads(1)  # so that a training does not depend on the machine


def test_one_grey_channel_and_one_output():
    net = build_classifier(64).eval()
    assert isinstance(net, PneumoniaNet)
    with torch.no_grad():
        assert net(torch.zeros(2, 1, 64, 64)).shape == (2, 1)


def test_the_map_sums_to_the_logit():
    torch.manual_seed(0)
    model = build_classifier(64).eval()
    x = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        mean = model.features(x).mean(dim=(0, 2, 3))
        weight = model.last_layer.weight
        weight -= (weight @ mean) / (mean @ mean) * mean  # so that the maps have both signs
        logits = model(x)
    maps, bias = class_activation_map(model, x)
    assert maps.shape == (3, 1, 2, 2)
    assert torch.allclose(maps.sum(dim=(2, 3)) + bias, logits, atol=1e-5)
    assert maps.min() < 0 < maps.max()
    whole = metrics.spread_bias(maps[:, 0].numpy(), logits[:, 0].numpy())
    assert whole.sum(axis=(1, 2)) == pytest.approx(logits[:, 0].numpy(), abs=1e-5)
    assert whole - maps[:, 0].numpy() == pytest.approx(np.full((3, 2, 2), bias.item() / 4), abs=1e-5)


def test_the_weighted_loss_worked_by_hand():
    task = PneumoniaTask(RECIPES["published"], 3.0)

    class Zero(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 1)

    loss = task.loss(Zero(), (torch.zeros(4, 1, 8, 8), torch.tensor([1.0, 0, 0, 0])), 1, torch.device("cpu"))
    assert loss.item() == pytest.approx((3 + 1 + 1 + 1) * math.log(2) / 4)


def test_the_first_epochs_see_small_films():
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, x):
            seen.append(x.shape[-1])
            return x.mean(dim=(1, 2, 3))[:, None]

    recipe = dataclasses.replace(RECIPES["few films"], epochs=10, small_size=32, small_share=0.7)
    task = PneumoniaTask(recipe, 1.0)
    for epoch in (1, 7, 8):
        task.loss(Watch(), (torch.zeros(2, 1, 64, 64), torch.zeros(2)), epoch, torch.device("cpu"))
    assert seen == [32, 32, 64]


def test_it_learns_what_can_be_learnt_and_is_saved(tmp_path):
    """Bright films are pneumonia: the network must rank far better than chance, and the saved one answers the same."""
    names = [f"{i:08d}_000.jpg" for i in range(32)]
    write_nih(tmp_path, [(name, "pneumonia" if i % 2 else "no finding") for i, name in enumerate(names)], brighter=120)
    # With the contrast normalised, all films would be equally bright.
    prepared = prepare_quietly(tmp_path, tmp_path / "out", size=64, validation_share=0.25, even=False)
    train, val = make_datasets(prepared, "published")
    recipe = PneumoniaRecipe(epochs=3, batch_size=8, learning_rate=1e-3)
    torch.manual_seed(0)
    net = build_classifier(64)
    history = fit(net, train, val, PneumoniaTask(recipe, 1.0), tmp_path / "run", progress=False)
    assert history["val_auroc"].iloc[-1] > 0.5 + 0.25  # a constant answer has 0.5
    save_classifier(tmp_path / "model.pt", net, train.statistics, layout="nih")
    again, config = load_classifier(tmp_path / "model.pt")
    assert config["layout"] == "nih"
    # Not to the last bit: the trained network keeps its weights in another memory order.
    assert predict_logits(again, val) == pytest.approx(predict_logits(net, val), abs=1e-4)


def test_the_last_layer_alone(tmp_path):
    """On a trunk that is left as it is, it is the logistic regression: the same logits, standardisation included."""

    class Films(torch.utils.data.Dataset):
        targets = np.array([0, 1] * 20, dtype=np.float32)
        x = torch.randn(40, 1, 64, 64, generator=torch.Generator().manual_seed(0)) + torch.tensor(targets).view(
            -1, 1, 1, 1
        )

        def __len__(self):
            return 40

        def __getitem__(self, index):
            return self.x[index], self.targets[index]

    torch.manual_seed(0)
    model, films = build_classifier(64).eval(), Films()
    before = model.features[0].weight.clone()
    fit_last_layer(model, films)
    assert torch.equal(model.features[0].weight, before)
    with torch.no_grad():
        pooled = model.features(films.x).mean(dim=(2, 3)).numpy()
    expected = metrics.fit_logistic(pooled, films.targets).decision_function(pooled)
    assert predict_logits(model, films) == pytest.approx(expected, abs=1e-3)
    assert metrics.auroc(films.targets, expected) > 0.95


@pytest.mark.parametrize("head", ["edges", "regression"])
def test_it_can_start_from_the_trunk_of_a_heart_network(tmp_path, head):
    torch.manual_seed(0)
    heart = build_model("resnet18", head, targets=("heart",), size=64)
    save_weights(tmp_path / "heart.pt", heart, {"mean": 0.5, "std": 0.2, "layout": "made"}, targets=["heart"])
    model = build_classifier(64, tmp_path / "heart.pt").eval()
    x = torch.randn(1, 1, 64, 64)
    heart.eval()
    with torch.no_grad():
        expected = x
        for layer in heart.levels if head == "edges" else [heart.features]:
            expected = layer(expected)
        assert torch.equal(model.features(x), expected)


def test_a_trunk_of_another_backbone_is_refused(tmp_path):
    heart = build_model("vgg16", "edges", size=64)
    save_weights(tmp_path / "vgg.pt", heart, {"mean": 0.5, "std": 0.2, "layout": "made"}, targets=["heart"], half=True)
    with pytest.raises(ValueError, match=r"vgg\.pt: weights of vgg16"):
        build_classifier(64, tmp_path / "vgg.pt")
