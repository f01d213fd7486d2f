"""Recipes: the classic is the published one, each beats the constant baseline, and what a recipe may not ask for."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import SMALL, same_weights, train_small

from cardiac_dataset import CardiacDataset
from heartbox.data.phantom_store import write_phantom_store
from heartbox.evaluation.metrics import all_boxes, evaluate, mean_box, predict
from heartbox.models.weights import save_weights
from heartbox.training.recipes import RECIPES, make_model


def test_the_classic_recipe_is_the_published_one():
    classic = RECIPES["classic"]
    assert (classic.loss, classic.learning_rate, classic.epochs, classic.batch_size) == ("mse", 1e-4, 50, 8)
    assert (classic.head, classic.weight_decay, classic.one_cycle, classic.rule) == ("regression", 0, False, "corners")


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_learns(processed, tmp_path, name):
    recipe = dataclasses.replace(RECIPES[name], epochs=8, batch_size=8)
    _, history = train_small(processed, tmp_path, recipe)
    assert len(history) == 8
    assert history["train_loss"].iloc[-1] < 0.95 * history["train_loss"].iloc[0]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Return a processed folder of 96 phantoms to train on and 24 to validate, at 64 px."""
    folder = tmp_path_factory.mktemp("phantoms")
    return write_phantom_store(folder, 120, size=64, validation_share=0.2, progress=False)


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_beats_the_constant_baseline_on_phantoms(phantoms, tmp_path, name):
    """By a wide margin: the error was 0.4 to 0.7 times that of the mean box."""
    at_mean = RECIPES[name].head == "regression"
    recipe = dataclasses.replace(RECIPES[name], epochs=8, batch_size=8, small_size=0, start_at_mean=at_mean)
    model, _ = train_small(phantoms, tmp_path, recipe, checkpoints=False)
    train, val = (CardiacDataset(phantoms, split, targets=recipe.targets) for split in ("train", "val"))
    truth = all_boxes(val)
    constant = np.tile(mean_box(all_boxes(train)), (len(val), 1))
    assert evaluate(predict(model, val)[0], truth)["mae"] < 0.9 * evaluate(constant, truth)["mae"]


def test_masks_are_learnt(processed_with_masks, tmp_path):
    recipe = dataclasses.replace(SMALL, epochs=12, mask_weight=1.0, average=0.9, rule="mask")
    model, _ = train_small(processed_with_masks, tmp_path, recipe)
    val = CardiacDataset(processed_with_masks, "val", targets=recipe.targets, masks=True)
    with torch.no_grad():
        coarse = model.mask_head(model.features(val[0][0][None]))[0, 0].sigmoid()
    truth = torch.nn.functional.avg_pool2d(val[0][2][None], 32 // coarse.shape[-1])[0, 0]
    inside, outside = coarse[truth > 0.9].mean(), coarse[truth < 0.1].mean()
    assert inside > outside + 0.3


def test_starting_from_weights(processed, tmp_path):
    model, _ = train_small(processed, tmp_path / "first")
    train = CardiacDataset(processed, "train", targets=SMALL.targets)
    path = tmp_path / "start.pt"
    save_weights(path, model, train.stats.as_dict(), targets=list(SMALL.targets))
    again = make_model(dataclasses.replace(SMALL, start=str(path)), train)
    assert same_weights(model.state_dict(), again.state_dict())
    # a network for the heart alone takes what belongs to the heart
    alone = make_model(
        dataclasses.replace(SMALL, start=str(path), targets=("heart",)), CardiacDataset(processed, "train")
    )
    x = torch.stack([train[i][0] for i in range(3)])
    with torch.no_grad():
        assert torch.allclose(alone.eval()(x), model.eval()(x)[:, :4], atol=1e-4)
    # an orientation head, as the released weights may have, is left behind
    model.add_orientation_head()
    save_weights(path, model, train.stats.as_dict(), targets=list(SMALL.targets))
    without = make_model(dataclasses.replace(SMALL, start=str(path)), train)
    assert without.orientation_head is None
    assert same_weights(again.state_dict(), without.state_dict())
    with pytest.raises(ValueError, match="this recipe has resnet18 with regression"):
        make_model(dataclasses.replace(RECIPES["sensible"], start=str(path)), train)


@pytest.mark.parametrize(
    "recipe",
    [
        dataclasses.replace(RECIPES["sensible"], mask_weight=1.0),
        dataclasses.replace(RECIPES["edges"], start_at_mean=True),
    ],
    ids=["mask_weight", "start_at_mean"],
)
def test_what_a_head_cannot_do_is_refused(processed, recipe, request):
    with pytest.raises(ValueError, match=f"{recipe.head} head cannot.*{request.node.callspec.id}"):
        make_model(recipe, CardiacDataset(processed, "train", targets=recipe.targets))


@pytest.mark.parametrize(("head", "loss"), [("regression", "edges"), ("edges", "hinge")])
def test_a_loss_that_does_not_fit_is_refused(processed, tmp_path, head, loss):
    with pytest.raises(ValueError, match=loss):
        train_small(processed, tmp_path, dataclasses.replace(SMALL, head=head, loss=loss))
