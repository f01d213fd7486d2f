"""The same training on a CUDA card: curve, resumption, torchrun, explanations. Skipped where there is no card.

Needs only what training needs, so that it runs on a bare machine: pytest --noconftest tests/training/test_gpu.py
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cardiac_dataset import CardiacDataset
from heartbox.data.phantom_store import write_phantom_store
from heartbox.evaluation.metrics import predict
from heartbox.explain.attribution import occlusion_map, smooth_gradients
from heartbox.training.loop import fit
from heartbox.training.orientation import fit_orientation
from heartbox.training.recipes import RECIPES, BoxTask, make_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
ROOT = Path(__file__).resolve().parents[2]
RECIPE = dataclasses.replace(RECIPES["edges"], epochs=6, augment="published")
FIGURES = ["train_loss", "val_loss", "val_mae"]


class Stopped(Exception):
    """Ends a training after an epoch."""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantom_store(tmp_path_factory.mktemp("phantoms"), 160, 96, validation_share=0.2, progress=False)


def train(folder, out, device, recipe=RECIPE, stop=0):
    """Train; return the network, its validation films and the history."""

    def on_epoch(epoch, answers, history):
        if epoch > stop > 0:
            raise Stopped

    films = CardiacDataset(folder, "train", recipe.augment, recipe.targets, recipe.rule, masks=True)
    val = CardiacDataset(folder, "val", targets=recipe.targets)
    torch.manual_seed(0)
    model = make_model(recipe, films)
    return model, val, fit(model, films, val, BoxTask(recipe), out, device=device, on_epoch=on_epoch, progress=False)


def test_mixed_precision_on_the_card_follows_the_curve_of_the_processor(phantoms, tmp_path):
    _, _, slow = train(phantoms, tmp_path / "cpu", "cpu")
    model, val, fast = train(phantoms, tmp_path / "cuda", "cuda")
    print(slow[FIGURES], fast[FIGURES], slow.attrs["seconds"] / fast.attrs["seconds"], sep="\n")
    np.testing.assert_allclose(fast[FIGURES].iloc[-1], slow[FIGURES].iloc[-1], rtol=0.15)
    assert fast["train_loss"].iloc[-1] < 0.7 * fast["train_loss"].iloc[0]
    # The network is on the processor again, and answers there what it answered on the card.
    predicted, _ = predict(model, val)
    truth = val.boxes.reshape(len(val), -1)[:, :4]
    assert np.abs(predicted[:, :4] - truth).mean() == pytest.approx(fast["val_mae"].iloc[-1], abs=0.05)


def test_a_run_on_the_card_goes_on_where_it_was_stopped_there_and_on_a_processor(phantoms, tmp_path):
    _, _, whole = train(phantoms, tmp_path / "whole", "cuda")
    with pytest.raises(Stopped):
        train(phantoms, tmp_path / "parts", "cuda", stop=4)
    _, _, parts = train(phantoms, tmp_path / "parts", "cuda")
    np.testing.assert_allclose(parts[FIGURES].iloc[:4], whole[FIGURES].iloc[:4], rtol=0.1)
    np.testing.assert_allclose(parts[FIGURES].iloc[-1], whole[FIGURES].iloc[-1], rtol=0.15)
    with pytest.raises(Stopped):
        train(phantoms, tmp_path / "elsewhere", "cuda", stop=4)
    _, _, elsewhere = train(phantoms, tmp_path / "elsewhere", "cpu")
    assert len(elsewhere) == RECIPE.epochs
    np.testing.assert_allclose(elsewhere[FIGURES].iloc[-1], whole[FIGURES].iloc[-1], rtol=0.15)


def test_torchrun_on_one_card_follows_the_curve_of_python_alone(tmp_path):
    folder = write_phantom_store(tmp_path / "phantoms", 36, 64, validation_share=1 / 3, progress=False)
    histories = {}
    for name, launcher in (("alone", []), ("shared", ["-m", "torch.distributed.run", "--standalone"])):
        done = subprocess.run(
            [sys.executable, *launcher, str(ROOT / "tests/shared_training.py"), folder, tmp_path / name, "plain"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "DEVICE": "cuda"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        histories[name] = pd.read_csv(tmp_path / name / "history.csv")
    print(histories)
    np.testing.assert_allclose(histories["shared"], histories["alone"], rtol=0.02)


def test_explanations_on_the_card_are_those_of_the_processor(phantoms, tmp_path):
    model, val, _ = train(phantoms, tmp_path, "cuda", dataclasses.replace(RECIPE, epochs=2))
    x = val[0][0][None]
    for explain in (smooth_gradients, occlusion_map):
        here, there = explain(model.cpu(), x), explain(model.cuda(), x.cuda()).cpu()
        assert torch.nn.functional.cosine_similarity(here.flatten(), there.flatten(), dim=0) > 0.98, explain.__name__


def test_the_orientation_head_learns_on_the_card(phantoms, tmp_path):
    model, _, _ = train(phantoms, tmp_path, "cuda", dataclasses.replace(RECIPE, epochs=2))
    films = CardiacDataset(phantoms, "train", targets=RECIPE.targets)
    x = films[0][0][None]
    before = model(x)
    fit_orientation(model, films, black_and_white=0.0, copies=1, device="cuda")
    assert torch.equal(model(x), before) and model.orientation_head is not None
