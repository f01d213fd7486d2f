"""What each ingredient of the edges recipe brought: one after the other added, on the development fold.

    python benchmarks/recipe.py DATA [--work FOLDER] [--epochs N] [--seeds S ...]

The development fold is fold 0 of benchmarks/accuracy.py: choices were made on its films and on no others, so that the
other four folds saw none. One training a row and seed; with so few films and one seed a difference of less than about
0.1 px may be chance. The seeds share one pretraining on phantoms. The last row trains nothing: it asks the network of
the row before about each film at nine places and takes the mean. Writes benchmarks/results/recipe.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from accuracy import FOLDS, answer, prepare_folds, pretrain, train_one

from cardiac_dataset import CardiacDataset
from heartbox.boxes import EDGES
from heartbox.evaluation.metrics import evaluate, predict
from heartbox.training.recipes import RECIPES, Recipe
from heartbox.utils.atomic import complete_or_absent

RESULTS = Path(__file__).resolve().parent / "results"
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
    "edges head, heart alone, published augmentation, boxes turned as ellipses": {},
    "+ the thorax's edges": {"targets": ("heart", "thorax")},
    "+ boxes from the turned masks, and masks as a second lesson": {"rule": "mask", "mask_weight": 1.0},
    "+ average of the weights; the first 60 % of the epochs at 160 px": {
        "average": 0.99,
        "small_size": 160,
        "small_share": 0.6,
    },
    "+ strong augmentation": {"augment": "strong"},
    "+ pretrained on phantoms": {"start": "phantoms"},
}
SHIFTED = "the same, mean of nine places (test-time shifts of 8 px)"
SHIFT = 8


def main() -> None:
    """Train what is not trained yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    arguments = parser.parse_args()
    prepare_folds(arguments.data, arguments.work)
    lines = [
        f"Development fold (0 of {FOLDS}), {arguments.epochs} epochs, seeds {list(arguments.seeds)}, means",
        "over the seeds; pixels at 224. Written by `python benchmarks/recipe.py DATA`.",
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
        "Seventy-eight films: differences of a tenth of a pixel are chance. The thorax's edges are there for the",
        "ratio. Strong augmentation is for films of other hospitals, which this fold does not have. The",
        "mean of nine places is not used: nine times the time for so little.",
    ]
    with complete_or_absent(RESULTS / "recipe.md") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_line(name: str, measured: list[dict]) -> str:
    """Write the means over the seeds as a line of the table; what a row does not have is a dash."""
    mean = {key: np.mean([one[key] for one in measured]) for key in measured[0]}
    shown = {**{f"mae_{edge}": 2 for edge in EDGES}, "mae": 2, "iou_mean": 3, "thorax_mae": 2, "ctr_mae": 4}
    return f"| {name} | " + " | ".join(f"{mean[k]:.{n}f}" if k in mean else "-" for k, n in shown.items()) + " |"


def answer_shifted(recipe: Recipe, out: Path, work: Path, seed: int) -> np.ndarray:
    """Answer the development fold by the mean over nine shifts of each film, with the network trained under `out`."""
    if recipe.start == "phantoms":
        recipe = dataclasses.replace(recipe, start=str(pretrain(work)))
    folder = work / "folds" / "0"
    model, _, _ = train_one(folder, recipe, out, seed)  # its checkpoint is complete, so nothing is trained again
    val = CardiacDataset(folder, "val", targets=recipe.targets)
    places = [(dx, dy) for dx in (-SHIFT, 0, SHIFT) for dy in (-SHIFT, 0, SHIFT)]
    answers = [
        predict(model, Shifted(val, dx, dy))[0] - np.tile([dx, dy], 2 * len(recipe.targets)) for dx, dy in places
    ]
    return np.mean(answers, axis=0)


class Shifted(Dataset):
    """The same images moved by whole pixels, to the right and down, the border's pixels repeated."""

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
