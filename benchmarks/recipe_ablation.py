"""Measure what each ingredient of the edges recipe brings: added one after the other, on the development fold.

    python benchmarks/recipe_ablation.py DATA [--work FOLDER] [--epochs N] [--seeds S ...]

The development fold is fold 0 of folds.py. All choices were made on its films, so the other four folds are untouched.
There is one training per row and seed; with so few films, a difference of less than about 0.1 px may be chance. The
seeds share one pretraining on phantoms. The last row trains nothing: it averages the answers of the previous row's
network over nine shifts of each film. Writes benchmarks/results/recipe_ablation.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from common import parser_for, write_table
from folds import FOLDS, answer, prepare_folds, pretrain, train_one
from torch.nn import functional as F
from torch.utils.data import Dataset

from cardiac_dataset import CardiacDataset
from heartbox.boxes import EDGES
from heartbox.evaluation.metrics import evaluate, predict
from heartbox.training.recipes import RECIPES, Recipe

PLAIN = dataclasses.replace(
    RECIPES["edges"],
    targets=("heart",),
    rule="ellipse",
    mask_weight=0.0,
    average=0.0,
    small_size=0,
    small_share=0.0,
    augment="published",
)
STEPS = {
    "edges head, heart only, published augmentation, boxes rotated as ellipses": {},
    "+ the thorax's edges": {"targets": ("heart", "thorax")},
    "+ boxes from the rotated masks, and auxiliary mask loss": {"rule": "mask", "mask_weight": 1.0},
    "+ running average of the weights; the first 60 % of the epochs at 160 px": {
        "average": 0.99,
        "small_size": 160,
        "small_share": 0.6,
    },
    "+ strong augmentation": {"augment": "strong"},
    "+ pretrained on phantoms": {"start": "phantoms"},
}
SHIFTED = "the same, mean over nine test-time shifts of 8 px"
SHIFT = 8


def main() -> None:
    """Train what is not trained yet, and write the table."""
    parser = parser_for(__doc__)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    arguments = parser.parse_args()
    prepare_folds(arguments.data, arguments.work)
    lines = [
        f"Development fold (fold 0 of {FOLDS}), {arguments.epochs} epochs, means over the seeds",
        f"{list(arguments.seeds)}; mean absolute errors in pixels at 224.",
        "",
        "Written by `python benchmarks/recipe_ablation.py DATA`.",
        "",
        "| recipe | left | top | right | bottom | mean | IoU | thorax | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    recipe = dataclasses.replace(PLAIN, epochs=arguments.epochs)
    for number, (name, change) in enumerate(STEPS.items()):
        recipe = dataclasses.replace(recipe, **change)
        measured = []
        for seed in arguments.seeds:
            out = arguments.work / "recipe" / f"{number}-{seed}"
            found = answer(arguments.work / "folds" / "0", recipe, out, arguments.work, seed)
            measured.append(evaluate(found["predicted"], found["truth"]))
        lines.append(as_line(name, measured))
        print(lines[-1], flush=True)
    measured = []
    for seed in arguments.seeds:
        out = arguments.work / "recipe" / f"{len(STEPS) - 1}-{seed}"
        truth = answer(arguments.work / "folds" / "0", recipe, out, arguments.work, seed)["truth"]
        measured.append(evaluate(answer_shifted(recipe, out, arguments.work, seed), truth))
    lines.append(as_line(SHIFTED, measured))
    print(lines[-1], flush=True)
    lines += [
        "",
        "The fold has 78 films: differences of a tenth of a pixel are chance. The thorax's edges are needed for the",
        "ratio. Strong augmentation is meant for films of other hospitals, which this fold does not contain. The mean",
        "over nine shifts is not used: it takes nine times as long and gains very little.",
    ]
    write_table("recipe_ablation.md", lines)


def as_line(name: str, measured: list[dict]) -> str:
    """Return the means over the seeds as a line of the table; a dash where a row has no value."""
    mean = {key: np.mean([one[key] for one in measured]) for key in measured[0]}
    shown = {**{f"mae_{edge}": 2 for edge in EDGES}, "mae": 2, "iou_mean": 3, "thorax_mae": 2, "ctr_mae": 4}
    return f"| {name} | " + " | ".join(f"{mean[k]:.{n}f}" if k in mean else "-" for k, n in shown.items()) + " |"


def answer_shifted(recipe: Recipe, out: Path, work: Path, seed: int) -> np.ndarray:
    """Answer the development fold by the mean over nine shifts of each film, using the network trained in `out`."""
    if recipe.start == "phantoms":
        recipe = dataclasses.replace(recipe, start=str(pretrain(work)))
    folder = work / "folds" / "0"
    model, _, _ = train_one(folder, recipe, out, seed)  # loads its finished checkpoint
    val = CardiacDataset(folder, "val", targets=recipe.targets)
    shifts = [(dx, dy) for dx in (-SHIFT, 0, SHIFT) for dy in (-SHIFT, 0, SHIFT)]
    answers = [
        predict(model, Shifted(val, dx, dy))[0] - np.tile([dx, dy], 2 * len(recipe.targets)) for dx, dy in shifts
    ]
    return np.mean(answers, axis=0)


class Shifted(Dataset):
    """The same images shifted right and down by whole pixels; border pixels are repeated."""

    def __init__(self, inner: Dataset, dx: int, dy: int):
        self.inner, self.dx, self.dy = inner, dx, dy

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[torch.Tensor]:
        x = self.inner[index][0]
        padded = F.pad(x[None], (SHIFT, SHIFT, SHIFT, SHIFT), mode="replicate")[0]
        top, left = SHIFT - self.dy, SHIFT - self.dx
        return (padded[:, top : top + x.shape[1], left : left + x.shape[2]],)


if __name__ == "__main__":
    main()
