"""What a weights file says about its network: how it was built, how its input is normalised, how wide its margins are.

Two dataclasses that check themselves when they are read, so that a wrong value is named before it moves an edge.
Knows numbers and names; no files, no networks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from heartbox.models.backbones import BACKBONES
from heartbox.models.heads import HEADS
from heartbox.models.orientation import ORIENTATIONS
from heartbox.xray.contrast import NORMALIZED_CONTRAST

# Stored in the config of every weights file, so that any other file is refused.
WEIGHTS_FORMAT = "heartbox-weights-1"
TARGETS = ("heart", "thorax")  # in the order of their coordinates; a network may know the first alone
SMALLEST_SIZE, LARGEST_SIZE, SIZE_STEP = 64, 2048, 32  # px; the deepest features have a 32nd of the side
WIDEST_LAYER, MOST_LAYERS = 16_384, 8  # four times as wide as VGG16's
LAYOUT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
REQUIRED = ("backbone", "head", "size", "targets", "mean", "std", "layout")


@dataclass(frozen=True)
class Calibration:
    """How wide a prediction interval must be, measured on films that no weight was fitted to.

    Attributes
    ----------
    level : float
        Share of labels that the margins are meant to hold, such as 0.9.
    images : int
        Number of films that the calibration was measured on.
    scaled : bool
        Whether a margin is a multiple of the network's standard deviation; otherwise of one pixel.
    factors : tuple of float, shape (4 * targets,)
        The multiple for each edge; NaN for the edges of a thorax with too few labels.
    ctr_factor : float
        The multiple for the cardiothoracic ratio (:func:`heartbox.boxes.ratio_std`); NaN where it is unknown.
    usual_std : float or None
        Mean standard deviation of the heart's edges, in pixels, below which 97 % of these films lie; None without
        standard deviations. Weights files call it ``usual_spread``.
    powers : tuple of float, shape (4 * targets,)
        A margin is the factor times the standard deviation to this power; () where all are 1.
    ctr_power : float
        The same for the ratio.
    clear_std : float or None
        Mean standard deviation, in pixels, of the heart's left and right border, above which the network counts as
        undecided; None where `usual_std` decides.

    Raises
    ------
    ValueError
        If a value is missing, not finite, negative or of the wrong type.
    """

    level: float
    images: int
    scaled: bool
    factors: tuple[float, ...]
    ctr_factor: float = math.nan
    usual_std: float | None = None
    powers: tuple[float, ...] = ()
    ctr_power: float = 1.0
    clear_std: float | None = None

    def __post_init__(self):
        _check_number("calibration level", self.level, low=0, high=1, open_ends=True)
        _check_whole("calibration images", self.images, low=1, high=10**9)
        if not isinstance(self.scaled, bool):
            raise ValueError(f"calibration scaled is {self.scaled!r}, not true or false")
        if not isinstance(self.factors, tuple) or len(self.factors) not in (4, 8):
            raise ValueError(f"calibration factors are {self.factors!r}, not four numbers for each target")
        thorax_unknown = len(self.factors) == 8 and all(_is_nan(factor) for factor in self.factors[4:])
        for factor in self.factors[: 4 if thorax_unknown else None]:
            _check_number("calibration factor", factor, low=0)
        if not _is_nan(self.ctr_factor):
            _check_number("calibration ctr_factor", self.ctr_factor, low=0)
        if self.usual_std is not None:
            _check_number("calibration usual_spread", self.usual_std, low=0)
        if self.clear_std is not None:
            _check_number("calibration clear_std", self.clear_std, low=0)
        if not isinstance(self.powers, tuple) or len(self.powers) not in (0, len(self.factors)):
            raise ValueError(f"calibration powers are {self.powers!r}, not a number for each of the factors")
        for power in (*self.powers, self.ctr_power):
            _check_number("calibration power", power, low=0)

    @property
    def has_ctr(self) -> bool:
        """Whether the ratio has margins."""
        return not math.isnan(self.ctr_factor)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Calibration:
        """Read the ``calibration`` of a weights file.

        Raises
        ------
        ValueError
            As the class.
        """
        if not isinstance(saved, Mapping):
            raise ValueError(f"the calibration is {saved!r}, not a table of values")
        missing = [key for key in ("level", "images", "scaled", "factors") if key not in saved]
        if missing:
            raise ValueError(f"the calibration lacks {', '.join(missing)}")
        factors, ctr_factor, powers = saved["factors"], saved.get("ctr_factor"), saved.get("powers", ())
        return cls(
            level=saved["level"],
            images=saved["images"],
            scaled=saved["scaled"],
            factors=tuple(factors) if _is_list(factors) else factors,
            ctr_factor=math.nan if ctr_factor is None else ctr_factor,
            usual_std=saved.get("usual_spread"),
            powers=tuple(powers) if _is_list(powers) else powers,
            ctr_power=saved.get("ctr_power", 1.0),
            clear_std=saved.get("clear_std"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what a weights file holds, in plain types."""
        return {
            "level": self.level,
            "images": self.images,
            "scaled": self.scaled,
            "factors": list(self.factors),
            "ctr_factor": self.ctr_factor,
            "usual_spread": self.usual_std,
            **({"powers": list(self.powers)} if self.powers else {}),
            **({"ctr_power": self.ctr_power} if self.ctr_power != 1.0 else {}),
            **({"clear_std": self.clear_std} if self.clear_std is not None else {}),
        }


@dataclass(frozen=True)
class WeightsConfig:
    """Everything besides the numbers that is needed to use a network.

    Attributes
    ----------
    backbone, head, size, targets, hidden
        See :func:`heartbox.models.build.build_model`.
    mean, std : float
        The images, in [0, 1], are normalised to ``(image - mean) / std``.
    layout : str
        Layout of the raw data that the network was trained on; ``"phantom"`` for synthetic films.
    contrast : str
        ``"even"`` where the images went through :func:`heartbox.xray.contrast.normalize_contrast`; ``""`` in files
        of early versions, whose images did not.
    calibration : Calibration or None
        None where the weights have no margins.
    orientations : tuple of str
        Names of the orientation head's classes; () for a network without that head.
    notes : dict
        Anything else that was saved, such as recipe, epochs and seed.

    Raises
    ------
    ValueError
        If a value is unknown, not finite, out of range or of the wrong type.
    """

    backbone: str
    head: str
    size: int
    targets: tuple[str, ...]
    mean: float
    std: float
    layout: str
    contrast: str = ""
    hidden: tuple[int, ...] = ()
    calibration: Calibration | None = None
    orientations: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _check_choice("backbone", self.backbone, BACKBONES)
        _check_choice("head", self.head, HEADS)
        _check_whole("size", self.size, low=SMALLEST_SIZE, high=LARGEST_SIZE)
        if self.size % SIZE_STEP:
            raise ValueError(f"size {self.size} is not a multiple of {SIZE_STEP} pixels")
        if not self.targets or self.targets != TARGETS[: len(self.targets)]:
            raise ValueError(f"targets are {list(self.targets)}, not {list(TARGETS[:1])} or {list(TARGETS)}, in order")
        _check_number("mean", self.mean)
        _check_number("std", self.std, low=0, open_ends=True)
        if not isinstance(self.layout, str) or not LAYOUT_NAME.fullmatch(self.layout):
            raise ValueError(f"layout {self.layout!r} is not a name in lower-case letters, such as rsna")
        _check_choice("contrast", self.contrast, ("", NORMALIZED_CONTRAST))
        if self.hidden and self.head != "regression":
            raise ValueError(f"hidden layers {self.hidden} cannot be combined with the {self.head} head")
        if len(self.hidden) > MOST_LAYERS:
            raise ValueError(f"{len(self.hidden)} hidden layers are more than {MOST_LAYERS}")
        for width in self.hidden:
            _check_whole("hidden width", width, low=1, high=WIDEST_LAYER)
        if self.orientations and (self.orientations != ORIENTATIONS or self.head != "edges"):
            raise ValueError(
                f"orientations are {list(self.orientations)} ({self.head}), not {list(ORIENTATIONS)} (edges)"
            )
        if self.calibration is not None and len(self.calibration.factors) != 4 * len(self.targets):
            raise ValueError(
                f"the calibration has {len(self.calibration.factors)} factors for {4 * len(self.targets)} edges"
            )

    @property
    def normalizes_contrast(self) -> bool:
        """Whether images must go through :func:`heartbox.xray.contrast.normalize_contrast` first."""
        return self.contrast == NORMALIZED_CONTRAST

    @classmethod
    def from_dict(cls, saved: Any) -> WeightsConfig:
        """Read the ``config`` of a weights file.

        Raises
        ------
        ValueError
            If it is not the config of a weights file, or as the class.
        """
        if not isinstance(saved, Mapping) or saved.get("format") != WEIGHTS_FORMAT:
            raise ValueError(f"not a Heartbox weights file (no config of the format {WEIGHTS_FORMAT})")
        missing = [key for key in REQUIRED if key not in saved]
        if missing:
            raise ValueError(f"the config lacks {', '.join(missing)}")
        known = {key: saved[key] for key in (*REQUIRED, "contrast", "hidden", "orientations") if key in saved}
        for key in ("targets", "hidden", "orientations"):
            if key in known:
                if not _is_list(known[key]):
                    raise ValueError(f"{key} is {known[key]!r}, not a list")
                known[key] = tuple(known[key])
        calibration = saved.get("calibration")
        known["calibration"] = None if calibration is None else Calibration.from_dict(calibration)
        notes = {key: value for key, value in saved.items() if key not in (*known, "format")}
        return cls(**known, notes=notes)

    def to_dict(self) -> dict[str, Any]:
        """Return what a weights file holds, in plain types."""
        return {
            "format": WEIGHTS_FORMAT,
            "backbone": self.backbone,
            "head": self.head,
            "size": self.size,
            **({"hidden": list(self.hidden)} if self.hidden else {}),
            "mean": self.mean,
            "std": self.std,
            "layout": self.layout,
            **({"contrast": self.contrast} if self.contrast else {}),
            "targets": list(self.targets),
            **({"calibration": self.calibration.to_dict()} if self.calibration else {}),
            **({"orientations": list(self.orientations)} if self.orientations else {}),
            **self.notes,
        }


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_nan(value: Any) -> bool:
    return isinstance(value, Real) and math.isnan(value)


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}: known are {', '.join(choice for choice in choices if choice)}")


def _check_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, open_ends: bool = False
) -> None:
    """Refuse what is not a finite number from `low` to `high`; with `open_ends` both limits are refused too."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, not a finite number")
    if not low <= value <= high or (open_ends and value in (low, high)):
        limits = f"above {low:g}" if open_ends else f"{low:g} or more"
        below = f" and below {high:g}" if high < math.inf else ""
        raise ValueError(f"{name} is {value!r}; it must be {limits}{below}")


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, not a whole number from {low} to {high}")
