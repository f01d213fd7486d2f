"""Pictures of an answer: the boxes with their margins, the evidence for each edge, where the network looked.

Draws what it is given; knows no networks and reads no files.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from heartbox.boxes import EDGE_NAMES, is_vertical
from heartbox.reporting.plots import draw_box, for_drawing, image_grid, plain_text, show_xray
from heartbox.reporting.style import CHEST, DARK_OUTLINE, EVIDENCE_MAP, PREDICTION, TEXT, WIDTH
from heartbox.xray.borders import Window

if TYPE_CHECKING:
    from heartbox.inference.result import HeartDetection

FILM = 4.6  # inches, of the X-ray beside its numbers
LINE = 1.45 * TEXT / 72  # inches from one line of text to the next
LETTERS = 36  # in a line of text beside the X-ray
OPACITY = 0.85  # of the strongest evidence; faint evidence is transparent
ATTENTION_MAP = "cool"  # no orange in it, as the line over it is orange


def draw_detection(found: HeartDetection) -> Figure:
    """Draw the answer: heart and chest with their widths, margins as bands, the numbers beside them.

    The two widths are drawn as a radiologist measures them for the ratio; the dotted midline halves the chest.
    """
    words = [part for line in found.summary().splitlines() for part in textwrap.wrap(line, LETTERS)]
    rows, columns = found.xray.image.shape
    height = max(FILM * min(rows / columns, 1.5) + 0.5, (len(words) + 1) * LINE)
    figure = plt.figure(figsize=(WIDTH, height))
    share = FILM / WIDTH
    ax = figure.add_axes((0.01, 0.01, share - 0.02, 0.98 - 0.4 / height), anchor="N")
    show_xray(ax, found.xray.image)
    _draw_heart(ax, found)
    if found.thorax is not None:
        _draw_thorax(ax, found)
    _mark_sides(ax, found)
    if found.warnings:
        title = figure.text(0.01, 1 - 0.1 / height, "Do not rely on this answer: see the warnings", va="top")
        title.set(color="#b00020", weight="bold")
    figure.text(share, 1 - 0.4 / height, plain_text("\n".join(words)), va="top", linespacing=1.3)
    return figure


def _draw_heart(ax: Axes, found: HeartDetection) -> None:
    x_min, y_min, x_max, y_max = found.heart
    if found.has_heart:
        draw_box(ax, found.heart, PREDICTION)
        _arrow(ax, x_min, x_max, (y_min + y_max) / 2, PREDICTION, "heart")
    if found.heart_interval is not None:
        for edge, (low, high) in enumerate(found.heart_interval):
            if is_vertical(edge):
                corner, width, height = (low, y_min), high - low, y_max - y_min
            else:
                corner, width, height = (x_min, low), x_max - x_min, high - low
            ax.add_patch(Rectangle(corner, width, height, color=PREDICTION, alpha=0.3, linewidth=0))


def _draw_thorax(ax: Axes, found: HeartDetection) -> None:
    rows = found.xray.image.shape[0]
    x_min, y_min, x_max, y_max = found.thorax
    draw_box(ax, found.thorax, CHEST, dashed=True)
    _arrow(ax, x_min, x_max, min(found.heart[3] + 0.07 * rows, 0.97 * rows), CHEST, "chest")
    middle = (x_min + x_max) / 2
    ax.plot([middle, middle], [y_min, y_max], color=CHEST, linestyle=":", linewidth=1.2)
    words = ax.text(middle, y_min, "midline", color="white", ha="center", va="bottom")
    words.set_path_effects(DARK_OUTLINE)


def _mark_sides(ax: Axes, found: HeartDetection) -> None:
    """Write which side of the film is which of the patient's, where it is not turned."""
    rows, columns = found.xray.image.shape
    assumed = "" if found.xray.orientation else "\n(assumed)"  # most files do not say
    sides = {"L": ("right", "left"), "R": ("left", "right")}.get((found.xray.orientation or "L")[0])
    if sides is None:
        return
    for x, side, align in zip((0.02, 0.98), sides, ("left", "right"), strict=True):
        words = ax.text(x * columns, 0.98 * rows, f"patient's\n{side}{assumed}", va="bottom", ha=align)
        words.set(color="white", path_effects=DARK_OUTLINE)


def _arrow(ax: Axes, x_from: float, x_to: float, y: float, colour: str, name: str) -> None:
    ax.annotate("", (x_from, y), (x_to, y), arrowprops={"arrowstyle": "<->", "color": colour})
    words = f"{name} {x_to - x_from:.0f} px"
    lifted = y - 0.01 * ax.get_ylim()[0]  # off its arrow
    label = ax.text((x_from + x_to) / 2, lifted, words, color="white", ha="center", va="bottom")
    label.set_path_effects(DARK_OUTLINE)


def draw_evidence(found: HeartDetection, maps: NDArray) -> Figure:
    """Draw the four signed evidence maps over the X-ray, each with the border that it explains.

    Purple and green look alike in grey print, so a line surrounds what is at least half as strong as the strongest
    place: solid for one sign, dashed for the other.

    Parameters
    ----------
    found : HeartDetection
        The answer.
    maps : ndarray, shape (4, rows, columns)
        As :meth:`heartbox.inference.detector.HeartDetector.explain` returns them. Maps that are not of the film's
        shape are laid over the part of the film that the network was shown.
    """
    rows, columns = shape = found.xray.image.shape
    place = _extent(Window.whole(shape) if maps.shape[1:] == shape else found.xray.window)
    figure, axes = image_grid(4, columns=2, side=WIDTH / 2, aspect=rows / columns, titles=True)
    for edge, ax in enumerate(axes):
        show_xray(ax, found.xray.image, f"{EDGE_NAMES[edge]}: {found.heart[edge]:.0f} px")
        evidence = for_drawing(maps[edge])
        evidence = evidence / (np.abs(evidence).max() or 1.0)
        # Faint evidence is transparent, so that the film stays readable where there is none.
        ax.imshow(
            evidence,
            cmap=EVIDENCE_MAP,
            vmin=-1,
            vmax=1,
            alpha=OPACITY * np.abs(evidence),
            extent=place,
        )
        for level, style in ((-0.5, "--"), (0.5, "-")):
            # A film of a single row has no outlines.
            if min(evidence.shape) > 1 and np.abs(level) <= (np.sign(level) * evidence).max():
                lines = {
                    "colors": "black",
                    "linestyles": style,
                    "linewidths": 1.2,
                    "extent": (*place[:2], *place[:1:-1]),
                }
                ax.contour(evidence, [level], **lines)
        _draw_border(ax, edge, found.heart[edge])
    scale = ScalarMappable(Normalize(-1, 1), _as_over_grey(EVIDENCE_MAP))
    bar = figure.colorbar(scale, ax=axes, orientation="horizontal", fraction=0.05, pad=0.03, aspect=50)
    bar.set_ticks([-1, 0, 1], labels=["left or up", "not at all", "right or down"])
    bar.set_label(
        "which way this part of the image pushes the border\n"
        "(outlines: half of the strongest; dashed left or up, solid right or down)"
    )
    return figure


def _as_over_grey(name: str) -> ListedColormap:
    """Return a colour map for values in [-1, 1] as it looks where faint values are transparent, over a medium grey."""
    values = np.linspace(-1, 1, 257)
    colours = plt.get_cmap(name)((values + 1) / 2)
    opacity = OPACITY * np.abs(values)[:, None]
    colours[:, :3] = opacity * colours[:, :3] + (1 - opacity) * 0.5
    return ListedColormap(colours)


def draw_attention(found: HeartDetection, attention: NDArray) -> Figure:
    """Draw where along each border the edges head looks: rows for the left and the right, columns for the others.

    Parameters
    ----------
    found : HeartDetection
        The answer.
    attention : ndarray, shape (4, h, w)
        Of :class:`heartbox.models.heads.EdgeDistributions`, for the heart's edges.
    """
    rows, columns = found.xray.image.shape
    figure, axes = image_grid(4, columns=2, side=WIDTH / 2, aspect=rows / columns, titles=True)
    for edge, ax in enumerate(axes):
        show_xray(
            ax, found.xray.image, f"{EDGE_NAMES[edge]}: weight of each {'row' if is_vertical(edge) else 'column'}"
        )
        # Each column (or row) of the map sums to 1, whether the edge is there or not, so 1 cannot end the scale.
        strength = attention[edge] / attention[edge].max()
        ax.imshow(strength, cmap=ATTENTION_MAP, alpha=0.65 * np.sqrt(strength), extent=_extent(found.xray.window))
        _draw_border(ax, edge, found.heart[edge])
    scale = ScalarMappable(Normalize(0, 1), ATTENTION_MAP)
    bar = figure.colorbar(scale, ax=axes, orientation="horizontal", fraction=0.05, pad=0.03, aspect=50)
    bar.set_label("weight, divided by the largest")
    return figure


def _extent(window: Window) -> tuple[int, int, int, int]:
    """Return where a picture of that part of a film belongs in the axes of the film, as `imshow` takes it."""
    return window.left, window.right, window.bottom, window.top


def _draw_border(ax: Axes, edge: int, place: float) -> None:
    (ax.axvline if is_vertical(edge) else ax.axhline)(place, color=PREDICTION, linewidth=2, path_effects=DARK_OUTLINE)
