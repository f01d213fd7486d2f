"""How well the companion's U-Net segments real left atria, on subjects on which nothing was chosen.

    python benchmarks/companion_atrium.py DATA [--work FOLDER]

DATA is Task02_Heart as downloaded, or a folder of .npz files. There are two trainings. The first uses some of the
training subjects, and ways to turn probabilities into a mask (threshold, smoothing, largest part) are compared on the
other training subjects. The second uses all training subjects and is measured on the four validation subjects.

Checkpoints lie under --work: a stopped run continues. Writes benchmarks/results/companion_atrium.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from companions.atrium.data import (
    AtriumSlices,
    AtriumVolume,
    find_duplicates,
    learn_window,
    split_volumes,
    uncrop,
)
from companions.atrium.layouts import load_volumes
from companions.atrium.metrics import bland_altman, dice, mean_mask, measure_all, surface_distances
from companions.atrium.model import SCHEDULES, AtriumTask, UNet, as_mask, probabilities, save_unet, segment
from heartbox.training.loop import fit
from heartbox.utils.atomic import complete_or_absent

RESULTS = Path(__file__).resolve().parent / "results"
VAL_COUNT, SEED = 4, 0
FIGURES = ["dice", "dice_slices", "hausdorff95_mm", "distance_mm"]


def train(train_volumes: list[AtriumVolume], val_volumes: list[AtriumVolume], epochs: int, folder: Path):
    """Train the quick schedule; return the network, the validation slices, the history and the mean masks."""
    window = learn_window(train_volumes)
    slices, val = AtriumSlices(train_volumes, window, augment=True), AtriumSlices(val_volumes, window)
    print(f"{folder.name}: {len(train_volumes)} subjects, {len(slices)} slices, {epochs} epochs", flush=True)
    torch.manual_seed(SEED)
    model = UNet()
    task = AtriumTask(dataclasses.replace(SCHEDULES["quick"], epochs=epochs), model.config)
    history = fit(model, slices, val, task, folder, seed=SEED, progress=sys.stdout.isatty(), on_epoch=_report)
    means = [uncrop(mean_mask(slices.masks, len(v.image)), window, v.mask.shape) for v in val_volumes]
    save_unet(folder / "model.pt", model, window)
    return model, val, history, means


def _report(epoch: int, predicted: object, history: pd.DataFrame) -> None:
    print(f"epoch {epoch}: {history['val_dice'].iloc[-1]:.4f}", flush=True)


def compare_masks(model: UNet, val: AtriumSlices) -> pd.DataFrame:
    """Measure every way to turn probabilities into a mask; Dice and Hausdorff 95 are means over subjects."""
    predicted, rows = probabilities(model, val), []
    for smooth, threshold, largest in itertools.product((0.0, 1.0, 2.0), (0.3, 0.5, 0.7), (False, True)):
        masks = [
            uncrop(as_mask(volume_probabilities, threshold, largest, smooth), val.window, volume.mask.shape)
            for volume_probabilities, volume in zip(predicted, val.volumes, strict=True)
        ]
        measured = measure_all(val.volumes, masks)[["dice", "hausdorff95_mm"]].mean()
        rows.append({"smooth": smooth, "threshold": threshold, "largest part": largest, **measured})
    return pd.DataFrame(rows)


def label_agreement(volumes: Sequence[AtriumVolume]) -> str:
    """Describe how far two labels of the same image agree, if any image is there twice."""
    lines = []
    for i, j in find_duplicates(volumes):
        first, second = volumes[i], volumes[j]
        hausdorff95, distance = surface_distances(first.mask, second.mask, first.spacing)
        lines.append(
            f"{first.name} and {second.name} are the same image with two labels, {first.volume_ml:.1f} and "
            f"{second.volume_ml:.1f} mL: their Dice is {dice(first.mask, second.mask):.3f}, Hausdorff 95 "
            f"{hausdorff95:.1f} mm, mean distance {distance:.2f} mm. Both are in the training split."
        )
    return "\n".join(lines) or "No image is there twice."


def as_markdown(table: pd.DataFrame) -> str:
    """Write a table in Markdown."""

    def cell(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)

    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def report(volumes: list[AtriumVolume], inner: pd.DataFrame | None, inner_names: list[str], outcome: dict) -> str:
    """Write everything that was measured."""
    measured, baseline, history = outcome["measured"], outcome["baseline"], outcome["history"]
    means = pd.DataFrame(
        [{"answer": name, **table[FIGURES].mean()} for name, table in (("mean mask", baseline), ("U-Net", measured))]
    )
    agreement = bland_altman(measured["volume_ml"], measured["true_ml"])
    error = np.abs(measured["volume_ml"] - measured["true_ml"]).mean()
    baseline_error = np.abs(outcome["mean_ml"] - measured["true_ml"]).mean()
    low, high = agreement["low"], agreement["high"]
    return f"""{len(volumes)} subjects: {len(measured)} validate, chosen by name and seed ({SEED}), the others train.
One training, weights of the last epoch, {len(history)} epochs of the quick schedule. Figures are over whole volumes,
distances in mm with the real voxel size. *Mean mask* is the baseline that ignores the image. Written by
`python benchmarks/companion_atrium.py DATA`.

{as_markdown(means)}

{as_markdown(measured)}

Volumes, predicted - true: bias {agreement["bias"]:+.1f} mL, limits of agreement {low:+.1f} to {high:+.1f} mL,
mean absolute error {error:.1f} mL; always answering the mean of the training subjects errs by {baseline_error:.1f} mL.
Limits from {len(measured)} subjects are rough estimates.

{label_agreement(volumes)}
{chosen_on(inner, inner_names)}"""


def chosen_on(inner: pd.DataFrame | None, names: list[str]) -> str:
    """Describe the comparison by which threshold and smoothing were chosen."""
    if inner is None:
        return "\nMade with `--final-only`, without the comparison by which threshold and smoothing were chosen.\n"
    return f"""
## What was chosen, and on which subjects

A network trained in the same way on the other training subjects was applied to {", ".join(names)}, which
are training subjects in the end. Chosen from this table: probabilities smoothed with a Gaussian of two slices
(2.74 mm), threshold 0.5, the largest part. (`smooth` is the standard deviation in slices.)

{as_markdown(inner)}
"""


def main() -> None:
    """Train what is missing, measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark-atrium"))
    parser.add_argument("--epochs", type=int, default=SCHEDULES["quick"].epochs, help="of each training")
    parser.add_argument("--final-only", action="store_true", help="skip the first training and its comparison")
    arguments = parser.parse_args()
    volumes, problems = load_volumes(arguments.data)
    print(f"{len(volumes)} volumes, {len(problems)} problems", *problems, sep="\n")
    train_positions, val_positions = split_volumes(volumes, VAL_COUNT, SEED)
    train_volumes, val_volumes = [volumes[i] for i in train_positions], [volumes[i] for i in val_positions]

    inner_train, inner_val = split_volumes(train_volumes, VAL_COUNT, SEED)
    inner_volumes = [train_volumes[i] for i in inner_val]
    inner = None
    if not arguments.final_only:
        learners = [train_volumes[i] for i in inner_train]
        model, val, _, _ = train(learners, inner_volumes, arguments.epochs, arguments.work / "inner")
        inner = compare_masks(model, val)
        print(inner.round(4).to_string(), flush=True)

    model, val, history, means = train(train_volumes, val_volumes, arguments.epochs, arguments.work / "final")
    outcome = {
        "measured": measure_all(val_volumes, segment(model, val)),
        "baseline": measure_all(val_volumes, means),
        "history": history,
        "mean_ml": np.mean([volume.volume_ml for volume in train_volumes]),
    }
    text = report(volumes, inner, [volume.name for volume in inner_volumes], outcome)
    with complete_or_absent(RESULTS / "companion_atrium.md") as part:
        part.write_text(text, encoding="utf-8")
    print(text)
    print(f"{history.attrs['seconds'] / 60:.0f} minutes for the second training")


if __name__ == "__main__":
    main()
