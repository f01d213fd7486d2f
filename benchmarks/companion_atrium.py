"""How well the companion's U-Net outlines real left atria, on subjects that nothing was chosen on.

    python benchmarks/companion_atrium.py DATA [--work FOLDER]

DATA is Task02_Heart as downloaded, or a folder of .npz subjects. Two trainings: the first on a part of the training
subjects, to compare what may be done with a network's answer (threshold, smoothing, largest part) on the others of
them; the second on all of them, measured on the four who are held back by name and seed.

Checkpoints lie under --work: a run that is stopped goes on where it was. Writes benchmarks/results/companion_atrium.md.
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
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from companions.atrium.data import AtriumVolume, find_twins, load_subjects, split_subjects
from companions.atrium.metrics import bland_altman, dice, measure_all, surface_distances
from companions.atrium.model import (
    SCHEDULES,
    AtriumSlices,
    AtriumTask,
    UNet,
    as_mask,
    learn_window,
    mean_mask,
    probabilities,
    save_unet,
    segment,
    uncrop,
)
from heartbox.training.loop import fit
from heartbox.utils.atomic import complete_or_absent

RESULTS = Path(__file__).resolve().parent / "results"
HELD_BACK, SEED = 4, 0
FIGURES = ["dice", "dice_slices", "hausdorff95_mm", "distance_mm"]


def train(train_subjects: list[AtriumVolume], val_subjects: list[AtriumVolume], epochs: int, folder: Path):
    """Train the quick schedule; return the network, the validation slices, the history and the mean-mask answers."""
    window = learn_window(train_subjects)
    slices, val = AtriumSlices(train_subjects, window, augment=True), AtriumSlices(val_subjects, window)
    print(f"{folder.name}: {len(train_subjects)} subjects, {len(slices)} slices, {epochs} epochs", flush=True)
    torch.manual_seed(SEED)
    model = UNet()
    task = AtriumTask(dataclasses.replace(SCHEDULES["quick"], epochs=epochs), model.config)
    history = fit(model, slices, val, task, folder, seed=SEED, progress=sys.stdout.isatty(), on_epoch=_tell)
    always = [uncrop(mean_mask(slices, len(s.image)), window, s.mask.shape) for s in val_subjects]
    save_unet(folder / "model.pt", model, window)
    return model, val, history, always


def _tell(epoch: int, answers: object, history: pd.DataFrame) -> None:
    print(f"epoch {epoch}: {history['val_dice'].iloc[-1]:.4f}", flush=True)


def compare_answers(model: UNet, val: AtriumSlices) -> pd.DataFrame:
    """Measure every way of making a mask of probabilities; Dice and Hausdorff 95 are means over subjects."""
    found, rows = probabilities(model, val), []
    for smooth, threshold, largest in itertools.product((0.0, 1.0, 2.0), (0.3, 0.5, 0.7), (False, True)):
        answers = [
            uncrop(as_mask(one, threshold, largest, smooth), val.window, subject.mask.shape)
            for one, subject in zip(found, val.subjects, strict=True)
        ]
        measured = measure_all(val.subjects, answers)[["dice", "hausdorff95_mm"]].mean()
        rows.append({"smooth": smooth, "threshold": threshold, "largest part": largest, **measured})
    return pd.DataFrame(rows)


def label_agreement(subjects: Sequence[AtriumVolume]) -> str:
    """Say how far two labels of one image agree, where there are any."""
    lines = []
    for i, j in find_twins(subjects):
        one, other = subjects[i], subjects[j]
        hausdorff95, distance = surface_distances(one.mask, other.mask, one.spacing)
        lines.append(
            f"{one.name} and {other.name} are one image with two labels, {one.volume_ml:.1f} and {other.volume_ml:.1f} "
            f"mL: their Dice is {dice(one.mask, other.mask):.3f}, Hausdorff 95 {hausdorff95:.1f} mm, mean distance "
            f"{distance:.2f} mm. Both train."
        )
    return "\n".join(lines) or "No image is there twice."


def as_markdown(table: pd.DataFrame) -> str:
    """Write a table for a reader."""

    def cell(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)

    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def report(subjects: list[AtriumVolume], inner: pd.DataFrame | None, inner_names: list[str], outcome: dict) -> str:
    """Write everything that was measured."""
    measured, baseline, history = outcome["measured"], outcome["baseline"], outcome["history"]
    means = pd.DataFrame(
        [{"answer": name, **table[FIGURES].mean()} for name, table in (("mean atrium", baseline), ("U-Net", measured))]
    )
    limits = bland_altman(measured["volume_ml"], measured["true_ml"])
    off = np.abs(measured["volume_ml"] - measured["true_ml"]).mean()
    guess = np.abs(outcome["mean_ml"] - measured["true_ml"]).mean()
    low, high = limits["low"], limits["high"]
    return f"""{len(subjects)} subjects, {len(measured)} held back by name and seed ({SEED}), the others train; one
training, the last epoch's weights, {len(history)} epochs of the quick schedule. Figures are over whole volumes,
distances in mm with the voxel's own sides. *Mean atrium* is the answer of one who never looks at the image. Written by
`python benchmarks/companion_atrium.py DATA`.

{as_markdown(means)}

{as_markdown(measured)}

Volumes, found - true: bias {limits["bias"]:+.1f} mL, limits of agreement {low:+.1f} to {high:+.1f} mL,
mean absolute error {off:.1f} mL; always saying the training subjects' mean errs by {guess:.1f} mL. Limits from
{len(measured)} subjects are a sketch.

{label_agreement(subjects)}
{chosen_on(inner, inner_names)}"""


def chosen_on(inner: pd.DataFrame | None, names: list[str]) -> str:
    """Write what the way of answering was chosen on; nothing where that was not measured."""
    if inner is None:
        return "\nMade with `--final-only`: the comparison that threshold and smoothing were chosen by was left out.\n"
    return f"""
## What was chosen, and on whom

A network trained in the same way on the other training subjects was asked about {", ".join(names)}, who
train too in the end. Taken from this table: probabilities smoothed with a Gaussian two slices wide (2.74 mm), threshold
0.5, the largest part. (`smooth` is that width, in slices.)

{as_markdown(inner)}
"""


def main() -> None:
    """Train what is not trained yet, measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark-atrium"))
    parser.add_argument("--epochs", type=int, default=SCHEDULES["quick"].epochs, help="of each training")
    parser.add_argument(
        "--final-only", action="store_true", help="leave out the training that the choices were made on"
    )
    arguments = parser.parse_args()
    subjects, faults = load_subjects(arguments.data)
    print(faults.to_string(index=False) if len(faults) else f"{len(subjects)} subjects, no faults")
    places, held = split_subjects(subjects, HELD_BACK, SEED)
    train_subjects, val_subjects = [subjects[i] for i in places], [subjects[i] for i in held]

    inner_places, inner_held = split_subjects(train_subjects, HELD_BACK, SEED)
    inner_subjects = [train_subjects[i] for i in inner_held]
    learners = [train_subjects[i] for i in inner_places]
    inner = None
    if not arguments.final_only:
        model, val, _, _ = train(learners, inner_subjects, arguments.epochs, arguments.work / "inner")
        inner = compare_answers(model, val)
        print(inner.round(4).to_string(), flush=True)

    model, val, history, always = train(train_subjects, val_subjects, arguments.epochs, arguments.work / "final")
    answers: list[NDArray] = segment(model, val)
    outcome = {
        "measured": measure_all(val_subjects, answers),
        "baseline": measure_all(val_subjects, always),
        "history": history,
        "mean_ml": np.mean([subject.volume_ml for subject in train_subjects]),
    }
    text = report(subjects, inner, [subject.name for subject in inner_subjects], outcome)
    with complete_or_absent(RESULTS / "companion_atrium.md") as part:
        part.write_text(text, encoding="utf-8")
    print(text)
    print(f"{history.attrs['seconds'] / 60:.0f} minutes for the second training")


if __name__ == "__main__":
    main()
