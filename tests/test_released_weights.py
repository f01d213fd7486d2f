"""The released weights are what their card says, and answer as a user would expect."""

import re

import cv2
import numpy as np
import pytest
from helpers import ROOT

from heartbox.boxes import box_from_mask, box_iou
from heartbox.data.layouts import list_xrays
from heartbox.inference.detector import HeartDetector
from heartbox.models.fetch import file_sha256
from heartbox.xray.errors import XRayError
from heartbox.xray.reader import read_xray

WEIGHTS = ROOT / "weights" / "heart-resnet18.pt"


@pytest.fixture(scope="module")
def detector() -> HeartDetector:
    return HeartDetector.from_weights(WEIGHTS)


def test_the_card_is_of_these_weights():
    card = (ROOT / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert file_sha256(WEIGHTS) in card
    assert WEIGHTS.stat().st_size <= 25_000_000
    assert "{" not in re.sub(r"`[^`]*`", "", card)  # every figure is filled in


def test_the_card_agrees_with_its_template():
    """Whoever trains the weights again gets this card with other figures, not another text."""
    template = (ROOT / "benchmarks" / "model_card_template.md").read_text(encoding="utf-8")
    pattern = re.sub(r"\\{\w+(:[^}]*)?\\}", "(?s:.+?)", re.escape(template))
    assert re.fullmatch(pattern, (ROOT / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8"))


def test_what_they_carry(detector):
    assert detector.config.targets == ("heart", "thorax")
    assert detector.config.layout == "ctr"
    calibration = detector.config.calibration
    assert calibration.level == 0.9
    assert calibration.images == detector.config.notes["films"]
    assert all(0 < factor < 10 for factor in calibration.factors)


def film_images(real_data, count: int) -> list:
    films = [film for film in list_xrays(real_data / "ctr")[0] if not film.excluded]
    return [films[i] for i in np.linspace(0, len(films) - 1, count).astype(int)]


def test_real_films(detector, real_data):
    """They were trained on these, so this shows that nothing is broken on the way, and not how good they are."""
    films = film_images(real_data, 24)
    answers = detector.detect_each([film.path for film in films])
    truth = [box_from_mask(cv2.imread(str(film.masks[0]), cv2.IMREAD_GRAYSCALE) > 127) for film in films]
    iou = [box_iou(found.heart, box) for found, box in zip(answers, truth, strict=True)]
    assert np.mean(iou) > 0.85
    assert np.mean([bool(found.warnings) for found in answers]) < 0.2
    assert all(found.ctr_interval[0] < found.ctr < found.ctr_interval[1] for found in answers)
    one_by_one = [detector.detect(film.path) for film in films[:5]]
    for single, batch in zip(one_by_one, answers, strict=False):
        assert single.heart == pytest.approx(batch.heart, abs=1e-3)


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_padded_films_are_answered_as_before(detector, real_data, grey):
    """A border of up to half a side: the same answer and the same flags."""
    paths = sorted((real_data / "nih" / "images").glob("*"))[::160]
    for number, path in enumerate(paths):
        film = read_xray(path)
        before, sides = detector.detect(film), [(256, 0), (0, 256), (256, 256), (128, 40)]
        (top, bottom), (left, right) = sides[number % 4], sides[(number + 1) % 4]
        padded = np.pad(film, ((top, bottom), (left, right)), constant_values=np.float32(grey))
        after = detector.detect(padded)
        change = np.stack([after.heart, after.thorax]) - [left, top, left, top] - [before.heart, before.thorax]
        assert np.abs(change).max() * 224 / film.shape[0] < 0.5
        assert after.warning_codes == before.warning_codes


@pytest.mark.parametrize("half", ["upper", "lower", "left", "right"])
def test_halves_are_flagged_on_black_too(detector, real_data, half):
    """The border is cropped, so half a film on a black page is no less suspicious than half a film."""
    axis, keep = {"upper": (0, 0), "lower": (0, 1), "left": (1, 0), "right": (1, 1)}[half]
    flagged = []
    for film in [read_xray(film.path) for film in film_images(real_data, 20)]:
        part = np.split(film[: len(film) // 2 * 2, : film.shape[1] // 2 * 2], 2, axis=axis)[keep]
        room = [(0, 0), (0, 0)]
        room[axis] = (part.shape[axis] // 2,) * 2
        flagged.append(bool(detector.detect(np.pad(part, room)).warnings))
    assert np.mean(flagged) >= (0.5 if half == "lower" else 0.95)


@pytest.mark.parametrize("spoil", ["upside down", "turned", "inverted"])
def test_spoilt_films_are_flagged(detector, real_data, spoil):
    films = [read_xray(film.path) for film in film_images(real_data, 20)]
    change = {"upside down": lambda x: x[::-1], "turned": np.rot90, "inverted": lambda x: 1 - x}[spoil]
    answers = detector.detect_each([np.ascontiguousarray(change(film)) for film in films])
    assert np.mean([bool(found.warnings) for found in answers]) >= 0.95


def test_no_silent_confidence_in_what_is_no_film(detector):
    rng = np.random.default_rng(0)
    noise = [rng.random((300, 300)) for _ in range(8)]
    clouds = [
        cv2.GaussianBlur(one, (0, 0), sigma) for one, sigma in zip(noise, (2, 4, 8, 16, 20, 30, 40, 50), strict=True)
    ]
    clouds = [(one - one.min()) / np.ptp(one) for one in clouds]
    greys = [np.full((300, 300), grey) for grey in (0.0, 0.3, 1.0)]
    for image in noise + clouds:
        assert detector.detect(image).warnings
    for image in greys:
        with pytest.raises(XRayError, match="grey"):
            detector.detect(image)
