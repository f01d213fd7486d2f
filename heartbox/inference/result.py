"""What the detector returns for one X-ray.

Knows boxes; no networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heartbox.boxes import EDGE_NAMES, box_areas
from heartbox.inference.quality_checks import QualityFlag, spacing_is_plausible
from heartbox.xray.image import XRay

# Where the boxes of the RSNA exercise begin, as a share of the chest's height: benchmarks/nih_borders.py.
VESSELS_TOP = 0.23


@dataclass(frozen=True, repr=False)
class HeartDetection:
    """The answer for one X-ray. All boxes and edges are in pixels of the original image.

    Attributes
    ----------
    xray : XRay
        The image as read, with what its header says.
    heart : ndarray, shape (4,)
        ``x_min, y_min, x_max, y_max``.
    heart_interval : ndarray, shape (4, 2), or None
        Lower and upper bound of each edge; None where the weights have no calibration.
    thorax : ndarray, shape (4,), or None
        The inner chest's box; None where the weights were trained without.
    ctr : float or None
        Cardiothoracic ratio: width of the heart over width of the thorax.
    ctr_interval : tuple of float or None
        Its lower and upper bound.
    level : float or None
        Share of films in which the bounds are meant to hold, such as 0.9.
    warnings : tuple of QualityFlag
        Reasons not to trust the answer; empty where there is none.
    notes : tuple of str
        Remarks that cast no doubt on it.
    weights : str
        Digest of the weights that gave the answer, see :attr:`heartbox.inference.detector.HeartDetector.digest`; not
        the SHA-256 of their file.
    """

    xray: XRay
    heart: NDArray[np.float64]
    heart_interval: NDArray[np.float64] | None
    thorax: NDArray[np.float64] | None
    ctr: float | None
    ctr_interval: tuple[float, float] | None
    level: float | None
    warnings: tuple[QualityFlag, ...]
    notes: tuple[str, ...]
    weights: str = ""

    def __repr__(self) -> str:
        """Return the answer in a line, without the pixels and without what the header says of the patient."""
        heart = np.round(self.heart, 1).tolist()
        ctr = "None" if self.ctr is None else f"{self.ctr:.3f}"
        return f"HeartDetection(heart={heart}, ctr={ctr}, warnings={list(self.warning_codes)})"

    @property
    def warning_codes(self) -> tuple[str, ...]:
        """Codes of the warnings, as listed in ``docs/quality-flags.md``."""
        return tuple(flag.code for flag in self.warnings)

    @property
    def has_heart(self) -> bool:
        """Whether the edges are in the right order, so that they enclose something."""
        return bool(box_areas(self.heart) > 0)

    @property
    def heart_with_vessels(self) -> NDArray[np.float64] | None:
        """The heart's box with the great vessels, as the RSNA exercise draws it, shape (4,).

        Its left, right and bottom are those of `heart`. Its top lies at a fixed share of the chest's height, because
        no film with such a box was there to learn from; on the five films at hand that is right to about 5 px at 224
        (``benchmarks/results/nih_borders.md``). None without a heart or a chest.
        """
        if self.thorax is None or not self.has_heart:
            return None
        top = self.thorax[1] + VESSELS_TOP * (self.thorax[3] - self.thorax[1])
        return np.array([self.heart[0], min(top, self.heart[1]), self.heart[2], self.heart[3]])

    @property
    def heart_mm(self) -> tuple[float, float] | None:
        """Width and height of the heart in millimetres; None without a plausible pixel spacing."""
        if self.xray.pixel_spacing is None or not self.has_heart or not spacing_is_plausible(self.xray, self.thorax):
            return None
        row_mm, column_mm = self.xray.pixel_spacing
        x_min, y_min, x_max, y_max = self.heart
        return float((x_max - x_min) * column_mm), float((y_max - y_min) * row_mm)

    @property
    def margins_mm(self) -> tuple[float, float, float, float] | None:
        """Half-widths of the margins of ``x_min, y_min, x_max, y_max`` in millimetres; None where there are none."""
        if self.heart_interval is None or self.heart_mm is None:
            return None
        row_mm, column_mm = self.xray.pixel_spacing
        half = (self.heart_interval[:, 1] - self.heart_interval[:, 0]) / 2 * [column_mm, row_mm, column_mm, row_mm]
        return tuple(float(margin) for margin in half)

    def summary(self) -> str:
        """Return the answer in a few plain lines."""
        lines = self._box_lines() if self.has_heart else ["No heart was found."]
        lines += [f"Warning: {flag}" for flag in self.warnings]
        return "\n".join(lines + [f"Note: {text}" for text in self.notes])

    def _box_lines(self) -> list[str]:
        x_min, y_min, x_max, y_max = self.heart
        lines = [f"Heart: x {x_min:.0f} to {x_max:.0f}, y {y_min:.0f} to {y_max:.0f} pixels of the original image"]
        if self.heart_interval is not None:
            half = (self.heart_interval[:, 1] - self.heart_interval[:, 0]) / 2
            sides = [name.split()[0] for name in EDGE_NAMES]
            named = ", ".join(f"{side} ±{margin:.0f}" for side, margin in zip(sides, half, strict=True))
            lines.append(f"Margins ({self.level:.0%}): {named} pixels")
            if self.margins_mm is not None:
                lines.append("In millimetres: " + ", ".join(f"±{margin:.1f}" for margin in self.margins_mm))
        if self.heart_mm is not None:
            lines.append(f"Size: {self.heart_mm[0]:.0f} mm wide, {self.heart_mm[1]:.0f} mm high")
        if self.ctr is not None:
            between = "" if self.ctr_interval is None else " ({:.2f} to {:.2f})".format(*self.ctr_interval)
            lines.append(f"Cardiothoracic ratio: {self.ctr:.2f}{between}")
        return lines
