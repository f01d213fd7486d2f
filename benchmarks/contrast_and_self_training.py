"""Measure what contrast normalisation and self-training bring, on the same collection and on an unseen one.

    python benchmarks/contrast_and_self_training.py DATA --nih FOLDER [--work FOLDER]

DATA and FOLDER are those of accuracy.py, whose runs are reused; missing ones are made. Decisions were made on these
films: fold 0, answered by networks trained on the other folds, and the films of the crossings that belong to fold 0.
They are so few that a difference of a tenth of a pixel may be chance, and for a crossing much more than that. Writes
benchmarks/results/contrast_and_self_training.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import parser_for, write_table
from folds import CROSS, ROWS, answer, prepare_folds, summarise, unlabelled

from heartbox.boxes import EDGES

# Name of the row, its folder below the work folder, and its recipe.
STEPS = (
    ("original contrast", "as-they-are", "edges"),
    ("normalised contrast", "", "edges"),
    ("normalised contrast, self-trained", "", "edges, self-trained"),
)


def main() -> None:
    """Train what is not trained yet, and write the table."""
    parser = parser_for(__doc__)
    parser.add_argument("--nih", type=Path, help="folder of NIH films; read once, then kept in the work folder")
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    arguments = parser.parse_args()
    unlabelled(arguments.work, arguments.nih)
    lines = [
        "Edges recipe, pretrained on phantoms; mean absolute errors in pixels at 224; one training each, seed 0.",
        "",
        "- *Fold 0* is answered by a network trained on the other four folds.",
        "- For a crossing, the network is trained on one collection and tested on the films of the other that belong",
        "  to fold 0. These are the films on which decisions were made.",
        "",
        "Written by `python benchmarks/contrast_and_self_training.py DATA --nih FOLDER`.",
        "",
        "| recipe | films | left | top | right | bottom | mean | IoU | thorax: left / right | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for title, sub, row in STEPS:
        work = arguments.work / sub
        labels = prepare_folds(arguments.data, work, normalize=not sub)
        keep = set(labels["name"][labels["fold"] == 0])
        for key in ("0", *CROSS):
            # All share the phantoms of the first work folder and the pretraining on them.
            found = answer(work / "folds" / key, ROWS[row], work / "runs" / row / key, arguments.work)
            lines.append(as_line(title, "fold 0" if key == "0" else key, found, keep))
            print(lines[-1], flush=True)
    write_table("contrast_and_self_training.md", lines)


def as_line(title: str, films: str, found: dict[str, np.ndarray], keep: set[str]) -> str:
    """Return the table's line for one training, measured on the films in `keep`."""
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
