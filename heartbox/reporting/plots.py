"""Pictures: X-rays with boxes, curves, the film of a training, an explained answer.

Draws and writes what it is handed: knows no networks and reads no X-rays.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.axes_grid1 import make_axes_locatable
from numpy.typing import NDArray
from PIL import Image

from heartbox.boxes import EDGES, box_iou
from heartbox.utils.atomic import complete_or_absent

if TYPE_CHECKING:
    from heartbox.inference.result import HeartDetection

# One meaning, one colour everywhere; the two can be told apart with any colour vision, and by their dashes.
DARK_OUTLINE = [withStroke(linewidth=2.5, foreground="#202020")]  # legible on dark lung and bright bone alike
LABEL, PREDICTION, THORAX = "#35d0ba", "#ff9f1c", "#8ab6f9"


# ---------------------------------------------------------------- X-rays and boxes


def show_xray(ax: Axes, image: NDArray, title: str = "") -> None:
    """Show an image in [0, 1], shape (rows, columns), with bone bright and its pixel borders on whole numbers."""
    rows, columns = image.shape
    # The extent makes box coordinates and picture agree: pixel 0 reaches from 0 to 1, not from -0.5 to 0.5.
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(0, columns, rows, 0))
    ax.set(xticks=[], yticks=[], xlim=(0, columns), ylim=(rows, 0))
    ax.set_title(title.replace("$", r"\$"), fontsize=9)


def draw_box(ax: Axes, box: Sequence[float], colour: str, name: str | None = None, dashed: bool = False) -> None:
    """Draw a box ``x_min, y_min, x_max, y_max`` in pixels; one with an unknown edge (NaN) is left out."""
    x_min, y_min, x_max, y_max = (float(edge) for edge in box)
    if np.isnan([x_min, y_min, x_max, y_max]).any():
        return
    style = {"fill": False, "edgecolor": colour, "linewidth": 1.6, "linestyle": "--" if dashed else "-"}
    ax.add_patch(Rectangle((x_min, y_min), x_max - x_min, y_max - y_min, label=name, **style))


def page_of_xrays(
    images: Sequence[NDArray],
    labels: Sequence[Sequence[float]] | None = None,
    predictions: Sequence[Sequence[float]] | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    side: float = 2.0,
) -> Figure:
    """Draw many X-rays on one page, with their boxes.

    Parameters
    ----------
    images : sequence of ndarray, shape (rows, columns)
        In [0, 1].
    labels, predictions : sequence of boxes, optional
        In pixels of their image; labels drawn through, predictions dashed. A row of 8 is heart and thorax.
    titles : sequence of str, optional
        One above each image.
    columns : int
        Images in a row.
    side : float
        Inches of each image.

    Returns
    -------
    Figure
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * side, rows * (side + 0.25 * bool(titles))), layout="compressed"
    )
    for ax in np.atleast_1d(axes).flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(np.atleast_1d(axes).flat, images, strict=False)):
        show_xray(ax, np.asarray(image, dtype=np.float32), titles[i] if titles else "")
        for boxes, colour, name, dashed in ((labels, LABEL, "label", False), (predictions, PREDICTION, "found", True)):
            if boxes is not None:
                for k, box in enumerate(np.reshape(boxes[i], (-1, 4))):
                    draw_box(ax, box, colour if k == 0 else THORAX, name if k == 0 else "chest", dashed)
    handles, names = np.atleast_1d(axes).flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def draw_histograms(before: NDArray, after: NDArray, names: tuple[str, str]) -> Figure:
    """Draw the distribution of pixel values of one image before and after a step, side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.6))
    for ax, pixels, name in zip(axes, (before, after), names, strict=True):
        ax.hist(np.asarray(pixels, dtype=np.float32).ravel(), bins=80, color="#4a6fa5")
        ax.set(title=name, yticks=[], xlabel="pixel value")
    figure.tight_layout()
    return figure


# ---------------------------------------------------------------- a training


def draw_history(history: pd.DataFrame, baseline_mae: float) -> Figure:
    """Draw loss and validation error over the epochs, beside the error of always answering the mean box.

    Parameters
    ----------
    history : DataFrame
        As :func:`heartbox.training.loop.fit` returns it.
    baseline_mae : float
        Mean absolute error of the mean box, in pixels.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3))
    left.plot(history["epoch"], history["train_loss"], label="training", color="#4a6fa5")
    left.plot(history["epoch"], history["val_loss"], label="validation", color=PREDICTION)
    left.set(title="loss", xlabel="epoch", ylim=(0, None))
    left.legend(frameon=False)
    middle.plot(history["epoch"], history["val_mae"], color=PREDICTION)
    middle.axhline(baseline_mae, color="grey", linestyle=":", label="mean box")
    middle.set(title="validation error, px", ylim=(0, None), xlabel="epoch")
    middle.legend(frameon=False)
    right.plot(history["epoch"], history["val_iou"], color=PREDICTION)
    right.set(title="validation IoU", ylim=(0, 1), xlabel="epoch")
    for ax in (left, middle, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.tight_layout()
    return figure


class TrainingAnimation:
    """Draws the same validation X-rays with label and prediction after each epoch, and joins them into a gif.

    An instance is handed to :func:`heartbox.training.loop.fit` as `on_epoch`. Its frames are files, so that the film
    of a run that was interrupted and resumed is whole.

    Parameters
    ----------
    folder : path
        Where the frames go.
    images : sequence of ndarray, shape (size, size)
        The X-rays, in [0, 1]: the first few of the validation set, in its order.
    labels : ndarray, shape (n, 4 * targets)
        Their boxes in pixels.

    Attributes
    ----------
    drawn : int
        Epochs drawn by this instance, and so trained since it was made.
    """

    def __init__(self, folder: str | Path, images: Sequence[NDArray], labels: NDArray):
        self.folder, self.images, self.labels = Path(folder), images, np.asarray(labels)[:, :4]
        self.drawn = 0

    def __call__(self, epoch: int, predicted: NDArray, history: pd.DataFrame) -> None:
        """Draw one frame from the predictions for the whole validation set."""
        self.drawn += 1
        shown = predicted[: len(self.images), :4]
        titles = [f"IoU {iou:.2f}" for iou in box_iou(shown, self.labels)]
        figure = page_of_xrays(self.images, self.labels, shown, titles, columns=len(self.images), side=1.7)
        iou = history["val_iou"].iloc[-1]
        figure.suptitle(f"epoch {epoch}: mean validation IoU {iou:.3f}", fontsize=10)
        save_figure(self.folder / f"epoch-{epoch:04d}.png", figure)

    def save(self, path: str | Path, epochs: int, milliseconds: int = 250) -> Path:
        """Join the frames of the first `epochs` epochs into a gif that dwells on the last one."""
        frames = []
        for epoch in range(1, epochs + 1):
            frame = self.folder / f"epoch-{epoch:04d}.png"
            if frame.is_file():
                frames.append(Image.open(io.BytesIO(frame.read_bytes())).convert("P", palette=Image.Palette.ADAPTIVE))
        if not frames:
            raise FileNotFoundError(f"{self.folder}: no frames to join; train with this film as on_epoch first")
        return save_gif(path, frames, milliseconds, last=2500)


def save_gif(path: str | Path, frames: Sequence[Image.Image], milliseconds: int = 250, last: int = 0) -> Path:
    """Join pictures of one size into a gif that runs for ever, complete or not at all.

    Parameters
    ----------
    path : path
        Of the gif.
    frames : sequence of PIL images
        At least one.
    milliseconds, last : int
        How long each is shown, and the last one where that is to differ.
    """
    durations = [milliseconds] * (len(frames) - 1) + [last or milliseconds]
    with complete_or_absent(path) as part:
        frames[0].save(part, save_all=True, append_images=list(frames[1:]), duration=durations, loop=0)
    return Path(path)


def draw_distributions(image: NDArray, box: NDArray | None, positions: NDArray, probabilities: NDArray) -> Figure:
    """Draw the distributions of the four heart edges along the borders of the X-ray, where they live.

    Parameters
    ----------
    image : ndarray, shape (size, size)
        In [0, 1].
    box : array_like, shape (4,), or None
        The label in pixels, where there is one.
    positions : ndarray, shape (bins,)
        Places of the bins in pixels.
    probabilities : ndarray, shape (4, bins)
        For ``x_min, y_min, x_max, y_max``.
    """
    figure, main = plt.subplots(figsize=(5.2, 5.2))
    show_xray(main, image)
    # Appended axes keep exactly to the film's columns and rows.
    around = make_axes_locatable(main)
    top = around.append_axes("top", size="20%", pad=0.08, sharex=main)
    side = around.append_axes("right", size="20%", pad=0.08, sharey=main)
    means = probabilities @ positions
    draw_box(main, means, PREDICTION, dashed=True)
    for edge in range(4):
        if edge % 2 == 0:
            top.fill_between(positions, probabilities[edge], color=PREDICTION, alpha=0.7)
        else:
            side.fill_betweenx(positions, probabilities[edge], color=PREDICTION, alpha=0.7)
    if box is not None:
        draw_box(main, box, LABEL)
        for edge, line in enumerate((top.axvline, side.axhline, top.axvline, side.axhline)):
            line(box[edge], color=LABEL)
    top.set(xticks=[], yticks=[])
    top.set_title("left and right edge", fontsize=9)
    side.set(xticks=[], yticks=[])
    side.set_title("top and\nbottom", fontsize=9)
    figure.tight_layout(pad=0.5)
    return figure


def draw_reliability(held: dict[float, NDArray], names: Sequence[str], films: int) -> Figure:
    """Draw how often margins hold against how often they promise to.

    Parameters
    ----------
    held : dict
        For each promised level the share held of each edge, see :func:`heartbox.evaluation.conformal.reliability`.
    names : sequence of str
        Of the edges to draw, the first ones.
    films : int
        How many there were in all, half to calibrate and half to try; chance alone moves a share by as much as the
        grey band shows.
    """
    levels = np.array(list(held))
    figure, ax = plt.subplots(figsize=(4.6, 4.2))
    chance = 1.96 * np.sqrt(levels * (1 - levels) * 4 / films)  # of either half
    ax.fill_between(levels, levels - chance, levels + chance, color="grey", alpha=0.25, label="chance, 95 %")
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for edge, (name, style) in enumerate(zip(names, ("o-", "s-", "^-", "d-"), strict=False)):
        ax.plot(levels, [shares[edge] for shares in held.values()], style, markersize=4, linewidth=1, label=name)
    ax.set(xlabel="promised", ylabel="held", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.legend(fontsize=8)
    figure.tight_layout()
    return figure


# ---------------------------------------------------------------- an answer


def draw_detection(found: HeartDetection) -> Figure:
    """Draw what the detector found: heart and chest with their widths, margins as bands, the numbers beside.

    The two widths are drawn as a radiologist measures them for the ratio; the dotted midline halves the chest's.
    """
    image = found.xray.image
    rows, columns = image.shape
    figure, (ax, text) = plt.subplots(1, 2, figsize=(11, 6), width_ratios=(3, 2))
    show_xray(ax, image)
    x_min, y_min, x_max, y_max = found.heart
    if found.has_heart:
        draw_box(ax, found.heart, PREDICTION)
        _arrow(ax, x_min, x_max, (y_min + y_max) / 2, PREDICTION, "heart")
    if found.heart_interval is not None:
        for edge, (low, high) in enumerate(found.heart_interval):
            corner, width, height = ((low, y_min), high - low, y_max - y_min)
            if edge % 2:
                corner, width, height = ((x_min, low), x_max - x_min, high - low)
            ax.add_patch(Rectangle(corner, width, height, color=PREDICTION, alpha=0.3, linewidth=0))
    if found.thorax is not None:
        draw_box(ax, found.thorax, THORAX, dashed=True)
        _arrow(ax, found.thorax[0], found.thorax[2], min(y_max + 0.05 * rows, 0.97 * rows), THORAX, "chest")
        middle = (found.thorax[0] + found.thorax[2]) / 2
        ax.plot([middle, middle], found.thorax[[1, 3]], color=THORAX, linestyle=":", linewidth=1.2)
        words = ax.text(middle, found.thorax[1], "midline", color=THORAX, ha="center", va="bottom", fontsize=8)
        words.set_path_effects(DARK_OUTLINE)
    _mark_sides(ax, found)
    if found.warnings:
        ax.set_title("Do not rely on this: see the warnings", color="tab:red", weight="bold")
    text.axis("off")
    words = found.summary().replace("$", r"\$")  # a header may hold dollars; between two of them it would be a formula
    text.text(0, 0.95, words, va="top", wrap=True, fontsize=10, linespacing=1.6)
    figure.tight_layout()
    return figure


def _mark_sides(ax: Axes, found: HeartDetection) -> None:
    """Write which side of the film is which of the patient's, where it is not turned."""
    rows, columns = found.xray.image.shape
    assumed = "" if found.xray.orientation else "\n(assumed)"  # most files do not say
    sides = {"L": ("right", "left"), "R": ("left", "right")}.get((found.xray.orientation or "L")[0])
    if sides is None:
        return
    for x, side, align in zip((0.02, 0.98), sides, ("left", "right"), strict=True):
        words = ax.text(x * columns, 0.5 * rows, f"patient's\n{side}{assumed}", va="center", ha=align)
        words.set(color="white", fontsize=8, path_effects=DARK_OUTLINE)


def _arrow(ax: Axes, x_from: float, x_to: float, y: float, colour: str, name: str) -> None:
    ax.annotate("", (x_from, y), (x_to, y), arrowprops={"arrowstyle": "<->", "color": colour})
    words = f"{name} {x_to - x_from:.0f} px"
    lifted = y - 0.01 * ax.get_ylim()[0]  # off its arrow
    label = ax.text((x_from + x_to) / 2, lifted, words, color=colour, ha="center", va="bottom", fontsize=9)
    label.set_path_effects(DARK_OUTLINE)


def draw_evidence(found: HeartDetection, maps: NDArray) -> Figure:
    """Draw the four signed evidence maps over the X-ray, each with the edge that it explains.

    Parameters
    ----------
    found : HeartDetection
        What the detector found.
    maps : ndarray, shape (4, rows, columns)
        As :meth:`heartbox.inference.detector.HeartDetector.explain` returns them.
    """
    image = found.xray.image
    rows, columns = image.shape
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.9), layout="compressed")
    for edge, ax in enumerate(axes):
        show_xray(ax, image, f"{EDGES[edge]} = {found.heart[edge]:.0f} px")
        strength = np.abs(maps[edge]).max() or 1.0
        # Faint evidence is transparent, so that the film stays readable where nothing is said.
        picture = ax.imshow(
            maps[edge] / strength,
            cmap="RdBu_r",
            vmin=-1,
            vmax=1,
            alpha=np.sqrt(np.abs(maps[edge]) / strength) * 0.75,
            extent=(0, columns, rows, 0),
        )
        line = ax.axvline if edge % 2 == 0 else ax.axhline
        line(found.heart[edge], color=PREDICTION, linewidth=1.5)
    bar = figure.colorbar(picture, ax=axes, orientation="horizontal", fraction=0.05, pad=0.04, aspect=60)
    bar.set_ticks([-1, 0, 1], labels=["pushes left or up", "nothing", "pushes right or down"])
    return figure


def draw_attention(found: HeartDetection, attention: NDArray) -> Figure:
    """Draw where along each edge the edges head looks: rows for the left and the right edge, columns for the others.

    Parameters
    ----------
    found : HeartDetection
        What the detector found.
    attention : ndarray, shape (4, h, w)
        Of :class:`heartbox.models.heads.EdgeDistributions`, for the heart's edges.
    """
    image = found.xray.image
    rows, columns = image.shape
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.5), layout="compressed")
    for edge, ax in enumerate(axes):
        show_xray(ax, image, f"{EDGES[edge]}: {'rows' if edge % 2 == 0 else 'columns'} that count")
        # Each column (or row) of the map adds up to 1, whether the edge is there or not, so 1 is not a colour's end.
        strength = attention[edge] / attention[edge].max()
        ax.imshow(strength, cmap="inferno", alpha=0.65 * np.sqrt(strength), extent=(0, columns, rows, 0))
        line = ax.axvline if edge % 2 == 0 else ax.axhline
        line(found.heart[edge], color=PREDICTION, linewidth=1.5)
    scale = ScalarMappable(Normalize(0, 1), "inferno")
    figure.colorbar(scale, ax=axes, shrink=0.8, label="weight / the largest")
    return figure


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure as PNG, complete or not at all, and free its memory."""
    try:
        with complete_or_absent(path) as part:
            figure.savefig(part, dpi=100)
    finally:
        plt.close(figure)
