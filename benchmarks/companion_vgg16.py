"""VGG16 on real X-rays: as published and mended, beside the mean box, on one split by patient.

    python benchmarks/companion_vgg16.py DATA [--work FOLDER] [--rows NAME ...] [--as-is]

DATA is the folder of the public Cardiothoracic Ratio dataset. The images are prepared by heartbox.data.prepare, fold 0
of benchmarks/accuracy.py validates, and both splits are written out as the .npy folder with a csv of boxes that
companions/VGG16-Heart-Detection.ipynb reads. From there on everything is done as in that notebook. One training per
row, the weights of the last epoch; nothing is chosen on the validation images.

Checkpoints and predictions of every training lie under --work: a stopped run continues, a finished row is not
repeated. Writes benchmarks/results/companion_vgg16.md with the rows that are available.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from folds import prepare_folds

from companions.vgg16.data import export_npy, prepare_npy
from companions.vgg16.metrics import compare, difference_by_layer, first_images
from companions.vgg16.model import RECIPES, VggRecipe, build_network, load_splits, train_network
from heartbox.evaluation.metrics import predict
from heartbox.models.heads import BoxNet
from heartbox.utils.atomic import complete_or_absent

RESULTS = Path(__file__).resolve().parent / "results"
SEED, SIZE = 0, 96
ROWS: dict[str, VggRecipe] = {
    "mended": RECIPES["mended"],
    "published": dataclasses.replace(RECIPES["published"], epochs=8),
}


def run_row(name: str, processed: Path, work: Path) -> dict[str, np.ndarray]:
    """Train the network of a row and measure it, or load the result of an earlier run."""
    recipe, out = ROWS[name], work / "runs" / name
    labels = (processed / "labels.csv").read_text(encoding="utf-8")
    settings = json.dumps({"recipe": dataclasses.asdict(recipe), "seed": SEED, "films": labels}, sort_keys=True)
    path = out / "answers.npz"
    if path.is_file():
        measured = dict(np.load(path))
        if str(measured["settings"]) == settings:
            return measured
    print(f"{name}: {recipe.epochs} epochs", flush=True)
    model, history = train_network(recipe, processed, out, SEED, progress=sys.stdout.isatty(), on_epoch=_report)
    measured = measure(model, recipe, processed, len(history), history.attrs["seconds"])
    with complete_or_absent(path) as part:
        np.savez(part, **measured, settings=np.array(settings))
    shutil.rmtree(out / "checkpoints")  # 2 GB, no longer needed
    return measured


def measure_as_is(name: str, processed: Path, work: Path) -> dict[str, np.ndarray] | None:
    """Measure a training at its last checkpoint; None if it has not started."""
    out = work / "runs" / name
    if (out / "answers.npz").is_file():
        return run_row(name, processed, work)
    if not (out / "checkpoints" / "last.pt").is_file():
        return None
    saved = torch.load(out / "checkpoints" / "last.pt", map_location="cpu", weights_only=True)
    train, _ = load_splits(processed, ROWS[name])
    model = build_network(ROWS[name], train, SEED)
    model.load_state_dict(saved["average"] or saved["model"])
    return measure(model, ROWS[name], processed, saved["epoch"], saved["seconds"])


def measure(model: BoxNet, recipe: VggRecipe, processed: Path, epochs: int, seconds: float) -> dict[str, np.ndarray]:
    """Predict the validation images, and measure how much they differ at each layer."""
    _, val = load_splits(processed, recipe)
    layers = difference_by_layer(model, first_images(val))
    return {
        "predicted": predict(model, val)[0],
        "layers": layers.index.to_numpy(dtype=str),
        "differences": layers["difference"].to_numpy(),
        "directions": layers["directions"].to_numpy(),
        "epochs": np.array(epochs),
        "seconds": np.array(seconds),
    }


def _report(epoch: int, _: np.ndarray, history: pd.DataFrame) -> None:
    last = history.iloc[-1]
    print(f"  epoch {epoch}: loss {last['train_loss']:.4g}, error {last['val_mae']:.2f} px at {SIZE}", flush=True)


def write_results(results: dict[str, dict], processed: Path) -> None:
    """Write the table of the available rows."""
    train, val = load_splits(processed, next(iter(ROWS.values())))
    table = compare({name: result["predicted"] for name, result in results.items()}, train, val)
    lines = [
        f"{len(train)} training and {len(val)} validation images: fold 0 of benchmarks/accuracy.py, by patient (the",
        "files name no patient, so each image counts as one); images in heartbox/data/ctr_excluded.csv are left out.",
        f"Images of {SIZE} px, boxes only (no masks), seed {SEED}, from scratch, one training per row, weights of the",
        "last epoch; nothing was chosen on the validation images. Errors in pixels at 224, squared for the MSE.",
        "*Variation*: how much the predictions vary from image to image, as a fraction of how much the labels do",
        "(standard deviations). Seconds were measured on a busy machine; compare them with each other only.",
        "Written by `python benchmarks/companion_vgg16.py DATA`.",
        "",
        "| network | epochs | error | skill | MSE | IoU | worst IoU | variation | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in table.iterrows():
        epochs, seconds = "-", "-"
        if result := results.get(name):
            epochs, seconds = int(result["epochs"]), f"{float(result['seconds']):.0f}"
            if epochs < ROWS[name].epochs:
                epochs = f"{epochs} of {ROWS[name].epochs}"
        lines.append(
            f"| {name} | {epochs} | {row['mae']:.2f} | {row['skill']:.2f} | {row['mse']:.0f} | {row['iou_mean']:.3f} "
            f"| {row['iou_worst']:.2f} | {row['variation']:.0%} | {seconds} |"
        )
    lines += ["", "How much 16 of the validation images differ at each layer, as a fraction of the layer's output; in"]
    lines += ["brackets, the number of independent directions:", ""]
    for name, result in results.items():
        rows = zip(result["layers"], result["differences"], result["directions"], strict=True)
        lines.append(f"- {name}: " + ", ".join(f"{layer} {share:.2%} ({ways:.1f})" for layer, share, ways in rows))
    missing = [name for name in ROWS if name not in results]
    if missing:
        lines += ["", f"Not measured yet: {'; '.join(missing)}."]
    text = "\n".join(lines) + "\n"
    with complete_or_absent(RESULTS / "companion_vgg16.md") as part:
        part.write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--as-is", action="store_true", help="train nothing, measure the last checkpoints")
    arguments = parser.parse_args()
    work = arguments.work / "vgg16"
    if arguments.as_is:
        measured = {name: measure_as_is(name, work / "processed", work) for name in ROWS}
        write_results({name: result for name, result in measured.items() if result}, work / "processed")
        return
    prepare_folds(arguments.data, arguments.work)
    export_npy(arguments.work / "folds" / "0", work / "npy")
    prepared = prepare_npy(work / "npy", work / "processed", SIZE)
    print(prepared.summary())
    results = {}
    for name in ROWS:
        if name in arguments.rows or (work / "runs" / name / "answers.npz").is_file():
            results[name] = run_row(name, work / "processed", work)
            write_results(results, work / "processed")


if __name__ == "__main__":
    main()
