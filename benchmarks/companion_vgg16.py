"""VGG16 on real films: as published and mended, beside the mean box, on one split by patient.

    python benchmarks/companion_vgg16.py DATA [--work FOLDER] [--rows NAME ...] [--as-is]

DATA is the folder of the public Cardiothoracic Ratio dataset. The films are prepared by heartbox.data.prepare, fold 0 of
benchmarks/accuracy.py is held back, and both sides are written out as the .npy folder with a csv of boxes that
companions/VGG16-Heart-Detection.ipynb reads; from there on all is done as in that notebook. One training a row, the
last epoch's weights; nothing is chosen on the films that are measured.

Every training has its checkpoints and answers under --work: a run that is stopped goes on, a row that is done is not
repeated. Writes benchmarks/results/companion_vgg16.md with the rows there are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from folds import prepare_folds

from companions.vgg16.data import export_npy, prepare_npy
from companions.vgg16.model import (
    RECIPES,
    VggRecipe,
    build,
    compare,
    difference_by_layer,
    first_films,
    load_sides,
    train_vgg,
)
from heartbox.evaluation.metrics import predict
from heartbox.utils.atomic import complete_or_absent

RESULTS = Path(__file__).resolve().parent / "results"
SEED, SIZE = 0, 96
ROWS: dict[str, VggRecipe] = {
    "mended": RECIPES["mended"],
    "published": dataclasses.replace(RECIPES["published"], epochs=8),
}


def answer(name: str, processed: Path, work: Path) -> dict[str, np.ndarray]:
    """Train a row and answer the validation films, or load what an earlier run answered."""
    recipe, out = ROWS[name], work / "runs" / name
    labels = (processed / "labels.csv").read_text(encoding="utf-8")
    settings = json.dumps({"recipe": dataclasses.asdict(recipe), "seed": SEED, "films": labels}, sort_keys=True)
    path = out / "answers.npz"
    if path.is_file():
        found = dict(np.load(path))
        if str(found["settings"]) == settings:
            return found
    print(f"{name}: {recipe.epochs} epochs", flush=True)
    model, history = train_vgg(recipe, processed, out, SEED, progress=sys.stdout.isatty(), on_epoch=_tell)
    found = measure(model, recipe, processed, len(history), history.attrs["seconds"])
    with complete_or_absent(path) as part:
        np.savez(part, **found, settings=np.array(settings))
    shutil.rmtree(out / "checkpoints")  # 2 GB, of no more use
    return found


def answer_as_is(name: str, processed: Path, work: Path) -> dict[str, np.ndarray] | None:
    """Answer the validation films with a training where it stands; None where it has not begun."""
    out = work / "runs" / name
    if (out / "answers.npz").is_file():
        return answer(name, processed, work)
    if not (out / "checkpoints" / "last.pt").is_file():
        return None
    saved = torch.load(out / "checkpoints" / "last.pt", map_location="cpu", weights_only=True)
    train, _ = load_sides(processed, ROWS[name])
    model = build(ROWS[name], train, SEED)
    model.load_state_dict(saved["average"] or saved["model"])
    return measure(model, ROWS[name], processed, saved["epoch"], saved["seconds"])


def measure(model: nn.Module, recipe: VggRecipe, processed: Path, epochs: int, seconds: float) -> dict[str, np.ndarray]:
    """Answer the validation films, and look at what the layers make of them."""
    _, val = load_sides(processed, recipe)
    layers = difference_by_layer(model, first_films(val))
    return {
        "predicted": predict(model, val)[0],
        "layers": layers.index.to_numpy(dtype=str),
        "differences": layers["difference"].to_numpy(),
        "directions": layers["directions"].to_numpy(),
        "epochs": np.array(epochs),
        "seconds": np.array(seconds),
    }


def _tell(epoch: int, _: np.ndarray, history: pd.DataFrame) -> None:
    last = history.iloc[-1]
    print(f"  epoch {epoch}: loss {last['train_loss']:.4g}, error {last['val_mae']:.2f} px at {SIZE}", flush=True)


def write_results(answers: dict[str, dict], processed: Path) -> None:
    """Write the table of the rows there are."""
    train, val = load_sides(processed, next(iter(ROWS.values())))
    table = compare({name: found["predicted"] for name, found in answers.items()}, train, val)
    lines = [
        f"{len(train)} films to train on and {len(val)} measured: fold 0 of benchmarks/accuracy.py, by patient (the",
        "files name none, so each film counts as one); films in heartbox/ctr_excluded.csv are left out. Images of",
        f"{SIZE} px, boxes only (no masks), seed {SEED}, from scratch, one training a row, the last epoch's weights;",
        "nothing was chosen on the films that are measured. Errors in pixels at 224, squared for the MSE. *Varies*:",
        "how much the answers differ from film to film, as a share of how much the labels do (standard deviations).",
        "Seconds are of one busy machine and mean something beside each other only.",
        "Written by `python benchmarks/companion_vgg16.py DATA`.",
        "",
        "| network | epochs | error | skill | MSE | IoU | worst | varies | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in table.iterrows():
        found = answers.get(name)
        epochs, seconds = "-", "-"
        if found:
            epochs, seconds = int(found["epochs"]), f"{float(found['seconds']):.0f}"
            if epochs < ROWS[name].epochs:
                epochs = f"{epochs} of {ROWS[name].epochs}"
        lines.append(
            f"| {name} | {epochs} | {row['mae']:.2f} | {row['skill']:.2f} | {row['mse']:.0f} | {row['iou_mean']:.3f} "
            f"| {row['iou_worst']:.2f} | {row['varies']:.0%} | {seconds} |"
        )
    lines += ["", "How much 16 of the measured films differ at each layer, as a share of what the layer puts out;"]
    lines += ["in brackets, in how many independent directions:", ""]
    for name, found in answers.items():
        rows = zip(found["layers"], found["differences"], found["directions"], strict=True)
        lines.append(f"- {name}: " + ", ".join(f"{layer} {share:.2%} ({ways:.1f})" for layer, share, ways in rows))
    missing = [name for name in ROWS if name not in answers]
    if missing:
        lines += ["", f"Not measured yet: {'; '.join(missing)}."]
    text = "\n".join(lines) + "\n"
    with complete_or_absent(RESULTS / "companion_vgg16.md") as part:
        part.write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    """Train what is not trained yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--as-is", action="store_true", help="train nothing; measure trainings where they stand")
    arguments = parser.parse_args()
    work = arguments.work / "vgg16"
    if arguments.as_is:
        found = {name: answer_as_is(name, work / "processed", work) for name in ROWS}
        write_results({name: one for name, one in found.items() if one}, work / "processed")
        return
    prepare_folds(arguments.data, arguments.work)
    export_npy(arguments.work / "folds" / "0", work / "npy")
    prepared = prepare_npy(work / "npy", work / "processed", SIZE)
    print(prepared.summary())
    answers = {}
    for name in ROWS:
        if name in arguments.rows or (work / "runs" / name / "answers.npz").is_file():
            answers[name] = answer(name, work / "processed", work)
            write_results(answers, work / "processed")


if __name__ == "__main__":
    main()
