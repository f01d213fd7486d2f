"""Quality flags: each raised where it should be and only there, and each code documented."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from heartbox.inference.detector import HeartDetector
from heartbox.inference.quality_checks import (
    FLAG_CODES,
    LOOKS,
    QualityFlag,
    body_part_kind,
    check_certainty,
    check_quality,
    collect_notes,
)
from heartbox.models.config import Calibration
from heartbox.models.orientation import ORIENTATIONS
from heartbox.xray.borders import plain_border
from heartbox.xray.errors import XRayError
from heartbox.xray.image import XRay
from heartbox.xray.reader import as_xray


def codes(*arguments) -> list[str]:
    return [flag.code for flag in check_quality(*arguments)]


def test_the_documented_codes_are_the_codes():
    table = (ROOT / "docs" / "quality-flags.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([a-z0-9-]+)` \| .+ \| .+ \|$", table, re.MULTILINE)
    assert documented == list(FLAG_CODES)


def test_every_code_is_raised_somewhere():
    """A code that no check raises would be dead text in the table."""
    checks = (ROOT / "heartbox" / "inference" / "quality_checks.py").read_text(encoding="utf-8")
    for code in set(FLAG_CODES) - set(LOOKS):  # test_detector.py sees those raised
        assert checks.count(f'"{code}"') >= 2, code


def test_a_flag_reads_as_its_sentence_and_has_a_known_code():
    assert str(QualityFlag("no-chest", "No chest was found.")) == "No chest was found."
    with pytest.raises(ValueError, match="made-up"):
        QualityFlag("made-up", "Something.")


@pytest.mark.parametrize(
    "word",
    [
        "",
        "TORAX",
        "TÓRAX",
        "TO\u0301RAX",
        "TORACE",
        "POITRINE",
        "THORAX",
        "BRUST",
        "BRUSTKORB",
        "PULMÃO",
        "KLATKA PIERSIOWA",
    ]
    + ["GÖĞÜS", "ГРУДНАЯ КЛЕТКА", "胸部", "PORT CHEST", "CHEST ABDOMEN", "LUNGS", "COEUR"],
)
def test_the_chest_is_known_in_many_languages(word):
    assert body_part_kind(word) == "chest"
    film = XRay(np.random.default_rng(0).uniform(0, 1, (200, 200)), Path("film"), body_part=word)
    assert codes(film, np.array([70.0, 80, 150, 150]), None) == []
    assert not any("Body Part" in note for note in collect_notes(film))


@pytest.mark.parametrize(
    ("word", "kind"), [("BAUCH", "unknown"), ("HANDS", "other"), ("L KNEE", "other"), ("CSPINE", "other")]
)
def test_an_unknown_part_of_the_body_gets_a_note_and_another_part_a_flag(word, kind):
    film = XRay(np.random.default_rng(0).uniform(0, 1, (200, 200)), Path("film"), body_part=word)
    flagged = codes(film, np.array([70.0, 80, 150, 150]), None)
    assert flagged == (["other-body-part"] if kind == "other" else [])
    assert any(word in note for note in collect_notes(film)) == (kind == "unknown")


def test_hardly_any_contrast_is_flagged_and_none_is_refused(weights):
    detector = HeartDetector.from_weights(weights)
    pale = np.tile(np.linspace(0.5, 0.53, 64), (64, 1))
    assert "low-contrast" in detector.detect(pale).warning_codes
    with pytest.raises(XRayError, match="one even grey"):
        detector.detect(np.full((64, 64), 0.5))


def test_implausible_boxes_are_flagged():
    film = as_xray(np.random.default_rng(0).uniform(0, 1, (200, 200)))
    chest = np.array([20.0, 20, 180, 170])
    assert codes(film, np.array([70.0, 80, 150, 150]), chest) == []
    assert codes(film, np.array([70.0, 80, 150, 150]), chest, None, (0.3, 0.6)) == ["vague-ratio"]
    assert codes(film, np.array([100.0, 100, 110, 110]), None) == ["heart-size"]
    assert codes(film, np.array([10.0, 80, 120, 150]), chest) == ["heart-outside-chest"]
    assert codes(film, np.array([20.0, 80, 178, 150]), chest)[0] == "ratio"
    assert codes(film, np.array([70.0, 80, 150, 150]), np.array([90.0, 20, 90, 170]))[0] == "no-chest"
    assert codes(film, np.array([120.0, 80, 70, 150]), None) == ["no-heart"]
    unsure = np.array([[40.0, 100], [78, 82], [148, 152], [148, 152]])
    assert codes(film, np.array([70.0, 80, 150, 150]), None, unsure) == ["wide-margin"]


def test_a_plain_border_is_flagged():
    film = np.random.default_rng(0).uniform(0, 1, (200, 100))
    assert plain_border(film) == 0 == plain_border(np.full((20, 20), 0.4))
    assert plain_border(np.pad(film, ((0, 50), (10, 0)))) == 50 / 250  # the larger share of the two
    assert plain_border(np.pad(film, ((20, 20), (0, 0)), constant_values=0.7)) == 40 / 240
    heart, film = np.array([20.0, 60, 120, 150]), np.random.default_rng(0).uniform(0, 1, (200, 150))
    assert check_quality(as_xray(np.pad(film, ((0, 0), (0, 50)))), heart, None) == ()  # it is cropped
    padded = as_xray(np.pad(film, ((0, 700), (0, 650))))
    flags = {flag.code: str(flag) for flag in check_quality(padded, heart, None)}
    assert "81%" in flags["plain-border"] and "unusual-size" not in flags


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"view": "LL"}, "not-frontal"),
        ({"orientation": "R\\F"}, "not-upright"),
        ({"body_part": "KNEE"}, "other-body-part"),
        ({"damage": "Corrupt JPEG data: 3 extraneous bytes before marker 0xd9"}, "damaged-pixels"),
        ({"modality": "CT"}, "other-modality"),
        ({"manufacturer": "Heartbox phantom"}, "phantom-film"),
    ],
)
def test_films_of_another_kind_are_flagged(weights, header, code):
    film = XRay(np.random.default_rng(0).uniform(0, 1, (200, 200)), Path("film"), **header)
    assert HeartDetector.from_weights(weights).detect(film).warning_codes == (code,)


@pytest.mark.parametrize(
    "header", [{"view": "AP ERECT"}, {"orientation": "L\\F"}, {"orientation": "L\\FP"}, {"body_part": "PORT CHEST"}]
)
def test_usual_films_are_not_flagged(weights, header):
    film = XRay(np.random.default_rng(0).uniform(0, 1, (200, 200)), Path("film"), **header)
    assert HeartDetector.from_weights(weights).detect(film).warnings == ()


def test_a_tiny_picture_is_flagged(weights):
    found = HeartDetector.from_weights(weights).detect(np.random.default_rng(0).uniform(0, 1, (2, 2)))
    assert "unusual-size" in found.warning_codes


def test_a_dithered_picture_is_flagged(weights):
    detector, rng = HeartDetector.from_weights(weights), np.random.default_rng(0)
    assert "few-shades" in detector.detect(rng.integers(0, 2, (200, 200)).astype(float)).warning_codes
    assert "few-shades" not in detector.detect(rng.uniform(0, 1, (200, 200))).warning_codes


# ---------------------------------------------------------------- what the network itself is unsure of


def certainty(std: list[float], looks: str = "", **limits) -> dict[str, str]:
    calibration = Calibration(level=0.9, images=50, scaled=True, factors=(1.0,) * 4, **limits)
    return {flag.code: str(flag) for flag in check_certainty(np.array(std), calibration, looks, 224)}


@pytest.mark.parametrize(
    ("std", "expected"),
    [
        ([4.9, 40, 4.9, 40], []),  # top and bottom do not count
        ([9.0, 1, 1, 1], []),  # 5.0 on average
        ([9.1, 1, 1, 1], ["undecided", "unclear-left"]),
        ([4.0, 1, 6.5, 1], ["undecided", "unclear-right"]),
        ([6.0, 1, 5.1, 1], ["undecided", "unclear-left", "unclear-right"]),
    ],
)
def test_unclear_borders_are_named(std, expected):
    flags = certainty(std, clear_std=5.0, usual_std=0.1)  # the second would flag every one of them
    assert list(flags) == expected
    for side, value in (("left", std[0]), ("right", std[2])):
        message = flags.get(f"unclear-{side}")
        assert message is None or (f"{side} border" in message and f"{value:.1f} pixels" in message)
    assert " ".join(flags.values()).count("are then guesses") == bool(expected)  # said once
    if expected:
        assert f"{(std[0] + std[2]) / 2:.1f} pixels wide (at 224)" in flags["undecided"]


@pytest.mark.parametrize(("std", "flagged"), [([3.0, 6, 3, 6], False), ([3.0, 9, 3, 9], True)])
def test_older_weights_go_by_all_four_edges(std, flagged):
    flags = certainty(std, usual_std=5.0)
    assert list(flags) == (["undecided"] if flagged else [])
    assert not flagged or "6.0 pixels wide (at 224), while 97% of ordinary films stay below 5.0" in flags["undecided"]


def test_without_limits_nothing_is_unclear():
    assert certainty([90.0] * 4) == {}
    assert check_certainty(np.full(4, 90.0), None, "", 224) == ()


def test_every_way_to_lie_wrong_has_its_flag():
    assert [f"looks-{name}" for name in ORIENTATIONS[1:]] == list(LOOKS)
    for code, words in LOOKS.items():
        assert certainty([1.0] * 4, looks=code, clear_std=5.0) == {code: f"The film may be {words}."}
    assert list(certainty([9.0] * 4, looks="looks-cropped", clear_std=5.0))[-1] == "looks-cropped"
