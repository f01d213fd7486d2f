"""What several test files share: real data where there is some, small made folders, a small processed folder."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")  # no screen is needed to draw
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from heartbox.networks import build_model  # noqa: E402
from heartbox.processed import outlines_and_coverage  # noqa: E402
from heartbox.weights import save_weights  # noqa: E402


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real X-rays, or skip."""
    named = os.environ.get("CARDIAC_TEST_DATA")
    if not named:
        pytest.skip("real X-rays wanted: set CARDIAC_TEST_DATA to the folder that holds ctr/ and dicom/")
    return Path(named)


def draw_disc(size: int, centre: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
    """Return an ellipse of ones on zeros, with borders that are smooth to a part of a pixel."""
    fine = 8
    y, x = (np.mgrid[: size * fine, : size * fine] + 0.5) / fine
    inside = ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 <= 1
    return inside.reshape(size, fine, size, fine).mean(axis=(1, 3)).astype(np.float32)


def write_processed(
    folder: Path, train: int, val: int, size: int = 64, thorax: bool = True, masks: bool = False
) -> Path:
    """Write a processed folder of bright ellipses on noise, whose boxes are known."""
    rng = np.random.default_rng(0)
    images, rows, truths = [], [], []
    for i in range(train + val):
        centre = rng.uniform(0.4, 0.6, 2) * size
        half = rng.uniform(0.12, 0.28, 2) * size
        images.append(0.7 * draw_disc(size, tuple(centre), tuple(half)) + rng.uniform(0, 0.2, (size, size)))
        box = [*(centre - half), *(centre + half)]
        chest = [2.0, 3.0, size - 2.0, size - 3.0] if thorax else [np.nan] * 4
        rows.append([f"film-{i:03d}", "made", "train" if i < train else "val", *box, *chest, size, size, ""])
        whole = np.zeros((2 * size, 2 * size), dtype=bool)
        whole[6 : 2 * size - 6, 4 : 2 * size - 4] = True
        heart = draw_disc(2 * size, tuple(2 * centre), tuple(2 * half)) > 0.5
        truths.append(outlines_and_coverage([[heart], [whole]], size))
    edges = ("x_min", "y_min", "x_max", "y_max")
    columns = [f"{target}_{edge}" for target in ("heart", "thorax") for edge in edges]
    columns = ["name", "source", "split", *columns, "rows", "columns", "pixel_spacing"]
    folder.mkdir(parents=True, exist_ok=True)
    stack = np.array(images, dtype=np.float16)
    np.save(folder / "images.npy", stack)
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels.csv", index=False)
    patients = {"name": [row[0] for row in rows], "patient": range(len(rows))}
    pd.DataFrame(patients).to_csv(folder / "patients.csv", index=False)
    if masks:
        np.save(folder / "outlines.npy", np.stack([outlines for outlines, _ in truths]))
        np.save(folder / "masks.npy", np.stack([coverage for _, coverage in truths]))
    part = stack[:train].astype(np.float64)
    stats = {"mean": part.mean(), "std": part.std(), "size": size, "layout": "made", "seed": 0, "split": "made"}
    stats["counts"] = {"train": train, "val": val, "skipped": 0, "low_contrast": 0}
    (folder / "stats.json").write_text(json.dumps(stats))
    return folder


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
