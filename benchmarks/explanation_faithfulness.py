"""Measure how faithful each attribution method is, beside a random map and an edge detector.

    python benchmarks/explanation_faithfulness.py DATA [--weights FILE] [--films N]

DATA holds nih/images and nih/heart_borders.csv. The films are of patients none of whose films was read by eye, so the
released weights did not learn their borders. Writes benchmarks/results/explanation_faithfulness.md.
"""

from __future__ import annotations

import numpy as np
import torch
from common import evenly_spaced, parser_for, require, write_table
from read_films import UNREAD, read_borders

from heartbox import HeartDetector
from heartbox.boxes import HEART
from heartbox.explain.attribution import occlusion_map
from heartbox.explain.faithfulness import METHODS, measure, randomised, rank_agreement
from heartbox.models.weights import released_weights
from heartbox.utils.progress import progress_bar
from heartbox.xray.reader import load_xray

SANITY_FILMS = 5


def main() -> None:
    """Measure and write the table."""
    parser = parser_for(__doc__)
    parser.add_argument("--weights", default=released_weights())
    parser.add_argument("--films", type=int, default=20)
    arguments = parser.parse_args()
    require(arguments.data, "nih/images", "nih/heart_borders.csv")
    detector = HeartDetector.from_weights(arguments.weights)
    model, size = detector.model, detector.config.size
    torch.manual_seed(0)
    inputs = []
    known = read_borders(arguments.data)
    unread = known.loc[known["source"] == UNREAD, "path"].tolist()
    for path in evenly_spaced(unread, 2 * arguments.films):
        xray = load_xray(path)
        # A flagged answer is not worth explaining.
        if len(inputs) < arguments.films and not detector.detect(xray).warnings:
            inputs.append(detector.to_tensor(xray))
    rows = {name: [] for name in METHODS}
    for x in progress_bar(inputs, "Films"):
        occluded = occlusion_map(model, x)
        for name, method in METHODS.items():
            maps = occluded if name == "occlusion" else method(model, x)
            rows[name].append(list(measure(model, x, maps, occluded).values()))
    lines = [
        f"{len(inputs)} NIH films without a quality flag, of patients none of whose films was read by eye; released",
        f"weights; means over the films and the heart's four edges, in pixels at {size}.",
        "",
        "- *Deletion*: how far an edge moves when the 0.5 to 20 % of the image that the map ranks highest are blurred",
        "  (higher is better).",
        "- *Insertion*: how far the edge stays from its place when only these parts are restored in a blurred image",
        "  (lower is better).",
        "- *Direction*: how often an edge moves the opposite way when the 5 % that push it hardest in one direction,",
        "  by the map's sign, are blurred (chance: 50 %).",
        "- *Occlusion*: rank correlation with the occlusion map.",
        "- *Peak*: median distance from the map's maximum to the edge.",
        f"- *Randomised*: rank correlation with the map of a fully randomised network, over {SANITY_FILMS} films.",
        "  A map that depends on what the network has learnt is near 0 or below.",
        "",
        "Written by `python benchmarks/explanation_faithfulness.py DATA`.",
        "",
        "| map | deletion, px | insertion, px | direction | occlusion | peak, px | randomised |",
        "|---|---|---|---|---|---|---|",
    ]
    *_, (_, blank) = randomised(model)
    for name, method in METHODS.items():
        away, back, right, agreement, peak = np.mean(rows[name], axis=0)
        sanity = np.mean(
            [
                float(rank_agreement(method(blank, x)[:, HEART], method(model, x)[:, HEART]).mean())
                for x in inputs[:SANITY_FILMS]
            ]
        )
        ranked = "-" if name == "occlusion" else f"{agreement:.2f}"
        lines.append(f"| {name} | {away:.1f} | {back:.1f} | {right:.0%} | {ranked} | {peak:.1f} | {sanity:.2f} |")
        print(lines[-1], flush=True)
    write_table("explanation_faithfulness.md", lines)


if __name__ == "__main__":
    main()
