"""The released weights on films of another hospital whose sides are known: NIH films with boxes of the RSNA exercise.

    python benchmarks/nih_sides.py DATA [--weights FILE]

DATA holds nih/ (images and labels.csv, whose rsna_id joins the two) and rsna/rsna_heart_detection.csv. Only the left
and the right edge can be compared, since those boxes include the great vessels. Writes benchmarks/results/nih_sides.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from failure_detection import need

from heartbox import HeartDetector
from heartbox.models.weights import released_weights
from heartbox.utils.atomic import complete_or_absent

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default=released_weights())
    arguments = parser.parse_args()
    need(arguments.data, "nih/labels.csv", "nih/images", "rsna/rsna_heart_detection.csv")
    films = pd.read_csv(arguments.data / "nih" / "labels.csv")
    boxes = pd.read_csv(arguments.data / "rsna" / "rsna_heart_detection.csv")
    known = films.merge(boxes, left_on="rsna_id", right_on="name")
    detector = HeartDetector.from_weights(arguments.weights)
    errors, inside, lines = (
        [],
        [],
        ["| film | left: found - label | right: found - label | doubts |", "|---|---|---|---|"],
    )
    for row in known.itertuples():
        found = detector.detect(arguments.data / "nih" / "images" / row.file)
        scale = found.xray.image.shape[1] / row.img_shape_x
        label = np.array([row.x0, row.x0 + row.w])
        error = found.heart[[0, 2]] / scale - label
        if found.heart_interval is None:
            inside.append([False, False])
        else:
            low, high = found.heart_interval[[0, 2]].T / scale
            inside.append((low <= label) & (label <= high))
        errors.append(error)
        lines.append(
            f"| {row.file} | {error[0]:+.1f} | {error[1]:+.1f} | {' '.join(map(str, found.warnings)) or '-'} |"
        )
    left, right = np.abs(errors).mean(axis=0)
    head = [
        "NIH films, in no training here, with heart boxes of the RSNA exercise. Only the sides are compared, since",
        f"those boxes include the great vessels. {len(known)} films, too few to say more than whether much is off:",
        f"mean absolute error {left:.2f} px (left) and {right:.2f} px (right) at 224;",
        f"{np.mean(inside):.0%} of the labels lie inside the margins.",
        "Written by `python benchmarks/nih_sides.py DATA`.",
        "",
    ]
    with complete_or_absent(RESULTS / "nih_sides.md") as part:
        part.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    print("\n".join([*head, *lines]))


if __name__ == "__main__":
    main()
