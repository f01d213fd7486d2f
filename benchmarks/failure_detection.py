"""Measure how often the released weights raise a quality flag: on good films, spoilt films and other images.

    python benchmarks/failure_detection.py DATA [--weights FILE]

DATA holds nih/images with nih/heart_borders.csv, laterals (lateral films) and atrium (MRI volumes, .npz). The NIH films
are those read by eye. The released weights learnt the borders of these films, upright and whole, so what a flag says of
an error is measured out of fold by read_accuracy.py; but the orientation head never saw them. Films are shown as they
are and spoilt in various ways. Noise is generated; pydicom brings a CT and an MR slice, and matplotlib a photograph.
Writes benchmarks/results/failure_detection.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from common import evenly_spaced, parser_for, require, write_table
from matplotlib.cbook import get_sample_data
from pydicom.data import get_testdata_file

from heartbox import HeartDetector, read_xray
from heartbox.models.weights import released_weights


def turn(film: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate a film about its centre and leave the corners black."""
    rows, columns = film.shape
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(film, matrix, (columns, rows))


FILMS, MADE = 200, 60
# Each change to a film, and the code of the quality flag that names it.
SPOILT: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str | None]] = {
    "as they are": (lambda film: film, None),
    "upside down": (lambda film: film[::-1], "looks-upside-down"),
    "turned by 180 degrees": (lambda film: film[::-1, ::-1], "looks-turned-180"),
    "turned to the left": (np.rot90, "looks-turned-left"),
    "turned to the right": (lambda film: np.rot90(film, 3), "looks-turned-right"),
    "mirrored": (lambda film: film[:, ::-1], "looks-mirrored"),
    "inverted": (lambda film: 1 - film, "looks-inverted"),
    "turned by 10 degrees": (lambda film: turn(film, 10), None),
    "turned by 20 degrees": (lambda film: turn(film, 20), None),
    "turned by 30 degrees": (lambda film: turn(film, 30), None),
    "upper half only": (lambda film: film[: len(film) // 2], "looks-cropped"),
    "lower half only": (lambda film: film[len(film) // 2 :], "looks-cropped"),
    "left half only": (lambda film: film[:, : film.shape[1] // 2], "looks-cropped"),
    "right half only": (lambda film: film[:, film.shape[1] // 2 :], "looks-cropped"),
}


def groups(data: Path) -> Iterator[tuple[str, list[np.ndarray], str | None]]:
    """Yield each kind of image: its name, the images as floats in [0, 1], and the code of the flag that names it."""
    read = pd.read_csv(data / "nih" / "heart_borders.csv")["file"]
    films = [read_xray(data / "nih" / "images" / name) for name in evenly_spaced(sorted(read), FILMS)]
    for kind, (spoil, code) in SPOILT.items():
        yield f"frontal films (NIH), {kind}", [np.ascontiguousarray(spoil(film)) for film in films], code
    yield "lateral films", [read_xray(path) for path in sorted((data / "laterals").glob("*.*g"))], None
    slices = []
    for path in sorted((data / "atrium").glob("*.npz")):
        volume = np.load(path)["image"]
        slices += [volume[int(len(volume) * share)].astype(np.float32) / 255 for share in (0.25, 0.5, 0.75)]
    if slices:
        yield "slices of heart MRI", slices, None
    rng = np.random.default_rng(0)
    yield "noise, fine", [rng.random((512, 512), dtype=np.float32) for _ in range(MADE)], None
    clouds = []
    for _ in range(MADE):
        cloud = cv2.GaussianBlur(rng.standard_normal((512, 512)), (0, 0), rng.uniform(4, 60))
        clouds.append((cloud - cloud.min()) / np.ptp(cloud))
    yield "noise, clouds", clouds, None
    samples = [read_xray(get_testdata_file(name, download=False)) for name in ("CT_small.dcm", "MR_small.dcm")]
    yield "a CT and an MR slice (of pydicom, without their headers)", samples, None
    with get_sample_data("grace_hopper.jpg") as stream:
        photograph = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
    cuts = []
    for _ in range(MADE):
        side = int(rng.uniform(0.3, 1.0) * min(photograph.shape))
        top, left = (int(rng.uniform(0, length - side + 1)) for length in photograph.shape)
        cuts.append(photograph[top : top + side, left : left + side])
    yield "parts of a photograph (of matplotlib)", cuts, None


def main() -> None:
    """Measure and write the table."""
    parser = parser_for(__doc__)
    parser.add_argument("--weights", default=released_weights())
    arguments = parser.parse_args()
    require(arguments.data, "nih/images", "nih/heart_borders.csv", "laterals", "atrium")
    detector = HeartDetector.from_weights(arguments.weights)
    lines = [
        "Share of images for which the released weights raise any quality flag (`found.warnings`), the flag",
        "`undecided`, and the flag that names what was done to the film. The NIH films are read ones: the weights know",
        "their borders, upright and whole; the orientation head never saw them (read_films.md counts flags out of",
        "fold).",
        "",
        "Written by `python benchmarks/failure_detection.py DATA`.",
        "",
        "| images | number | any flag | undecided | named |",
        "|---|---|---|---|---|",
    ]
    for kind, images, code in groups(arguments.data):
        answers = detector.detect_each(images)
        flagged = np.mean([bool(found.warnings) for found in answers])
        undecided = np.mean(["undecided" in found.warning_codes for found in answers])
        named = "-"
        if code:
            named = f"{np.mean([code in found.warning_codes for found in answers]):.0%}"
        lines.append(f"| {kind} | {len(images)} | {flagged:.0%} | {undecided:.0%} | {named} |")
        print(lines[-1], flush=True)
    write_table("failure_detection.md", lines)


if __name__ == "__main__":
    main()
