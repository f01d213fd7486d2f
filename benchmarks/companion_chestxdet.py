"""How well the companion on ChestX-Det10 does on real films: both stages, on films that nothing was chosen on.

    python benchmarks/companion_chestxdet.py DATA [--work FOLDER] [--folds K ...] [--epochs N] [--backbone NAME] ...

DATA is a folder in one of the layouts of companions/chestxdet/layouts.py. NIH films bring no test split: five folds by
patient, each film answered by networks that were trained without its patient, and whose settings and thresholds were
chosen on a fold of others. ChestX-Det and ChestX-Det10 bring a test split, so there is one fold.

Everything has its checkpoints under --work: an interrupted run continues, a finished fold is not repeated, and the
table of all finished folds is written each time, to benchmarks/results/companion_chestxdet.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from companions.chestxdet.data import SPLITS, AbnormalityDataset, Collection, FindingsDataset, prepare
from companions.chestxdet.layouts import recognise_layout
from companions.chestxdet.metrics import average_precision, mean_boxes, threshold_at_floor
from companions.chestxdet.model import (
    DetectionRecipe,
    DetectionTask,
    detect_findings,
    make_detector,
    predict_scores,
    train_small_cnn,
)
from companions.chestxdet.tuning import tune
from companions.pneumonia.metrics import auroc, wilson_interval
from heartbox.data.splits import TRAIN
from heartbox.training.loop import fit
from heartbox.utils.atomic import complete_or_absent

RESULTS = Path(__file__).resolve().parent / "results"
SEED, FLOOR, SIZE = 0, 0.8, 128
TRIALS, TRIAL_EPOCHS, FINAL_EPOCHS = 6, 3, 10


def measure_stage1(films: Collection, work: Path) -> dict:
    """Tune, train and answer stage 1 on one fold, with the threshold chosen on the validation films."""
    train, val, test = (AbnormalityDataset(films, split, SIZE, augment=split == TRAIN) for split in SPLITS)
    study = tune(train, val, work / "study", TRIALS, TRIAL_EPOCHS, FLOOR, SEED, sys.stdout.isatty())
    model, _, _ = train_small_cnn(study.best_params, train, val, work / "normal", FINAL_EPOCHS, FLOOR, SEED)
    chosen = threshold_at_floor(predict_scores(model, val), val.abnormal, FLOOR)
    scores = predict_scores(model, test)
    return {
        "auc": auroc(test.abnormal, scores),
        "called": (scores >= chosen["threshold"]).tolist(),
        "abnormal": test.abnormal.astype(bool).tolist(),
    }


def measure_stage2(films: Collection, recipe: DetectionRecipe, work: Path) -> dict:
    """Train and answer stage 2 on one fold, beside the mean boxes."""
    train, val, test = (
        FindingsDataset(films, "train", augment=True),
        FindingsDataset(films, "val"),
        FindingsDataset(films, "test"),
    )
    model = make_detector(recipe, len(films.findings), SEED)
    task = DetectionTask(recipe, films.findings)
    history = fit(model, train, val, task, work / "detector", seed=SEED, progress=sys.stdout.isatty())
    return {
        "answers": detect_findings(model, test),
        "mean_boxes": mean_boxes(train, len(test)),
        "truth": test.truths(),
        "findings": list(films.findings),
        "started_from": model.started_from,
        "trained_on": len(train),
        "val_map50": [float(value) for value in history["val_map50"]],
    }


def measure(data: Path, work: Path, fold: int, recipe: DetectionRecipe) -> dict:
    """Measure one fold, or load what an earlier run measured with the same settings on the same films."""
    films = prepare(data, work / "films", recipe.size, seed=SEED, fold=fold, progress=sys.stdout.isatty())
    constants = [SEED, FLOOR, SIZE, TRIALS, TRIAL_EPOCHS, FINAL_EPOCHS]
    settings = json.dumps([dataclasses.asdict(recipe), constants, films.stats["checksum"]])
    path = work / "measured.pt"
    if path.is_file():
        found = torch.load(path, weights_only=True)
        if found["settings"] == settings:
            return found
    print(f"fold {fold}: {films.films['split'].value_counts().to_dict()} films", flush=True)
    found = {"settings": settings, "layout": films.stats["layout"], "problems": len(films.problems)}
    found["stage1"] = measure_stage1(films, work)
    found["stage2"] = measure_stage2(films, recipe, work)
    with complete_or_absent(path) as part:
        torch.save(found, part)
    return found


def as_markdown(folds: list[dict], wanted: int, recipe: DetectionRecipe) -> str:
    """Write the table for a reader."""
    called = np.concatenate([fold["stage1"]["called"] for fold in folds])
    abnormal = np.concatenate([fold["stage1"]["abnormal"] for fold in folds])
    auc = [fold["stage1"]["auc"] for fold in folds]
    answers, constant, truth = (
        [one for fold in folds for one in fold["stage2"][key]] for key in ("answers", "mean_boxes", "truth")
    )
    findings, start = folds[0]["stage2"]["findings"], folds[0]["stage2"]["started_from"] or "nothing"
    measured = {"detector": average_precision(answers, truth, findings)}
    measured["mean boxes"] = average_precision(constant, truth, findings)
    split = "five folds by patient, each film answered out of fold" if wanted > 1 else "the dataset's own test split"
    trained = " / ".join(str(fold["stage2"]["trained_on"]) for fold in folds)
    recall, specificity = _share(called & abnormal, abnormal), _share(~called & ~abnormal, ~abnormal)
    lines = [
        f"{folds[0]['layout']} films, seed {SEED}, {split}; {len(folds)} of {wanted} folds measured. Settings,",
        "thresholds and nothing else were chosen on validation films of other patients. "
        f"{folds[0]['problems']} problems in the data.",
        f"Written by `python benchmarks/companion_chestxdet.py DATA --epochs {recipe.epochs}`.",
        "",
        f"**Stage 1, normal or abnormal**: {len(abnormal)} films, {int(abnormal.sum())} abnormal; small CNN at",
        f"{SIZE} px, {TRIALS} trials of {TRIAL_EPOCHS} epochs, then {FINAL_EPOCHS} epochs; floor on specificity",
        f"{FLOOR} on the validation films.",
        "In brackets Wilson's 95 % interval.",
        "",
        "| | recall | specificity | area under the ROC curve, mean of the folds |",
        "|---|---|---|---|",
        f"| small CNN | {recall} | {specificity} | {np.mean(auc):.3f} |",
        "| everything is abnormal | 1.00 | 0.00 | 0.500 |",
        "",
        "**Stage 2, which finding and where**:",
        f"{len(truth)} films whose boxes are known, {measured['detector'].boxes.sum()}",
        f"boxes; Faster R-CNN, {recipe.backbone}-FPN started from {start}, {recipe.size} px, {recipe.epochs} epochs on",
        f"{trained} films, last epoch's weights. *Mean boxes*: those of the training",
        "films, the same for every film.",
        "",
        "| average precision | boxes | detector, IoU 0.3 | detector, IoU 0.5 | mean boxes, 0.3 | mean boxes, 0.5 |",
        "|---|---|---|---|---|---|",
    ]
    pairs = [(name, iou) for name in measured for iou in (0.3, 0.5)]
    for k, finding in enumerate(findings):
        cells = " | ".join(f"{measured[name].at(iou)[k]:.3f}" for name, iou in pairs)
        lines.append(f"| {finding} | {measured['detector'].boxes[k]} | {cells} |")
    if len(findings) > 1:
        cells = " | ".join(f"{measured[name].map(iou):.3f}" for name, iou in pairs)
        lines.append(f"| mean | {measured['detector'].boxes.sum()} | {cells} |")
    return "\n".join(lines) + "\n"


def _share(right: np.ndarray, of: np.ndarray) -> str:
    low, high = wilson_interval(int(right.sum()), int(of.sum()))
    return f"{right.sum() / of.sum():.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Measure what is not measured yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark-chestxdet"))
    parser.add_argument("--folds", type=int, nargs="*", help="only these; the table has all that were measured")
    parser.add_argument("--epochs", type=int, default=10, help="of the detector")
    parser.add_argument("--backbone", default="resnet18", help="resnet18, or resnet50 where there is a GPU")
    parser.add_argument("--start", default="heart", help="see companions.chestxdet.model.DetectionRecipe")
    parser.add_argument("--size", type=int, default=224, help="side of the films, pixels")
    parser.add_argument("--out", type=Path, default=RESULTS / "companion_chestxdet.md")
    arguments = parser.parse_args()
    recipe = DetectionRecipe(epochs=arguments.epochs, batch_size=2, learning_rate=1.5e-3, backbone=arguments.backbone,
                       start=arguments.start, size=arguments.size)  # fmt: skip
    layout = recognise_layout(arguments.data)
    if layout is None:
        raise SystemExit(f"{arguments.data}: none of the layouts of companions/chestxdet/layouts.py lies here")
    count = 5 if layout == "NIH" else 1
    done = []
    for fold in range(count):
        work = arguments.work / f"fold-{fold}"
        if arguments.folds is None or fold in arguments.folds or (work / "measured.pt").is_file():
            done.append(measure(arguments.data, work, fold, recipe))
    text = as_markdown(done, count, recipe)
    with complete_or_absent(arguments.out) as part:
        part.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
