"""What each ingredient of the edges recipe brought: one after the other added, on the development fold.

    python benchmarks/recipe.py DATA [--work FOLDER] [--epochs N] [--seeds S ...]

The development fold is fold 0 of benchmarks/accuracy.py: choices were made on its films and on no others, so that the
other four folds saw none. One training a row and seed; with so few films and one seed a difference of less than about
0.1 px may be chance. The seeds share one pretraining on phantoms. Writes benchmarks/recipe.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from accuracy import FOLDS, answer, prepare_folds

from heartbox.boxes import EDGES
from heartbox.files import complete_or_absent
from heartbox.measuring import evaluate
from heartbox.recipes import RECIPES

HERE = Path(__file__).resolve().parent
PLAIN = dataclasses.replace(
    RECIPES["edges"], rule="ellipse", mask_weight=0.0, average=0.0, small_size=0, small_share=0.0, augment="published"
)
STEPS = {
    "edges head, published augmentation, boxes turned as ellipses": {},
    "+ boxes from the turned masks, and masks as a second lesson": {"rule": "mask", "mask_weight": 1.0},
    "+ average of the weights; the first 60 % of the epochs at 160 px": {
        "average": 0.99,
        "small_size": 160,
        "small_share": 0.6,
    },
    "+ strong augmentation": {"augment": "strong"},
    "+ pretrained on phantoms": {"start": "phantoms"},
}


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
        "| recipe | left | top | right | bottom | mean | IoU | thorax | ratio | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    recipe = dataclasses.replace(PLAIN, epochs=arguments.epochs)
    for number, (name, change) in enumerate(STEPS.items()):
        recipe = dataclasses.replace(recipe, **change)
        measured = []
        for seed in arguments.seeds:
            out = arguments.work / "recipe" / f"{number}-{seed}"
            found = answer(arguments.work / "folds" / "0", recipe, out, arguments.work, seed)
            measured.append(evaluate(found["predicted"], found["truth"]) | {"seconds": float(found["seconds"])})
        mean = {key: np.mean([one[key] for one in measured]) for key in measured[0]}
        edges = " | ".join(f"{mean[f'mae_{edge}']:.2f}" for edge in EDGES)
        lines.append(
            f"| {name} | {edges} | {mean['mae']:.2f} | {mean['iou_mean']:.3f} | {mean['thorax_mae']:.2f} "
            f"| {mean['ctr_mae']:.4f} | {mean['seconds']:.0f} |"
        )
        print(lines[-1], flush=True)
    with complete_or_absent(HERE / "recipe.md") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
