"""Train the released weights, calibrate their margins and write their model card.

    python benchmarks/release_weights.py DATA [--work FOLDER] [--out FILE]

DATA is the folder of the public Cardiothoracic Ratio dataset. The network is trained with the recipe of the folds on
all films that the label audit did not exclude. Because it has seen every film, its margins are calibrated on the
out-of-fold answers in the work folder of accuracy.py; missing ones are made. Replaces weights/heart-resnet18.pt and
weights/MODEL_CARD.md, unless --out names another file.
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import ROOT, parser_for
from folds import (
    CROSS,
    FOLDS,
    PHANTOM_EPOCHS,
    PHANTOMS,
    ROWS,
    SEED,
    answer,
    calibrate_on_others,
    mean_box_answer,
    prepare_folds,
    pretrain,
    summarise,
    train_one,
)
from torch.utils.data import Subset

from cardiac_dataset import CardiacDataset
from heartbox.boxes import EDGES, HEART, box_iou
from heartbox.data.store import write_split
from heartbox.evaluation.conformal import calibrate
from heartbox.evaluation.label_audit import audit_labels
from heartbox.evaluation.metrics import predict
from heartbox.inference.quality_checks import is_surer
from heartbox.models.fetch import file_sha256
from heartbox.models.weights import RELEASED_NAME, load_weights, save_weights
from heartbox.training.recipes import Recipe
from heartbox.utils.atomic import complete_or_absent

WEIGHTS = ROOT / "weights" / RELEASED_NAME
ROW = "edges"
TEMPLATE = Path(__file__).with_name("model_card_template.md")


def out_of_fold(work: Path, recipe: Recipe, names: list[str]) -> list[dict]:
    """Return the answers of the folds or crossings with these names."""
    return [answer(work / "folds" / name, recipe, work / "runs" / ROW / name, work) for name in names]


def train_on_all(labels: pd.DataFrame, work: Path, recipe: Recipe) -> tuple[torch.nn.Module, CardiacDataset, float]:
    """Train on every film that is not excluded and keep the weights of the last epoch, so that nothing is selected."""
    folder = work / "folds" / "everything"
    write_split(work / "processed", folder, np.where(labels["fold"] >= 0, "train", "unused"), "everything")
    # No film is held back. A few training films are watched, to see that the training works; they decide nothing.
    plain = CardiacDataset(folder, "train", targets=recipe.targets)
    watched = Subset(plain, range(0, len(plain), 25))
    return train_one(folder, recipe, work / "runs" / "everything", SEED, watched)


def flagged(folds: list[dict]) -> np.ndarray:
    """Return for each film whether the network was undecided or more confident when the film is mirrored.

    The threshold for "undecided" comes from the other folds.
    """
    found = []
    for k, fold in enumerate(folds):
        asis, mirrored = (fold[key][:, HEART].mean(axis=1) for key in ("std", "std_mirrored"))
        found.append((asis > calibrate_on_others(folds, k).usual_std) | is_surer(mirrored, asis))
    return np.concatenate(found)


def card_row(name: str, answers: list[dict], keep: set[str]) -> str:
    """Return one line of the card's table."""
    row = summarise(answers, keep)
    edges = " | ".join(f"{row[f'mae_{edge}']:.2f}" for edge in EDGES)
    covered = "-"
    if "coverage_ctr" in row:
        covered = " / ".join(f"{row[f'coverage_{key}']:.0%}" for key in (*EDGES, "ctr"))
    return (
        f"| {name} ({row['images']}) | {edges} | {row['mae']:.2f} | {row['iou_mean']:.3f} "
        f"| {row['iou_above_0.75']:.0%} | {row['iou_worst']:.2f} | {row['thorax_mae']:.2f} | {row['ctr_mae']:.4f} "
        f"| {covered} |"
    )


def main() -> None:
    """Train, calibrate, save, describe."""
    parser = parser_for(__doc__)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    work, recipe = arguments.work, ROWS[ROW]
    labels = prepare_folds(arguments.data, work)
    folds = out_of_fold(work, recipe, [str(fold) for fold in range(FOLDS)])
    joined = {key: np.concatenate([one[key] for one in folds]) for key in ("names", "predicted", "std", "truth")}
    print(audit_labels(joined["names"], joined["predicted"], joined["truth"]).head(20).to_string(index=False))
    calibration = calibrate(joined["predicted"], joined["std"], joined["truth"])
    start = dataclasses.replace(recipe, start=str(pretrain(work)))
    model, train, seconds = train_on_all(labels, work, start)
    notes = {"targets": list(recipe.targets), "calibration": calibration, "recipe": ROW, "epochs": recipe.epochs}
    notes |= {"seed": SEED, "films": len(train)}
    save_weights(arguments.out, model, train.stats.as_dict(), half=True, **notes)
    small, _ = load_weights(arguments.out)
    plain = CardiacDataset(train.folder, "train", targets=recipe.targets)
    moved = np.abs(predict(small, plain)[0] - predict(model, plain)[0]).max()
    usable = labels[labels["fold"] >= 0]
    names = {source: set(films["name"]) for source, films in usable.groupby("source")}
    every = set(usable["name"])
    crossings = {key: out_of_fold(work, recipe, [key]) for key in CROSS}
    rows = [
        card_row("all", folds, every),
        card_row("folds 1 to 4", folds, set(usable["name"][usable["fold"] > 0])),
        *(card_row({"jsrt": "JSRT", "wingspan": "Wingspan"}[source], folds, keep) for source, keep in names.items()),
        *(
            card_row(f"trained on one, tested on the other: {key}", answers, every)
            for key, answers in crossings.items()
        ),
    ]
    always = summarise([mean_box_answer(work / "folds" / str(fold)) for fold in range(FOLDS)], every)
    iou = box_iou(joined["predicted"][:, HEART], joined["truth"][:, HEART])
    digest = file_sha256(arguments.out)
    card = TEMPLATE.read_text(encoding="utf-8").format(
        size=arguments.out.stat().st_size / 1e6,
        moved=moved,
        sha256=digest,
        short=digest[:8],
        date=datetime.date.today().isoformat(),
        films=len(train),
        jsrt=len(names["jsrt"]),
        wingspan=len(names["wingspan"]),
        excluded=int((labels["fold"] < 0).sum()),
        phantoms=PHANTOMS,
        phantom_epochs=PHANTOM_EPOCHS,
        epochs=recipe.epochs,
        small=recipe.small_share,
        rate=recipe.learning_rate,
        batch=recipe.batch_size,
        seed=SEED,
        minutes=seconds / 60,
        rows="\n".join(rows),
        mean_box=always["mae"],
        mean_iou=always["iou_mean"],
        flagged=np.mean(flagged(folds)),
        worst=", ".join(f"`{joined['names'][i]}` (IoU {iou[i]:.2f})" for i in np.argsort(iou)[:5]),
    )
    with complete_or_absent(arguments.out.with_name("MODEL_CARD.md")) as part:
        part.write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
