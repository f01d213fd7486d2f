"""What evened contrast and self-training brought: at home, and on films of a collection that was not trained on.

    python benchmarks/contrast_and_self_training.py DATA --nih FOLDER [--work FOLDER]

DATA and FOLDER as for benchmarks/accuracy.py, whose runs are used and made where they are missing. Decisions were made
by these films: fold 0, answered by networks that were trained on the others, and of the crossings from one collection
to the other those films that are in fold 0. So few that a difference of a tenth of a pixel may be chance, and for a
crossing much more. Writes benchmarks/results/contrast_and_self_training.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from accuracy import CROSS, ROWS, answer, prepare_folds, summarise, unlabelled

from heartbox.boxes import EDGES
from heartbox.utils.atomic import complete_or_absent

RESULTS = Path(__file__).resolve().parent / "results"
# What a row is called, the folder below the work folder that it has to itself, and the recipe.
STEPS = (
    ("films as they are", "as-they-are", "edges"),
    ("contrast evened", "", "edges"),
    ("contrast evened, self-trained", "", "edges, self-trained"),
)


def main() -> None:
    """Train what is not trained yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nih", type=Path, help="folder of NIH films; read once, then kept in the work folder")
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    arguments = parser.parse_args()
    unlabelled(arguments.work, arguments.nih)
    lines = [
        "Networks of the edges recipe, pretrained on phantoms; mean absolute errors in pixels at 224. *Fold 0* was",
        "answered by a network that trained on the other four; for a crossing it trained on one collection and is",
        "tested on those films of the other that are in fold 0: the films that decisions were made by. One training",
        "each, seed 0.",
        "Written by `python benchmarks/contrast_and_self_training.py DATA --nih FOLDER`.",
        "",
        "| recipe | films | left | top | right | bottom | mean | IoU | thorax: left / right | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for title, sub, row in STEPS:
        work = arguments.work / sub
        labels = prepare_folds(arguments.data, work, even=not sub)
        keep = set(labels["name"][labels["fold"] == 0])
        for key in ("0", *CROSS):
            # All share the phantoms, and what was learnt from them, of the first work folder.
            found = answer(work / "folds" / key, ROWS[row], work / "runs" / row / key, arguments.work)
            lines.append(as_line(title, "fold 0" if key == "0" else key, found, keep))
            print(lines[-1], flush=True)
    with complete_or_absent(RESULTS / "contrast_and_self_training.md") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_line(title: str, films: str, found: dict[str, np.ndarray], keep: set[str]) -> str:
    """Write what one training reached on the films in `keep` as a line of the table."""
    measured = summarise([found], keep)
    chosen = np.isin(found["names"], list(keep))
    left, right = np.abs(found["predicted"] - found["truth"])[chosen][:, [4, 6]].mean(axis=0)
    edges = " | ".join(f"{measured[f'mae_{edge}']:.2f}" for edge in EDGES)
    return (
        f"| {title} | {films} ({measured['images']}) | {edges} | {measured['mae']:.2f} | {measured['iou_mean']:.3f} "
        f"| {left:.2f} / {right:.2f} | {measured['ctr_mae']:.4f} |"
    )


if __name__ == "__main__":
    main()
