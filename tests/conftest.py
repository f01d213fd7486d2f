"""What several test files share: real data where there is some, small made folders, a small processed folder."""

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from helpers import copy_companion, execute, solve, write_processed

os.environ.setdefault("MPLBACKEND", "Agg")  # no screen is needed to draw

from heartbox.models.build import build_model
from heartbox.models.weights import save_weights
from heartbox.phantom import write_phantoms


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real X-rays, or skip."""
    named = os.environ.get("CARDIAC_TEST_DATA")
    if not named:
        pytest.skip("real X-rays wanted: set CARDIAC_TEST_DATA to the folder that holds ctr/ and dicom/")
    return Path(named)


@pytest.fixture(scope="session")
def processed(tmp_path_factory) -> Path:
    """Return a processed folder of 24 training and 12 validation images of 64 px."""
    return write_processed(tmp_path_factory.mktemp("processed"), 24, 12)


@pytest.fixture(scope="session")
def processed_with_masks(tmp_path_factory) -> Path:
    """Return the same films as `processed`, with their masks."""
    return write_processed(tmp_path_factory.mktemp("with-masks"), 24, 12, masks=True)


@pytest.fixture(scope="session")
def written_weights(tmp_path_factory) -> Path:
    """Return weights of a network that always answers the same boxes (at 64 px), whatever it sees."""
    model = build_model("resnet18", "regression", targets=("heart", "thorax"), size=64)
    torch.nn.init.zeros_(model.last_layer.weight)
    model.start_at(torch.tensor([20.0, 16, 40, 40, 12, 8, 52, 56]))
    factors = [2.0, 4, 2, 4, 2, 4, 2, 4]
    calibration = {"level": 0.9, "images": 50, "scaled": False, "factors": factors, "ctr_factor": 0.05}
    stats = {"mean": 0.5, "std": 0.25, "layout": "made"}
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(path, model, stats, targets=["heart", "thorax"], calibration=calibration)
    return path


@pytest.fixture
def weights(written_weights, tmp_path) -> Path:
    """Return a copy of those weights that the test may spoil."""
    return Path(shutil.copy(written_weights, tmp_path / "model.pt"))


@pytest.fixture(scope="session")
def phantom_pixels(tmp_path_factory) -> np.ndarray:
    """Return the stored values of one phantom film, 12 bit, (rows, columns) and not square."""
    folder = tmp_path_factory.mktemp("syntaxes")
    row = write_phantoms(folder, count=1, size=256, progress=False).iloc[0]
    film = pydicom.dcmread(folder / "stage_2_train_images" / f"{row['name']}.dcm")
    pixels = film.pixel_array.astype(np.float64)[:, 8:-8]
    pixels -= pixels.min()
    return np.rint(pixels / pixels.max() * 4095).astype(np.uint16)


@pytest.fixture(scope="session")
def solved_companion(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that runs a companion once, with its solutions in place of the answers, and gives its folder.

    After each solution other answers are checked, right and wrong. Two tests look at each run: one at the exercises,
    one at what the notebook prints and writes.
    """

    @functools.cache
    def run(name: str) -> Path:
        folder = copy_companion(tmp_path_factory.mktemp("companion") / "copy")
        solve(folder / name)
        done = execute(folder, [name])
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return run
