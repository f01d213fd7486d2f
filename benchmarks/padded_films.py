"""Measure how much a plain border around a film changes the answer of the released weights.

    python benchmarks/padded_films.py DATA [--weights FILE]

DATA holds nih/images (ordinary frontal films, never used for training). Each film is padded with black, white and grey,
by a quarter and by half of its side, on one side and all round; some padded films are saved as JPEG besides. Writes
benchmarks/results/padded_films.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from common import evenly_spaced, parser_for, require, write_table
from numpy.typing import NDArray

from heartbox import HeartDetector, read_xray
from heartbox.boxes import scale_boxes
from heartbox.inference.result import HeartDetection
from heartbox.models.weights import released_weights

FILMS = 100
FRAME = (224, 224)  # differences are given at this size of the film without padding
GREYS = {"black": 0.0, "white": 1.0, "grey": 0.5}
SHARES = {"a quarter": 0.25, "half": 0.5}
ALL_ROUND = (1, 1, 1, 1)
PLACES = {"one side": [tuple(row) for row in np.eye(4, dtype=int)], "all round": [ALL_ROUND]}
QUALITIES = (90, 75, 50)


class Padded(NamedTuple):
    """A film with a border: the image, and what moves a box of the film into it."""

    image: NDArray[np.float32]
    corner: NDArray[np.float64]


def pad(film: NDArray[np.float32], grey: float, share: float, sides: Sequence[int]) -> Padded:
    """Pad a film on some of its sides (top, bottom, left, right) by a share of its height or width."""
    rows, columns = (round(share * length) for length in film.shape)
    top, bottom, left, right = np.multiply(sides, (rows, rows, columns, columns))
    image = np.pad(film, ((top, bottom), (left, right)), constant_values=np.float32(grey))
    return Padded(image, np.array([left, top, left, top], float))


def as_jpeg(padded: Padded, quality: int) -> Padded:
    """Save a padded film as JPEG and read it again."""
    pixels = np.rint(padded.image * 255).astype(np.uint8)
    coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return padded._replace(image=cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE) / np.float32(255))


def edges_of(found: HeartDetection, corner: NDArray, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the edges of heart and chest, (2, 4), in pixels of the film without padding at 224 x 224."""
    return scale_boxes(np.stack([found.heart, found.thorax]) - corner, shape, FRAME)


def compare(
    detector: HeartDetector, films: Sequence[NDArray], before: Sequence[HeartDetection], spoil: Callable[..., Padded]
) -> tuple[list[float], list[bool]]:
    """Return by how much each film's worst edge moves when the film is spoilt, and whether it is flagged."""
    moved, flagged = [], []
    for film, was in zip(films, before, strict=True):
        padded = spoil(film)
        found = detector.detect(padded.image)
        change = edges_of(found, padded.corner, film.shape) - edges_of(was, np.zeros(4), film.shape)
        moved.append(float(np.abs(change).max()))
        flagged.append(bool(found.warnings))
    return moved, flagged


def cases() -> dict[str, list[Callable[..., Padded]]]:
    """Return the rows of the table: what is done to each film, in one or several ways that count together."""
    rows: dict[str, list[Callable[..., Padded]]] = {}
    for grey, value in GREYS.items():
        for much, share in SHARES.items():
            for place, every in PLACES.items():
                rows[f"{grey}, by {much}, {place}"] = [
                    lambda film, value=value, share=share, sides=sides: pad(film, value, share, sides)
                    for sides in every
                ]
    for quality in QUALITIES:
        rows[f"black, white and grey, by a quarter, all round, saved as JPEG of quality {quality}"] = [
            lambda film, value=value, quality=quality: as_jpeg(pad(film, value, 0.25, ALL_ROUND), quality)
            for value in GREYS.values()
        ]
    rows["no border, saved as JPEG of quality 75"] = [lambda film: as_jpeg(Padded(film, np.zeros(4)), 75)]
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = parser_for(__doc__)
    parser.add_argument("--weights", default=released_weights())
    arguments = parser.parse_args()
    require(arguments.data, "nih/images")
    detector = HeartDetector.from_weights(arguments.weights)
    films = [read_xray(path) for path in evenly_spaced(sorted((arguments.data / "nih" / "images").glob("*")), FILMS)]
    before = [detector.detect(film) for film in films]
    usual = np.mean([bool(found.warnings) for found in before])
    lines = [
        "How far the answer moves when a plain border is put around a film, in pixels of the film without the border",
        f"at 224 x 224: {len(films)} films of NIH. Of each film the edge of heart or chest that moves most counts.",
        f"Without a border {usual:.0%} of these films carry a flag. What JPEG changes of itself is in the last row.",
        "",
        "Written by `python benchmarks/padded_films.py DATA`.",
        "",
        "| border | answers | median | 99 % within | worst | flagged |",
        "|---|---|---|---|---|---|",
    ]
    for name, ways in cases().items():
        results = [compare(detector, films, before, spoil) for spoil in ways]
        moved, flagged = (np.concatenate(parts) for parts in zip(*results, strict=True))
        worst = f"{np.median(moved):.2f} | {np.quantile(moved, 0.99):.2f} | {moved.max():.2f}"
        lines.append(f"| {name} | {len(moved)} | {worst} | {np.mean(flagged):.0%} |")
        print(lines[-1], flush=True)
    write_table("padded_films.md", lines)


if __name__ == "__main__":
    main()
