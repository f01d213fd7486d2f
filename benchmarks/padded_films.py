"""Measure how much a plain border around a film changes the answer of the released weights.

    python benchmarks/padded_films.py DATA [--weights FILE] [--films 100]

DATA holds nih/images, frontal films. The released weights learnt the borders of some of them, without padding. Each
film is padded with black, white and grey, by a quarter and by half of its side, on one side (the next film on the next
side) and all round; and with borders that are not plain: with noise, shaded, of copied lines, with a ruler. Some padded
films are saved as JPEG besides. Writes benchmarks/results/padded_films.md.
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

FRAME = (224, 224)  # differences are given at this size of the film without padding
GREYS = {"black": 0.0, "white": 1.0, "grey": 0.5}
SHARES = {"a quarter": 0.25, "half": 0.5}
ALL_ROUND = (1, 1, 1, 1)  # top, bottom, left, right
PLACES = {"on one side": np.eye(4, dtype=int), "all round": [ALL_ROUND]}  # taken in turn, film after film
QUALITIES = (90, 75, 50)


class Padded(NamedTuple):
    """A film with a border: the image, and what moves a box of the film into it."""

    image: NDArray[np.float32]
    corner: NDArray[np.float64]


Spoil = Callable[[NDArray[np.float32], int], Padded]  # of a film and its number


def pad(film: NDArray[np.float32], grey: float, share: float, sides: Sequence[int]) -> Padded:
    """Pad a film on some of its sides (top, bottom, left, right) by a share of its height or width."""
    rows, columns = (round(share * length) for length in film.shape)
    top, bottom, left, right = np.multiply(sides, (rows, rows, columns, columns))
    image = np.pad(film, ((top, bottom), (left, right)), constant_values=np.float32(grey))
    return Padded(image, np.array([left, top, left, top], float))


def around(film: NDArray[np.float32], border: Callable[[NDArray], NDArray]) -> Padded:
    """Pad a film all round by a quarter; `border` returns the page, and is given an empty one."""
    padded = pad(film, 0.0, 0.25, ALL_ROUND)
    page, (left, top) = border(np.zeros_like(padded.image)), padded.corner[:2].astype(int)
    page[top : top + film.shape[0], left : left + film.shape[1]] = film
    return padded._replace(image=page.astype(np.float32))


def with_noise(film: NDArray[np.float32], grey: float, seed: int) -> Padded:
    """Pad a film with a grey whose noise has a standard deviation of 0.015."""
    rng = np.random.default_rng(seed)
    return around(film, lambda page: np.clip(page + rng.normal(grey, 0.015, page.shape), 0, 1))


def shaded(film: NDArray[np.float32]) -> Padded:
    """Pad a film with a grey that rises evenly from left to right."""
    return around(film, lambda page: page + np.linspace(0, 0.15, page.shape[1]))


def repeated(film: NDArray[np.float32]) -> Padded:
    """Pad a film with copies of its first and last rows and columns."""
    rows, columns = (round(length / 4) for length in film.shape)
    page = np.pad(film, ((rows, rows), (columns, columns)), mode="edge")
    return Padded(page, np.array([columns, rows, columns, rows], float))


def with_ruler(film: NDArray[np.float32]) -> Padded:
    """Pad a film with black, and draw a white ruler with ticks down the left side."""

    def ruler(page: NDArray) -> NDArray:
        rows, columns = page.shape
        place, step = columns // 40, rows // 60
        page[step * 3 : -step * 3, place : place + 2] = 1
        for number, row in enumerate(range(step * 3, rows - step * 3, step)):
            page[row : row + 2, place : columns // (50 if number % 5 else 25)] = 1
        return page

    return around(film, ruler)


def as_jpeg(padded: Padded, quality: int) -> Padded:
    """Save a padded film as JPEG and read it again."""
    pixels = np.rint(padded.image * 255).astype(np.uint8)
    coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return padded._replace(image=cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE) / np.float32(255))


def edges_of(found: HeartDetection, corner: NDArray, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the edges of heart and chest, (2, 4), in pixels of the film without padding at 224 x 224."""
    return scale_boxes(np.stack([found.heart, found.thorax]) - corner, shape, FRAME)


def compare(
    detector: HeartDetector, films: Sequence[NDArray], before: Sequence[HeartDetection], spoil: Spoil
) -> tuple[list[float], list[bool]]:
    """Return by how much each film's worst edge moves when the film is spoilt, and whether it is flagged."""
    moved, flagged = [], []
    for number, (film, was) in enumerate(zip(films, before, strict=True)):
        padded = spoil(film, number)
        found = detector.detect(padded.image)
        change = edges_of(found, padded.corner, film.shape) - edges_of(was, np.zeros(4), film.shape)
        moved.append(float(np.abs(change).max()))
        flagged.append(bool(found.warnings))
    return moved, flagged


def cases() -> dict[str, Spoil]:
    """Return the rows of the table: what is done to each film."""
    rows: dict[str, Spoil] = {}
    for grey, value in GREYS.items():
        for much, share in SHARES.items():
            for place, sides in PLACES.items():
                rows[f"{grey}, by {much}, {place}"] = lambda film, number, value=value, share=share, sides=sides: pad(
                    film, value, share, sides[number % len(sides)]
                )
    rows |= {
        "black with noise, by a quarter, all round": lambda film, number: with_noise(film, 0.06, number),
        "white with noise, by a quarter, all round": lambda film, number: with_noise(film, 0.94, number),
        "from black to dark grey, left to right, by a quarter, all round": lambda film, number: shaded(film),
        "copies of its outermost lines, by a quarter, all round": lambda film, number: repeated(film),
        "black, by a quarter, all round, with a ruler along a side": lambda film, number: with_ruler(film),
    }
    values = list(GREYS.values())
    for quality in QUALITIES:
        name = f"black, white or grey, by a quarter, all round, saved as JPEG of quality {quality}"
        rows[name] = lambda film, number, quality=quality: as_jpeg(
            pad(film, values[number % len(values)], 0.25, ALL_ROUND), quality
        )
        rows[f"no border, saved as JPEG of quality {quality}"] = lambda film, number, quality=quality: as_jpeg(
            Padded(film, np.zeros(4)), quality
        )
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = parser_for(__doc__)
    parser.add_argument("--weights", default=released_weights())
    parser.add_argument("--films", type=int, default=100, help="how many films, evenly spaced")
    arguments = parser.parse_args()
    require(arguments.data, "nih/images")
    detector = HeartDetector.from_weights(arguments.weights)
    paths = evenly_spaced(sorted((arguments.data / "nih" / "images").glob("*")), arguments.films)
    films = [read_xray(path) for path in paths]
    before = [detector.detect(film) for film in films]
    usual = np.mean([bool(found.warnings) for found in before])
    lines = [
        "How far the answer moves when a plain border is put around a film, in pixels of the film without the border",
        f"at 224 x 224: {len(films)} films of NIH. Of each film the edge of heart or chest that moves most counts.",
        f"Without a border {usual:.0%} of these films carry a flag.",
        "",
        f"Written by `python benchmarks/padded_films.py DATA --films {arguments.films}`.",
        "",
        "| border | median | 90 % within | worst | flagged |",
        "|---|---|---|---|---|",
    ]
    for name, spoil in cases().items():
        moved, flagged = compare(detector, films, before, spoil)
        change = f"{np.median(moved):.2f} | {np.quantile(moved, 0.9):.2f} | {max(moved):.2f}"
        lines.append(f"| {name} | {change} | {np.mean(flagged):.0%} |")
        print(lines[-1], flush=True)
    write_table("padded_films.md", lines)


if __name__ == "__main__":
    main()
