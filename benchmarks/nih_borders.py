"""Measure the released weights on another hospital's films: the heart's left and right borders in NIH films.

    python benchmarks/nih_borders.py DATA [--weights FILE]

DATA holds nih/ (images and labels.csv, whose column rsna_id joins the two) and rsna/rsna_heart_detection.csv, which has
the labels. The left and the right border can be compared directly. The top cannot, because those boxes include the
great vessels: it is compared with `found.heart_with_vessels`, whose one number is taken from the other films. Writes
benchmarks/results/nih_borders.md.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from common import parser_for, require, write_table

from heartbox import HeartDetector
from heartbox.models.weights import released_weights


def main() -> None:
    """Measure and write the table."""
    parser = parser_for(__doc__)
    parser.add_argument("--weights", default=released_weights())
    arguments = parser.parse_args()
    require(arguments.data, "nih/labels.csv", "nih/images", "rsna/rsna_heart_detection.csv")
    films = pd.read_csv(arguments.data / "nih" / "labels.csv")
    boxes = pd.read_csv(arguments.data / "rsna" / "rsna_heart_detection.csv")
    known = films.merge(boxes, left_on="rsna_id", right_on="name")
    detector = HeartDetector.from_weights(arguments.weights)
    errors, inside, chests, tops, above = [], [], [], [], []
    lines = ["| film | left: found - label | right: found - label | quality flags |", "|---|---|---|---|"]
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
        rows = found.xray.image.shape[0] / row.img_shape_y
        chests.append(found.thorax[[1, 3]] / rows)
        tops.append(row.y0)
        above.append(found.heart[1] / rows - row.y0)
        lines.append(
            f"| {row.file} | {error[0]:+.1f} | {error[1]:+.1f} | {' '.join(map(str, found.warnings)) or '-'} |"
        )
    left, right = np.abs(errors).mean(axis=0)
    chests, tops = np.array(chests), np.array(tops, dtype=float)
    heights = chests[:, 1] - chests[:, 0]
    shares = (tops - chests[:, 0]) / heights
    others = (shares.sum() - shares) / (len(shares) - 1)
    top = np.abs(chests[:, 0] + others * heights - tops).mean()
    head = [
        f"{len(known)} NIH films with heart boxes of the RSNA exercise. The left and right",
        "borders are compared directly. So few films can only show whether",
        f"something is badly wrong. Mean absolute error: {left:.2f} px (left) and {right:.2f} px (right) at 224;",
        f"{np.mean(inside):.0%} of the labels lie inside the margins.",
        "",
        "The top of those boxes, which include the great vessels, lies at a share of the chest's height:",
        f"{shares.mean():.2f} on these films ({shares.min():.2f} to {shares.max():.2f}). Taken from the other films,",
        f"that share gives the top to {top:.1f} px at 224. `found.heart_with_vessels` does so. The top of the heart",
        f"without the vessels is found {np.mean(above):.0f} px lower ({min(above):.0f} to {max(above):.0f}).",
        "",
        "Written by `python benchmarks/nih_borders.py DATA`.",
        "",
    ]
    write_table("nih_borders.md", [*head, *lines])
    print("\n".join([*head, *lines]))


if __name__ == "__main__":
    main()
