"""What an ill patient's film shows beside the healthy anatomy: plain values, chosen at random in `ward`.

Knows neither random numbers nor shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

OPACITY_KINDS = ("effusion", "veil", "consolidation", "retrocardiac", "opaque lung", "oedema", "patches", "fat pad")
DEVICES = ("tracheal tube", "right drain", "left drain", "port", "electrodes", "cables", "pulmonary catheter",
           "defibrillator coils", "valve", "spinal rods", "hose")  # fmt: skip


@dataclass(frozen=True)
class Opacity:
    """Fluid, collapse or inflammation that takes the place of air in a lung.

    Parameters
    ----------
    kind : str
        One of `OPACITY_KINDS`.
    side : int
        The patient's side, `anatomy.RIGHT` or `anatomy.LEFT`; 0 for both.
    density : float
        Share of the air that is gone where the opacity is thickest, 0 to 1. At 1 the lung is as bright as the heart,
        and the border between them cannot be seen (the silhouette sign; Felson and Felson 1950).
    size : float
        0 small, 1 large; what is measured depends on the kind.
    """

    kind: str
    side: int
    density: float
    size: float


@dataclass(frozen=True)
class Illness:
    """How an ill patient's film differs from the healthy one; the defaults change nothing.

    Opacities, devices and text cover the anatomy. The other fields change it, and the boxes and masks with it.
    """

    opacities: tuple[Opacity, ...] = ()
    devices: tuple[str, ...] = ()  # of DEVICES
    text: tuple[str, ...] = ()  # burnt into the corners
    source: float | None = None  # distance from focus to detector, mm, where it is not the view's usual one
    lung_height: float = 1.0  # factor; the lungs of a patient lying down are shorter
    mediastinum: float = 1.0  # factor on the width of the upper mediastinum
    raised_domes: tuple[float, float] = (0.0, 0.0)  # right and left half of the diaphragm, fractions of the lung height
    sway: tuple[float, float] = (0.0, 0.0)  # sideways curve of the whole trunk: mm and phase in radians
    slope: float = 0.0  # attenuation that the patient's left gains and the right loses, as after a turn
