"""Training learns, survives being killed, and measures what it says it measures."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, SMALL, train_small

from cardiac_dataset import CardiacDataset
from heartbox.evaluation.conformal import calibrate
from heartbox.evaluation.metrics import evaluate, mean_box, predict, skill_over, write_metrics
from heartbox.imgaug_compat import augmenters as iaa
from heartbox.models.heads import EdgeDistributions
from heartbox.models.weights import save_weights
from heartbox.training.device import mixed_precision
from heartbox.training.losses import box_loss, edges_to_bins
from heartbox.training.recipes import RECIPES, make_model


def same_weights(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


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


def test_files_of_a_run(processed, tmp_path):
    seen = []
    _, history = train_small(
        processed, tmp_path, on_epoch=lambda epoch, predicted, rows: seen.append((epoch, predicted.shape, len(rows)))
    )
    assert seen == [(1, (12, 8), 1), (2, (12, 8), 2), (3, (12, 8), 3)]
    written = pd.read_csv(tmp_path / "history.csv")
    assert list(written.columns) == ["epoch", "learning_rate", "train_loss", "val_loss", "val_mae", "val_iou"]
    best = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    assert best["epoch"] == history["val_iou"].idxmax() + 1
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.pt", "last.pt"]


class Killed(Exception):
    """Stands for whatever ends a process."""


EVERYTHING = dataclasses.replace(
    SMALL, mask_weight=1.0, average=0.9, small_size=32, small_share=0.7, augment="strong", rule="mask"
)
REGRESSION = dataclasses.replace(SMALL, head="regression", loss="box")


@pytest.mark.parametrize("recipe", [SMALL, REGRESSION, EVERYTHING], ids=["edges", "regression", "everything"])
def test_resumed_run_equals_an_undisturbed_one(processed_with_masks, tmp_path, recipe):
    processed = processed_with_masks
    whole, history = train_small(processed, tmp_path / "whole", recipe)

    # Killed in the middle of the second epoch: after its first steps, before its checkpoint.
    steps = []
    real_step = torch.optim.AdamW.step

    def dying_step(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 5:
            raise Killed
        return real_step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", dying_step)
        with pytest.raises(Killed):
            train_small(processed, tmp_path / "cut", recipe)
    assert not (tmp_path / "cut" / "history.csv").exists()
    epochs = []
    resumed, again = train_small(processed, tmp_path / "cut", recipe, on_epoch=lambda epoch, *_: epochs.append(epoch))
    assert epochs == [2, 3]  # the first was not done again
    assert same_weights(whole.state_dict(), resumed.state_dict())
    pd.testing.assert_frame_equal(history, again)
    assert (tmp_path / "cut" / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()


def test_a_process_killed_for_good_goes_on(processed, tmp_path):
    """SIGKILL, which no program can catch, then the same command once more."""
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from helpers import train_small
train_small(Path({str(processed)!r}), Path({str(tmp_path)!r}), on_epoch=lambda e, p, h: print(e, flush=True))
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == "1"
        assert process.stdout.readline().strip() == "2"
        process.kill()
    assert not (tmp_path / "history.csv").exists()
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    # The second epoch's checkpoint may or may not have been on the disk in time; the first one's was.
    assert run.stdout.split() in (["3"], ["2", "3"])
    assert len(pd.read_csv(tmp_path / "history.csv")) == 3


def test_a_finished_run_is_not_trained_again(processed, tmp_path):
    first, _ = train_small(processed, tmp_path)
    second, history = train_small(processed, tmp_path, on_epoch=lambda *_: pytest.fail("trained again"))
    assert same_weights(first.state_dict(), second.state_dict())
    assert len(history) == 3


def test_a_checkpoint_of_another_run_is_left_aside(processed, tmp_path):
    train_small(processed, tmp_path)
    epochs = []
    train_small(processed, tmp_path, seed=1, on_epoch=lambda epoch, *_: epochs.append(epoch))
    assert epochs == [1, 2, 3]


def test_changed_images_and_augmentation_are_another_run(processed, tmp_path):
    train_small(processed, tmp_path)
    epochs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cardiac_dataset.make_augmentation", lambda _: iaa.GammaContrast((0.5, 2.0)))
        train_small(processed, tmp_path, on_epoch=lambda epoch, *_: epochs.append(epoch))
    assert epochs == [1, 2, 3]


def test_a_loss_that_explodes_says_so(processed, tmp_path):
    recipe = dataclasses.replace(SMALL, learning_rate=1e30, one_cycle=False)
    with pytest.raises(FloatingPointError, match="learning rate"):
        train_small(processed, tmp_path, recipe)


def test_bins_have_the_coordinate_as_their_mean():
    edges = EdgeDistributions(torch.zeros(1, 4, 60), torch.arange(60) * 4.0 - 6, torch.empty(0))
    boxes = torch.tensor([[0.0, 100.0, 123.4, 224.0]])
    wanted = edges_to_bins(boxes, edges)
    assert torch.allclose(wanted.sum(-1), torch.ones(1, 4))
    assert torch.allclose(wanted @ edges.positions, boxes, atol=1e-3)
    assert (wanted > 0).sum(-1).max() <= 2


def test_box_loss_by_hand_and_with_unknown_boxes():
    exact = torch.tensor([[10.0, 10, 50, 50]])
    assert box_loss(exact, exact, 100).item() == pytest.approx(0)
    # half the width missed: IoU 0.5; the one edge is off by 20 of 100 px = 2 tenths -> smooth L1 1.5, over 4 edges
    half = torch.tensor([[10.0, 10, 30, 50]])
    assert box_loss(half, exact, 100).item() == pytest.approx(0.5 + 1.5 / 4)
    both = torch.cat([exact, torch.full((1, 4), math.nan)], dim=1)
    assert box_loss(torch.cat([half, half], dim=1), both, 100).item() == pytest.approx(0.5 + 1.5 / 4)
    # The sides alone known: their distance counts, over two edges; there is no box to overlap with.
    sides = torch.tensor([[10.0, math.nan, 50, math.nan]])
    assert box_loss(half, sides, 100).item() == pytest.approx(1.5 / 2)
    nothing = torch.full((1, 4), math.nan)
    predicted = half.clone().requires_grad_()
    box_loss(predicted, nothing, 100).backward()
    assert predicted.grad.abs().sum() == 0


def test_evaluation_by_hand():
    truth = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    found = np.array([[0.0, 0, 10, 10], [2, 0, 10, 5]])
    measured = evaluate(found, truth)
    assert measured["images"] == 2
    assert [measured[f"mae_{edge}"] for edge in ("x_min", "y_min", "x_max", "y_max")] == [1, 0, 0, 2.5]
    assert measured["mae"] == pytest.approx(7 / 8)
    assert measured["mse"] == pytest.approx((4 + 25) / 8)
    assert measured["iou_mean"] == pytest.approx((1 + 0.4) / 2)
    assert measured["iou_worst"] == pytest.approx(0.4)
    assert (measured["iou_above_0.50"], measured["iou_above_0.75"]) == (0.5, 0.5)


def test_ratio_error_by_hand():
    truth = np.array([[25.0, 0, 75, 50, 0, 0, 100, 100]])
    found = np.array([[25.0, 0, 85, 50, 0, 0, 100, 100]])
    assert evaluate(found, truth)["ctr_mae"] == pytest.approx(0.1)


def test_skill():
    assert skill_over({"mae": 2.0}, {"mae": 8.0}) == 0.75
    assert math.isnan(skill_over({"mae": 2.0}, {"mae": 0.0}))  # every label the same box


def test_mean_box_leaves_unknown_edges_out():
    assert mean_box(np.array([[0.0, 2], [4, np.nan]])).tolist() == [2, 2]


def test_margins_hold_as_often_as_they_say():
    """On errors that grow with the spread: calibrated on one half, checked on the other."""
    rng = np.random.default_rng(0)
    truth = np.zeros((4000, 4))
    spread = rng.uniform(1, 5, truth.shape)
    predicted = truth + spread * rng.normal(0, 0.7, truth.shape)
    half = slice(0, 2000), slice(2000, None)
    margins = calibrate(predicted[half[0]], spread[half[0]], truth[half[0]])
    covered = np.abs(predicted[half[1]]) <= np.array(margins["factors"]) * spread[half[1]]
    assert covered.mean(axis=0) == pytest.approx(0.9, abs=0.025)
    # 90 % of a normal lies within 1.645 deviations
    assert margins["factors"] == pytest.approx([0.7 * 1.645] * 4, rel=0.06)


def test_too_few_films_give_no_margins():
    assert calibrate(np.zeros((8, 4)), None, np.zeros((8, 4))) is None
    assert calibrate(np.zeros((9, 4)), None, np.ones((9, 4)))["factors"] == [1, 1, 1, 1]


def test_metrics_are_valid_json(tmp_path):
    write_metrics(tmp_path / "metrics.json", {"model": {"ctr_mae": math.nan, "mae": 1.5}})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"model": {"ctr_mae": None, "mae": 1.5}}


def test_predictions_do_not_depend_on_the_batch_size(processed, tmp_path):
    model, _ = train_small(processed, tmp_path)
    val = CardiacDataset(processed, "val", targets=SMALL.targets)
    one, spread = predict(model, val, batch_size=1)
    many, _ = predict(model, val, batch_size=12)
    assert np.abs(one - many).max() < 1e-3
    assert spread.shape == one.shape


def test_masks_are_learnt(processed_with_masks, tmp_path):
    recipe = dataclasses.replace(EVERYTHING, epochs=12, small_share=0.0, augment="published")
    model, _ = train_small(processed_with_masks, tmp_path, recipe)
    val = CardiacDataset(processed_with_masks, "val", targets=recipe.targets, masks=True)
    with torch.no_grad():
        coarse = model.mask_head(model.features(val[0][0][None]))[0, 0].sigmoid()
    truth = torch.nn.functional.avg_pool2d(val[0][2][None], 32 // coarse.shape[-1])[0, 0]
    inside, outside = coarse[truth > 0.9].mean(), coarse[truth < 0.1].mean()
    assert inside > outside + 0.3


def test_the_average_is_what_answers(processed_with_masks, tmp_path):
    """The weights at the end are the running average and not the last step's; with a decay of 0 they are the last."""
    recipe = dataclasses.replace(SMALL, average=0.9, one_cycle=False)
    averaged, _ = train_small(processed_with_masks, tmp_path / "averaged", recipe)
    plain, _ = train_small(processed_with_masks, tmp_path / "plain", dataclasses.replace(recipe, average=0.0))
    assert not same_weights(averaged.state_dict(), plain.state_dict())
    last = torch.load(tmp_path / "averaged" / "checkpoints" / "last.pt", weights_only=True)
    assert same_weights(last["average"], averaged.state_dict())
    assert same_weights(last["model"], plain.state_dict())


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
    with pytest.raises(ValueError, match="this recipe has resnet18 with regression"):
        make_model(dataclasses.replace(RECIPES["sensible"], start=str(path)), train)


@pytest.mark.parametrize("known", [True, False])
def test_a_cpu_trains_in_bfloat16_where_it_knows_it_and_never_answers_in_it(monkeypatch, known):
    monkeypatch.setattr("heartbox.training.device._cpu_has_bfloat16", lambda: known)
    layer, x, cpu = torch.nn.Linear(4, 4), torch.ones(1, 4), torch.device("cpu")
    with mixed_precision(cpu):
        assert layer(x).dtype is (torch.bfloat16 if known else torch.float32)
    with mixed_precision(cpu, training=False):
        assert layer(x).dtype is torch.float32
