"""Train the released weights, calibrate their margins and write their model card.

    python benchmarks/release.py DATA [--work FOLDER]

DATA is the folder of the public Cardiothoracic Ratio dataset. Out-of-fold answers are taken from the work folder of
benchmarks/accuracy.py, and made where they are missing: the margins are calibrated on those, since the released
network has seen every film. It is trained on all films that the label audit left, with the recipe of the folds.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from accuracy import FOLDS, ROWS, SEED, answer, prepare_folds, pretrain
from torch.utils.data import Subset

from cardiac_dataset import CardiacDataset
from heartbox.calibration import calibrate
from heartbox.measuring import audit_labels, predict
from heartbox.processed import write_split
from heartbox.training import Recipe, dataclasses, fit, make_model
from heartbox.weights import file_sha256, load_weights, save_weights

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights" / "heart-resnet18.pt"
ROW = "edges"


def out_of_fold(work: Path, recipe: Recipe, names: list[str]) -> list[dict]:
    """Answers of the folds or crossings of those names."""
    return [answer(work / "folds" / name, recipe, work / "runs" / ROW / name, work) for name in names]


def train_on_all(labels: pd.DataFrame, work: Path, recipe: Recipe) -> tuple[torch.nn.Module, CardiacDataset]:
    """Train on every film that is not left out; the last epoch's weights, so nothing is chosen."""
    folder = work / "folds" / "everything"
    write_split(work / "processed", folder, np.where(labels["fold"] >= 0, "train", "unused"))
    train = CardiacDataset(folder, "train", recipe.augment, recipe.targets, recipe.rule, bool(recipe.mask_weight))
    # No film is held back. A few of the training films are watched, to see that it runs; they decide nothing.
    watched = Subset(CardiacDataset(folder, "train", targets=recipe.targets), range(0, len(train), 25))
    torch.manual_seed(SEED)
    model = make_model(recipe, train)
    fit(model, train, watched, recipe, work / "runs" / "everything", seed=SEED, progress=sys.stdout.isatty())
    return model, train


def main() -> None:
    """Train, calibrate, save, describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    work, recipe = arguments.work, ROWS[ROW]
    labels = prepare_folds(arguments.data, work)
    folds = out_of_fold(work, recipe, [str(fold) for fold in range(FOLDS)])
    joined = {key: np.concatenate([one[key] for one in folds]) for key in ("names", "predicted", "spread", "truth")}
    print(audit_labels(joined["names"], joined["predicted"], joined["truth"]).head(20).to_string(index=False))
    calibration = calibrate(joined["predicted"], joined["spread"], joined["truth"])
    start = dataclasses.replace(recipe, start=str(pretrain(work)))
    model, train = train_on_all(labels, work, start)
    notes = {"targets": list(recipe.targets), "calibration": calibration, "recipe": ROW, "epochs": recipe.epochs}
    notes |= {"seed": SEED, "films": len(train), "date": datetime.date.today().isoformat()}
    save_weights(arguments.out, model, train.stats, half=True, **notes)
    small, _ = load_weights(arguments.out)
    plain = CardiacDataset(train.folder, "train", targets=recipe.targets)
    moved = np.abs(predict(small, plain)[0] - predict(model, plain)[0]).max()
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, SHA-256 {file_sha256(arguments.out)}")
    print(f"half precision moves an edge by {moved:.3f} px at most")


if __name__ == "__main__":
    main()
