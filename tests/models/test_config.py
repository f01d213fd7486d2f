"""The config of a weights file: what is stored comes back, and every wrong value is refused with its name."""

import dataclasses
import math

import pytest

from heartbox.models.config import WEIGHTS_FORMAT, Calibration, WeightsConfig
from heartbox.models.orientation import ORIENTATIONS

CALIBRATION = {
    "level": 0.9,
    "images": 50,
    "scaled": True,
    "factors": [1.0, 2.0, 1.0, 2.0, 1.5, 1.5, 1.5, 1.5],
    "ctr_factor": 1.2,
    "usual_spread": 5.6,
}
CONFIG = {
    "format": WEIGHTS_FORMAT,
    "backbone": "resnet18",
    "head": "edges",
    "size": 224,
    "mean": 0.6,
    "std": 0.25,
    "layout": "ctr",
    "contrast": "even",
    "targets": ["heart", "thorax"],
    "calibration": CALIBRATION,
    "recipe": "edges",
    "films": 394,
}


def test_a_config_comes_back_as_it_was():
    config = WeightsConfig.from_dict(CONFIG)
    assert config.to_dict() == CONFIG
    assert list(config.to_dict()) == list(CONFIG)
    assert config.notes == {"recipe": "edges", "films": 394}
    assert config.normalizes_contrast
    assert config.calibration.usual_std == 5.6


def test_files_of_early_versions_are_read():
    """Without contrast and calibration; or with a ratio that was never calibrated, stored as NaN."""
    plain = {key: value for key, value in CONFIG.items() if key not in ("contrast", "calibration")}
    config = WeightsConfig.from_dict(plain)
    assert not config.normalizes_contrast
    assert config.calibration is None
    factors = CALIBRATION["factors"][:4]
    hearts = CALIBRATION | {"factors": factors, "ctr_factor": math.nan, "usual_spread": None}
    config = WeightsConfig.from_dict(CONFIG | {"targets": ["heart"], "calibration": hearts})
    assert not config.calibration.has_ctr
    without_thorax = CALIBRATION | {"factors": factors + [math.nan] * 4, "ctr_factor": math.nan}
    assert not Calibration.from_dict(without_thorax).has_ctr


@pytest.mark.parametrize("key", ["backbone", "head", "size", "targets", "mean", "std", "layout"])
def test_what_is_missing_is_named(key):
    lacking = {name: value for name, value in CONFIG.items() if name != key}
    with pytest.raises(ValueError, match=f"lacks {key}"):
        WeightsConfig.from_dict(lacking)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone", "alexnet"),
        ("backbone", None),
        ("head", "oracle"),
        ("size", 1_000_000),
        ("size", 32),
        ("size", 100),
        ("size", 224.5),
        ("size", True),
        ("size", "224"),
        ("targets", ["thorax", "heart"]),
        ("targets", ["heart", "lung"]),
        ("targets", ["heart", "thorax", "heart"]),
        ("targets", []),
        ("targets", "heart"),
        ("targets", None),
        ("mean", math.nan),
        ("mean", math.inf),
        ("mean", "0.5"),
        ("mean", None),
        ("std", math.nan),
        ("std", math.inf),
        ("std", 0.0),
        ("std", -0.25),
        ("layout", "No such layout"),
        ("layout", 3),
        ("contrast", "uneven"),
        ("contrast", ["even"]),
        ("hidden", [256]),  # the edges head has none
        ("calibration", [1, 2]),
    ],
)
def test_wrong_values_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        WeightsConfig.from_dict(CONFIG | {key: value})


@pytest.mark.parametrize("hidden", [[0], [10**9], [256.0], ["256"], [8] * 9, "256"])
def test_wrong_hidden_layers_are_refused(hidden):
    with pytest.raises(ValueError, match="hidden"):
        WeightsConfig.from_dict(CONFIG | {"head": "regression", "hidden": hidden})


def spoilt(place: int, factor) -> list:
    factors = list(CALIBRATION["factors"])
    factors[place] = factor
    return factors


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("level", math.nan),
        ("level", 0),
        ("level", 1.0),
        ("level", -0.9),
        ("images", 0),
        ("images", 1.5),
        ("scaled", 1),
        ("factors", spoilt(0, math.nan)),
        ("factors", spoilt(5, math.nan)),
        ("factors", spoilt(7, math.inf)),
        ("factors", spoilt(2, -1.0)),
        ("factors", spoilt(2, "1")),
        ("factors", CALIBRATION["factors"][:4]),  # of one target, for two
        ("factors", [1.0] * 7),
        ("factors", 1.0),
        ("ctr_factor", -1.0),
        ("ctr_factor", math.inf),
        ("usual_spread", math.nan),
        ("usual_spread", -5.0),
        ("usual_spread", math.inf),
    ],
)
def test_wrong_calibrations_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"calibration.*{key.rstrip('s')}"):
        WeightsConfig.from_dict(CONFIG | {"calibration": CALIBRATION | {key: value}})


@pytest.mark.parametrize("key", ["level", "images", "scaled", "factors"])
def test_a_calibration_that_lacks_something(key):
    lacking = {name: value for name, value in CALIBRATION.items() if name != key}
    with pytest.raises(ValueError, match=f"calibration lacks {key}"):
        WeightsConfig.from_dict(CONFIG | {"calibration": lacking})


@pytest.mark.parametrize("other", [None, 3, [1], {}, {"format": "another-format-1"}])
def test_what_is_not_a_config(other):
    with pytest.raises(ValueError, match="not a Heartbox weights file"):
        WeightsConfig.from_dict(other)


def test_a_config_cannot_be_changed_afterwards():
    config = WeightsConfig.from_dict(CONFIG)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.size = 10**6
    with pytest.raises(ValueError, match="size"):
        dataclasses.replace(config, size=10**6)


# ---------------------------------------------------------------- powers, unclear borders, orientations


GROWN = CALIBRATION | {"powers": [1.0, 1.5, 2.0, 1.0, 0.75, 1.0, 1.0, 1.0], "ctr_power": 1.25, "clear_std": 4.5}


def test_a_calibration_with_powers_comes_back_as_it_was():
    calibration = Calibration.from_dict(GROWN)
    assert calibration.to_dict() == GROWN
    assert (calibration.powers[2], calibration.ctr_power, calibration.clear_std) == (2.0, 1.25, 4.5)
    ratio_alone = CALIBRATION | {"ctr_power": 2.0}
    assert Calibration.from_dict(ratio_alone).to_dict() == ratio_alone


def test_calibrations_of_earlier_versions_have_power_one():
    calibration = Calibration.from_dict(CALIBRATION)
    assert (calibration.powers, calibration.ctr_power, calibration.clear_std) == ((), 1.0, None)
    assert calibration.to_dict() == CALIBRATION


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("powers", [1.0] * 7, "calibration powers are"),
        ("powers", 1.0, "calibration powers are 1.0, not a number for each of the factors"),
        ("powers", [1.0] * 7 + [-1.0], "calibration power is -1.0"),
        ("powers", [1.0] * 7 + [math.nan], "calibration power is nan"),
        ("powers", [1.0] * 7 + ["1"], "calibration power is '1'"),
        ("ctr_power", None, "calibration power is None"),
        ("ctr_power", math.inf, "calibration power is inf"),
        ("clear_std", -1.0, "calibration clear_std is -1.0"),
        ("clear_std", math.nan, "calibration clear_std is nan"),
        ("clear_std", "4", "calibration clear_std is '4'"),
    ],
)
def test_wrong_powers_and_limits_are_refused(key, value, said):
    with pytest.raises(ValueError, match=said):
        WeightsConfig.from_dict(CONFIG | {"calibration": GROWN | {key: value}})


def test_orientations_come_back_as_they_were():
    named = CONFIG | {"orientations": list(ORIENTATIONS)}
    config = WeightsConfig.from_dict(named)
    assert config.orientations == ORIENTATIONS
    assert config.to_dict() == named
    assert WeightsConfig.from_dict(CONFIG).orientations == ()


@pytest.mark.parametrize(
    "change",
    [
        {"orientations": list(ORIENTATIONS[:5])},
        {"orientations": list(ORIENTATIONS[::-1])},
        {"orientations": "upright"},
        {"orientations": None},
        {"orientations": list(ORIENTATIONS), "head": "regression"},
    ],
)
def test_wrong_orientations_are_refused(change):
    with pytest.raises(ValueError, match=r"orientations (are|is) .*, not "):
        WeightsConfig.from_dict(CONFIG | change)
