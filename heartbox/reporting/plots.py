"""Pictures: X-rays with boxes, and pages of them.

Draws what it is given; knows no networks and reads no files. Colours and text size are in ``style``, pictures of a
training in ``training_plots``, pictures of an answer in ``detection_plots``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from heartbox.boxes import EDGES_PER_BOX
from heartbox.reporting.style import CHEST, LABEL, PREDICTION, TRAINING_COLOUR, WIDTH
from heartbox.utils.atomic import complete_or_absent

LARGEST_DRAWN = 1600  # pixels a side; a page is some 900 wide


def show_xray(ax: Axes, image: NDArray, title: str = "") -> None:
    """Show an image in [0, 1], shape (rows, columns), with bone bright and its pixel borders on whole numbers."""
    rows, columns = image.shape
    # The extent makes box coordinates and picture agree: pixel 0 reaches from 0 to 1, not from -0.5 to 0.5.
    ax.imshow(for_drawing(image), cmap="gray", vmin=0, vmax=1, extent=(0, columns, rows, 0))
    ax.set(xticks=[], yticks=[], xlim=(0, columns), ylim=(rows, 0))
    ax.set_title(plain_text(title))


def for_drawing(image: NDArray) -> NDArray:
    """Shrink an image that is larger than any page: matplotlib copies what it draws some ten times."""
    factor = LARGEST_DRAWN / max(image.shape)
    if factor >= 1:
        return image
    rows, columns = (max(1, round(side * factor)) for side in image.shape)
    return cv2.resize(np.asarray(image, np.float32), (columns, rows), interpolation=cv2.INTER_AREA)


def draw_box(ax: Axes, box: Sequence[float], colour: str, name: str | None = None, dashed: bool = False) -> None:
    """Draw a box ``x_min, y_min, x_max, y_max`` in pixels; a box with an unknown edge (NaN) is left out."""
    x_min, y_min, x_max, y_max = (float(edge) for edge in box)
    if np.isnan([x_min, y_min, x_max, y_max]).any():
        return
    style = {"fill": False, "edgecolor": colour, "linewidth": 2.0, "linestyle": "--" if dashed else "-"}
    ax.add_patch(Rectangle((x_min, y_min), x_max - x_min, y_max - y_min, label=name, **style))


def image_grid(
    count: int, columns: int = 4, side: float | None = None, aspect: float = 1.0, titles: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a page for `count` images, which wrap onto the next row where the page would become too wide.

    Parameters
    ----------
    count : int
        Number of images, at least 1.
    columns : int
        Images in a row, at most.
    side : float, optional
        Width of each image in inches; by default the page's width is shared by the columns.
    aspect : float
        Height of an image divided by its width.
    titles : bool
        Whether each image has a line of text above it.

    Returns
    -------
    figure : Figure
        At most `WIDTH` inches wide.
    axes : list of Axes
        One for each image; axes that are left over are switched off.
    """
    side = min(side or WIDTH / columns, WIDTH)
    columns = max(1, min(columns, count, int(WIDTH / side + 1e-9)))
    rows = -(-count // columns)
    size = (columns * side, rows * (side * aspect + 0.3 * titles) + 0.1)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="compressed", squeeze=False)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure, list(axes.flat[:count])


def image_legend(figure: Figure, styles: Mapping[str, tuple[str, str]]) -> None:
    """Write a legend below a page.

    Parameters
    ----------
    figure : Figure
        From :func:`image_grid`.
    styles : mapping
        For each name its colour and line style, ``"-"`` or ``"--"``; see :func:`box_styles`.
    """
    lines = [Line2D([], [], color=colour, linestyle=style, linewidth=2) for colour, style in styles.values()]
    columns = max(1, min(len(lines), int(figure.get_figwidth() / 2)))  # a name and its line take two inches
    figure.legend(lines, list(styles), loc="outside lower center", ncols=columns)


def box_styles(labels: bool, predictions: bool, thorax: bool) -> dict[str, tuple[str, str]]:
    """Return the legend of a page of X-rays: each kind of box with its colour and line style."""
    styles = {
        "heart": (LABEL, "-", labels),
        "heart, as found": (PREDICTION, "--", predictions),
        "chest": (CHEST, "-", labels and thorax),
        "chest, as found": (CHEST, "--", predictions and thorax),
    }
    return {name: (colour, line) for name, (colour, line, there) in styles.items() if there}


def page_of_xrays(
    images: Sequence[NDArray],
    labels: Sequence[Sequence[float]] | None = None,
    predictions: Sequence[Sequence[float]] | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    side: float | None = None,
    found: str = "as found",
) -> Figure:
    """Draw several X-rays on one page, with their boxes.

    Parameters
    ----------
    images : sequence of ndarray, shape (rows, columns)
        In [0, 1].
    labels, predictions : sequence of boxes, optional
        In pixels of their image; labels are drawn solid, predictions dashed. A row of 8 is heart and thorax.
    titles : sequence of str, optional
        One above each image.
    columns, side
        As in :func:`image_grid`.
    found : str
        What the legend calls the predictions, for those that no network found.
    """
    figure, axes = image_grid(len(images), columns, side, titles=titles is not None)
    drawn = set()
    for i, (ax, image) in enumerate(zip(axes, images, strict=True)):
        show_xray(ax, np.asarray(image, dtype=np.float32), titles[i] if titles else "")
        ax.axis("off")
        for boxes, heart_colour, dashed in ((labels, LABEL, False), (predictions, PREDICTION, True)):
            if boxes is not None:
                for k, box in enumerate(np.reshape(boxes[i], (-1, EDGES_PER_BOX))):
                    draw_box(ax, box, heart_colour if k == 0 else CHEST, dashed=dashed)
                    if not np.isnan(box).any():
                        drawn.add(("heart" if k == 0 else "chest") + (", as found" if dashed else ""))
    styles = {
        name.replace("as found", found): style for name, style in box_styles(True, True, True).items() if name in drawn
    }
    if styles:
        image_legend(figure, styles)
    return figure


def draw_histograms(before: NDArray, after: NDArray, names: tuple[str, str]) -> Figure:
    """Draw the distribution of pixel values of one image before and after a step, side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.8), layout="constrained")
    for ax, pixels, name in zip(axes, (before, after), names, strict=True):
        ax.hist(np.asarray(pixels, dtype=np.float32).ravel(), bins=80, color=TRAINING_COLOUR)
        ax.set(title=name, yticks=[], xlabel="pixel value", ylabel="number of pixels")
    return figure


def plain_text(text: str) -> str:
    """Return text that is drawn as it stands: two dollar signs would be read as a formula."""
    return text.replace("$", r"\$")


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure as PNG, complete or not at all, and free its memory."""
    try:
        with complete_or_absent(path) as part:
            figure.savefig(part, dpi=100)
    finally:
        plt.close(figure)


def save_gif(path: str | Path, frames: Sequence[Image.Image], milliseconds: int = 250, last: int = 0) -> Path:
    """Join pictures of one size into a gif that runs for ever, complete or not at all.

    Parameters
    ----------
    path : path
        The file to write.
    frames : sequence of PIL images
        At least one.
    milliseconds, last : int
        How long each is shown, and the last one if it differs.
    """
    durations = [milliseconds] * (len(frames) - 1) + [last or milliseconds]
    with complete_or_absent(path) as part:
        frames[0].save(part, save_all=True, append_images=list(frames[1:]), duration=durations, loop=0)
    return Path(path)
