"""Train the released weights, calibrate their margins and write their model card.

    python benchmarks/release_weights.py DATA [--work FOLDER] [--out FILE]

DATA holds ctr/ (the public Cardiothoracic Ratio dataset), nih/ and hannover/ (films read by eye, read_films.py). The
network is trained with the recipe of the folds on all of them that the label audit did not exclude. Because it has seen
every film, its margins and the threshold of its flag are calibrated on the out-of-fold answers in the work folder of
accuracy.py and read_accuracy.py; missing ones are made. The orientation head then learns on the finished network; the
read NIH films are kept from it, so that failure_detection.py can measure it on them. Replaces
weights/heart-resnet18.pt and weights/MODEL_CARD.md, unless --out names another file.
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import masked_films
from common import ROOT, parser_for
from folds import (
    FOLDS,
    ILL_SHARE,
    PHANTOM_EPOCHS,
    PHANTOMS,
    ROWS,
    SEED,
    answer,
    fold_folder,
    mean_box_answer,
    prepare_folds,
    prepare_read_folds,
    pretrain,
    run_folder,
    summarise,
    train_one,
)
from read_accuracy import error_rows, flag_rows, margin_rows, pool, reading_row, second_in_pixels
from read_films import HANNOVER, NIH, UNREAD
from torch.utils.data import Subset

from cardiac_dataset import CardiacDataset
from heartbox.boxes import EDGES, HEART, box_iou
from heartbox.data.store import write_split
from heartbox.evaluation.conformal import CLEAR_SHARE, POWERS, calibrate, find_clear_std
from heartbox.evaluation.label_audit import audit_labels
from heartbox.evaluation.metrics import all_boxes, predict
from heartbox.models.config import Calibration
from heartbox.models.fetch import file_sha256
from heartbox.models.heads import BoxNet
from heartbox.models.weights import RELEASED_NAME, load_weights, save_weights
from heartbox.training.orientation import fit_orientation
from heartbox.training.recipes import Recipe
from heartbox.utils.atomic import complete_or_absent

WEIGHTS = ROOT / "weights" / RELEASED_NAME
ROW = "edges, read films"
TEMPLATE = Path(__file__).with_name("model_card_template.md")


def out_of_fold(work: Path, recipe: Recipe) -> list[dict]:
    """Return the answers of the folds."""
    keys = map(str, range(FOLDS))
    return [answer(fold_folder(work, ROW, key), recipe, run_folder(work, ROW, key), work) for key in keys]


def train_on_all(work: Path, recipe: Recipe) -> tuple[BoxNet, CardiacDataset, float]:
    """Train on every film that is not excluded and keep the weights of the last epoch, so that nothing is selected."""
    folder = work / "with-read" / "everything"
    # No film is held back. A few training films are watched, to see that the training works; they decide nothing.
    plain = CardiacDataset(folder, "train", targets=recipe.targets)
    whole = np.flatnonzero(~np.isnan(all_boxes(plain)).any(axis=1))
    return train_one(folder, recipe, run_folder(work, ROW, "everything"), SEED, Subset(plain, whole[:300:25].tolist()))


def learn_to_tell_orientation(model: BoxNet, films: pd.DataFrame, work: Path) -> int:
    """Train the orientation head on all films but the read NIH films; return on how many."""
    learn = ((films["fold"] >= 0) & (films["source"] != NIH)) | (films["source"] == UNREAD)
    folder = work / "with-read" / "orientation"
    write_split(work / "joint", folder, np.where(learn, "train", "unused"), "orientation")
    train = CardiacDataset(folder, "train", "strong")
    black_and_white = (1 - 2 * train.stats.mean) / train.stats.std
    fit_orientation(model, train, black_and_white, seed=SEED)
    return len(train)


def calibrate_on_all(folds: list[dict], films: pd.DataFrame) -> Calibration:
    """Calibrate margins on all answers, and the flag "undecided" on those of the read films."""
    joined = {key: np.concatenate([one[key] for one in folds]) for key in ("predicted", "std", "truth")}
    names = np.concatenate([one["names"] for one in folds])
    read = films.set_index("name").loc[names, "source"].eq(NIH).to_numpy()
    clear = find_clear_std(*(values[read] for values in joined.values()))
    return dataclasses.replace(calibrate(**joined, powers=POWERS), clear_std=clear)


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
    labels = prepare_folds(arguments.data / "ctr", work)
    films = prepare_read_folds(labels, arguments.data, work)
    answers = out_of_fold(work, recipe)
    folds = [masked_films(one) for one in answers]
    joined = {key: np.concatenate([one[key] for one in folds]) for key in ("names", "predicted", "truth")}
    print(audit_labels(joined["names"], joined["predicted"], joined["truth"]).head(20).to_string(index=False))
    calibration = calibrate_on_all(answers, films)
    start = dataclasses.replace(recipe, start=str(pretrain(work)))
    model, train, seconds = train_on_all(work, start)
    oriented = learn_to_tell_orientation(model, films, work)
    notes = {"targets": list(recipe.targets), "calibration": calibration, "recipe": ROW, "epochs": recipe.epochs}
    notes |= {"seed": SEED, "films": len(train)}
    save_weights(arguments.out, model, train.stats.as_dict(), half=True, **notes)
    small, _ = load_weights(arguments.out)
    plain = CardiacDataset(train.folder, "train", targets=recipe.targets)
    moved = np.abs(predict(small, plain)[0] - predict(model, plain)[0]).max()
    usable = labels[labels["fold"] >= 0]
    names = {source: set(films["name"]) for source, films in usable.groupby("source")}
    every = set(usable["name"])
    rows = [
        card_row("all", folds, every),
        card_row("folds 3 and 4", folds[3:], every),
        *(card_row({"jsrt": "JSRT", "wingspan": "Wingspan"}[source], folds, keep) for source, keep in names.items()),
    ]
    found = pool({str(k): one for k, one in enumerate(answers)}, second_in_pixels(films))
    read_rows = [reading_row(found), *error_rows("these weights' recipe", found)]
    always = summarise([mean_box_answer(work / "folds" / str(fold)) for fold in range(FOLDS)], every)
    iou = box_iou(joined["predicted"][:, HEART], joined["truth"][:, HEART])
    digest = file_sha256(arguments.out)
    card = TEMPLATE.read_text(encoding="utf-8").format(
        size=arguments.out.stat().st_size / 1e6,
        moved=moved,
        sha256=digest,
        short=digest[:8],
        date=datetime.date.today().isoformat(),
        films=len(usable),
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
        read=int((found["source"] == NIH).sum()),
        hannover=int((found["source"] == HANNOVER).sum()),
        oriented=oriented,
        ill=ILL_SHARE,
        read_rows="\n".join(read_rows),
        flag_row=flag_rows("these weights' recipe", found, [CLEAR_SHARE])[0],
        margin_rows="\n".join(margin_rows("these weights' recipe", found)[4:]),
        clear=calibration.clear_std,
        worst=", ".join(f"`{joined['names'][i]}` (IoU {iou[i]:.2f})" for i in np.argsort(iou)[:5]),
    )
    with complete_or_absent(arguments.out.with_name("MODEL_CARD.md")) as part:
        part.write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
