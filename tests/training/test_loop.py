"""The loop: files of a run, resumption after a kill, averaged weights, a loss that explodes."""

import copy
import dataclasses
import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
from helpers import ROOT, SMALL, same_weights, train_small

from heartbox.models.build import build_model
from heartbox.training.loop import running_average


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


def test_the_bar_ends_with_the_result(processed, tmp_path, capsys):
    _, history = train_small(processed, tmp_path, progress=True)
    shown = re.findall(r"val_iou=([\d.]+)", capsys.readouterr().out)
    assert float(shown[-1]) == pytest.approx(history["val_iou"].iloc[-1], abs=0.0005)


class Killed(Exception):
    """Stands for whatever ends a process."""


EVERYTHING = dataclasses.replace(
    SMALL, mask_weight=1.0, average=0.9, small_size=32, small_share=0.7, augment="strong", rule="mask"
)
REGRESSION = dataclasses.replace(SMALL, head="regression", loss="box")


@pytest.mark.parametrize("recipe", [SMALL, REGRESSION, EVERYTHING], ids=["edges", "regression", "everything"])
def test_a_resumed_run_equals_an_uninterrupted_one(processed_with_masks, tmp_path, recipe):
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
    assert epochs == [2, 3]  # the first was not repeated
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


def test_a_run_without_checkpoints_writes_none_and_learns_the_same(processed, tmp_path):
    with_them, _ = train_small(processed, tmp_path / "with")
    without, _ = train_small(processed, tmp_path / "without", checkpoints=False)
    assert same_weights(with_them.state_dict(), without.state_dict())
    assert [path.name for path in (tmp_path / "without").iterdir()] == ["history.csv"]


def test_workers_give_the_same_samples_in_the_same_order(processed, tmp_path):
    """Without augmentation nothing random is left to them, so that the weights are the same to the last bit."""
    recipe = dataclasses.replace(SMALL, epochs=1, augment="")
    alone, history = train_small(processed, tmp_path / "alone", recipe)
    helped, again = train_small(processed, tmp_path / "helped", recipe, workers=1)
    assert same_weights(alone.state_dict(), helped.state_dict())
    pd.testing.assert_frame_equal(history, again)


def test_workers_augment(processed, tmp_path):
    """They draw other numbers; the file has the same columns, and the same run gives it again."""
    recipe = dataclasses.replace(SMALL, epochs=1)
    written = {}
    for name, workers in (("none", 0), ("one", 1), ("again", 1)):
        _, history = train_small(processed, tmp_path / name, recipe, workers=workers, checkpoints=False)
        assert history["train_loss"].notna().all()
        written[name] = (tmp_path / name / "history.csv").read_text()
    assert written["one"] == written["again"] != written["none"]
    assert written["one"].splitlines()[0] == written["none"].splitlines()[0]


def test_a_loss_that_explodes_says_so(processed, tmp_path):
    recipe = dataclasses.replace(SMALL, learning_rate=1e30, one_cycle=False)
    with pytest.raises(FloatingPointError, match="learning rate"):
        train_small(processed, tmp_path, recipe)


# ---------------------------------------------------------------- averaged weights


def test_the_average_is_what_answers(processed_with_masks, tmp_path):
    """The weights at the end are the running average and not the last step's; with a decay of 0 they are the last."""
    recipe = dataclasses.replace(SMALL, average=0.9, one_cycle=False)
    averaged, _ = train_small(processed_with_masks, tmp_path / "averaged", recipe)
    plain, _ = train_small(processed_with_masks, tmp_path / "plain", dataclasses.replace(recipe, average=0.0))
    assert not same_weights(averaged.state_dict(), plain.state_dict())
    last = torch.load(tmp_path / "averaged" / "checkpoints" / "last.pt", weights_only=True)
    average = {name.removeprefix("module."): value for name, value in last["average"].items() if name != "n_averaged"}
    assert same_weights(average, averaged.state_dict())
    assert same_weights(last["model"], plain.state_dict())


def test_the_average_by_hand():
    """The recursion written out, over every weight, statistic and counter, to the last bit."""
    torch.manual_seed(0)
    model = build_model(size=64)
    average = running_average(model, decay=0.6)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(1, 20):  # from step 15 on the decay is 0.6
        changed = copy.deepcopy(model.state_dict())
        for value in changed.values():
            value.add_(torch.randn(value.shape) if value.is_floating_point() else 1)
        model.load_state_dict(changed)
        average.update_parameters(model)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name].lerp_(value, 1 - min(0.6, step / (step + 10)))
            else:
                expected[name].copy_(value)
    assert same_weights(expected, average.module.state_dict())
