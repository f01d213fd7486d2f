"""Are the evidence maps true? Each method beside a random map and an edge detector, on films the weights never saw.

    python benchmarks/explanations.py DATA [--weights FILE] [--films N]

DATA holds nih/images, ordinary frontal films that are in none of the trainings. Writes benchmarks/results/explanations.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from failure_detection import evenly, need
from tqdm import tqdm

from heartbox import HeartDetector
from heartbox.explain.attribution import occlusion_map
from heartbox.explain.faithfulness import METHODS, measure, randomised, rank_agreement
from heartbox.models.weights import released_weights
from heartbox.utils.atomic import complete_or_absent
from heartbox.xray.reader import load_xray

RESULTS = Path(__file__).resolve().parent / "results"
SANITY_FILMS = 5


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default=released_weights())
    parser.add_argument("--films", type=int, default=20)
    arguments = parser.parse_args()
    need(arguments.data, "nih/images")
    detector = HeartDetector.from_weights(arguments.weights)
    model, size = detector.model, detector.config["size"]
    torch.manual_seed(0)
    inputs = []
    for path in evenly(sorted((arguments.data / "nih" / "images").glob("*")), 2 * arguments.films):
        xray = load_xray(path)
        if not detector.detect(xray).warnings and len(inputs) < arguments.films:  # a doubtful answer explains nothing
            inputs.append(detector.to_tensor(xray))
    rows = {name: [] for name in METHODS}
    for x in tqdm(inputs, disable=not sys.stdout.isatty()):
        occluded = occlusion_map(model, x)
        for name, method in METHODS.items():
            maps = occluded if name == "occlusion" else method(model, x)
            rows[name].append(list(measure(model, x, maps, occluded).values()))
    lines = [
        f"{len(inputs)} NIH films without a doubt, released weights; means over films and the heart's four edges, in",
        f"pixels at {size}. *Deletion*: how far an edge moves when those 0.5 to 20 % of the image are blurred that the",
        "map calls most important (more is better). *Insertion*: how far off it stays when only these are given back",
        "to a blurred image (less is better). *Direction*: how often an edge moves the other way when the 5 % of the",
        "image that most push it one way, by the map's sign, are blurred (chance: 50 %). *Occlusion*: rank agreement",
        "with the occlusion map. *Peak*: median distance of the strongest place from the edge. *Forgotten*: rank",
        f"agreement with the map of a network made random, whole, over {SANITY_FILMS} films (about 0 or less for",
        "a map that is about the network).",
        "Written by `python benchmarks/explanations.py DATA`.",
        "",
        "| map | deletion, px | insertion, px | direction | occlusion | peak, px | forgotten |",
        "|---|---|---|---|---|---|---|",
    ]
    *_, (_, blank) = randomised(model)
    for name, method in METHODS.items():
        away, back, right, agreement, peak = np.mean(rows[name], axis=0)
        forgotten = np.mean(
            [
                float(rank_agreement(method(blank, x)[:, :4], method(model, x)[:, :4]).mean())
                for x in inputs[:SANITY_FILMS]
            ]
        )
        ranked = "-" if name == "occlusion" else f"{agreement:.2f}"
        lines.append(f"| {name} | {away:.1f} | {back:.1f} | {right:.0%} | {ranked} | {peak:.1f} | {forgotten:.2f} |")
        print(lines[-1], flush=True)
    with complete_or_absent(RESULTS / "explanations.md") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
