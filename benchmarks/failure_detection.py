"""How often the released weights doubt what they are shown: good films, and images that are none.

    python benchmarks/failure_detection.py DATA [--weights FILE]

DATA holds nih/images (ordinary frontal films, in none of the trainings) and atrium (MRI volumes, .npz). Films are
shown as they are and spoilt; noise and greys are made; a CT and an MR slice come with pydicom, a photograph with
matplotlib. *Named* is the share in which a doubt says what is wrong with the film. Doubts on the films that the weights
were trained for are counted out of fold by benchmarks/release.py. Writes benchmarks/results/failure_detection.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from matplotlib.cbook import get_sample_data
from pydicom.data import get_testdata_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from heartbox import HeartDetector, read_xray
from heartbox.models.weights import released_weights
from heartbox.utils.atomic import complete_or_absent


def turn(film: np.ndarray, degrees: float) -> np.ndarray:
    """Turn a film about its middle, the corners black."""
    rows, columns = film.shape
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(film, matrix, (columns, rows))


RESULTS = Path(__file__).resolve().parent / "results"
FILMS, MADE = 200, 60
# What is done to a film, and the code of the quality flag that names it.
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
    "half as wide again, in black": (lambda film: np.pad(film, ((0, 0), (0, film.shape[1] // 2))), "plain-border"),
    "twice as wide, in black": (lambda film: np.pad(film, ((0, 0), (0, film.shape[1]))), "plain-border"),
    "upper half only": (lambda film: film[: len(film) // 2], None),
    "lower half only": (lambda film: film[len(film) // 2 :], None),
    "left half only": (lambda film: film[:, : film.shape[1] // 2], None),
    "right half only": (lambda film: film[:, film.shape[1] // 2 :], None),
}


def need(data: Path, *parts: str) -> None:
    """End the program where something that is measured on is not there: a published table is not half overwritten."""
    missing = [part for part in parts if not (data / part).exists()]
    if missing:
        raise SystemExit(f"{data}: {' and '.join(missing)} not there, so nothing is measured and nothing written")


def evenly(items: list, count: int) -> list:
    """Return at most that many, spread over the list."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def groups(data: Path) -> Iterator[tuple[str, list[np.ndarray], str | None]]:
    """Yield each kind of image with its images, floats in [0, 1], and the code of the flag that names what is wrong."""
    films = [read_xray(path) for path in evenly(sorted((data / "nih" / "images").glob("*")), FILMS)]
    for kind, (spoil, code) in SPOILT.items():
        if films:
            yield f"frontal films (NIH), {kind}", [np.ascontiguousarray(spoil(film)) for film in films], code
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
    yield "one grey", [np.full((512, 512), grey, dtype=np.float32) for grey in np.linspace(0, 1, 11)], None
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default=released_weights())
    arguments = parser.parse_args()
    need(arguments.data, "nih/images", "atrium")
    detector = HeartDetector.from_weights(arguments.weights)
    lines = [
        "Share of images with a doubt (`found.warnings`), with the doubt that the network is undecided, and with one",
        "that names what was done to the film, by the released weights. Written by `python benchmarks/failure_detection.py DATA`.",
        "",
        "| images | number | doubted | undecided | named |",
        "|---|---|---|---|---|",
    ]
    for kind, images, code in groups(arguments.data):
        answers = detector.detect_each(images)
        doubted = np.mean([bool(found.warnings) for found in answers])
        undecided = np.mean(["undecided" in found.warning_codes for found in answers])
        named = "-"
        if code:
            named = f"{np.mean([code in found.warning_codes for found in answers]):.0%}"
        lines.append(f"| {kind} | {len(images)} | {doubted:.0%} | {undecided:.0%} | {named} |")
        print(lines[-1], flush=True)
    with complete_or_absent(RESULTS / "failure_detection.md") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
