"""How often the released weights doubt what they are shown: good films, and images that are none.

    python benchmarks/doubts.py DATA [--weights FILE]

DATA holds any of: nih/images (ordinary frontal films, in none of the trainings), atrium (MRI volumes, .npz). Films are
shown as they are and spoilt; noise and greys are made. Doubts on the films that the weights were trained for are
counted out of fold by benchmarks/release.py. Writes benchmarks/doubts.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from heartbox import HeartDetector, read_xray
from heartbox.files import complete_or_absent

HERE = Path(__file__).resolve().parent
FILMS, MADE = 200, 60
SPOILT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda film: film,
    "upside down": lambda film: film[::-1],
    "turned by 180 degrees": lambda film: film[::-1, ::-1],
    "turned by 90 degrees": np.rot90,
    "turned by 270 degrees": lambda film: np.rot90(film, 3),
    "mirrored": lambda film: film[:, ::-1],
    "inverted": lambda film: 1 - film,
    "upper half only": lambda film: film[: len(film) // 2],
    "lower half only": lambda film: film[len(film) // 2 :],
    "left half only": lambda film: film[:, : film.shape[1] // 2],
}


def evenly(items: list, count: int) -> list:
    """Return at most that many, spread over the list."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def groups(data: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield each kind of image with its images, floats in [0, 1]."""
    films = [read_xray(path) for path in evenly(sorted((data / "nih" / "images").glob("*")), FILMS)]
    for kind, spoil in SPOILT.items():
        if films:
            yield f"frontal films (NIH), {kind}", [np.ascontiguousarray(spoil(film)) for film in films]
    slices = []
    for path in sorted((data / "atrium").glob("*.npz")):
        volume = np.load(path)["image"]
        slices += [volume[int(len(volume) * share)].astype(np.float32) / 255 for share in (0.25, 0.5, 0.75)]
    if slices:
        yield "slices of heart MRI", slices
    rng = np.random.default_rng(0)
    yield "noise, fine", [rng.random((512, 512), dtype=np.float32) for _ in range(MADE)]
    clouds = []
    for _ in range(MADE):
        cloud = cv2.GaussianBlur(rng.standard_normal((512, 512)), (0, 0), rng.uniform(4, 60))
        clouds.append((cloud - cloud.min()) / np.ptp(cloud))
    yield "noise, clouds", clouds
    yield "one grey", [np.full((512, 512), grey, dtype=np.float32) for grey in np.linspace(0, 1, 11)]


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default=HERE.parent / "weights" / "heart-resnet18.pt")
    arguments = parser.parse_args()
    detector = HeartDetector.from_weights(arguments.weights)
    lines = [
        "Share of images with a doubt (`found.warnings`), and with the doubt that the network is undecided, by the",
        "released weights. Written by `python benchmarks/doubts.py DATA`.",
        "",
        "| images | number | doubted | undecided |",
        "|---|---|---|---|",
    ]
    for kind, images in groups(arguments.data):
        answers = detector.detect_each(images)
        doubted = np.mean([bool(found.warnings) for found in answers])
        undecided = np.mean([any("undecided" in text for text in found.warnings) for found in answers])
        lines.append(f"| {kind} | {len(images)} | {doubted:.0%} | {undecided:.0%} |")
        print(lines[-1], flush=True)
    with complete_or_absent(HERE / "doubts.md") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
