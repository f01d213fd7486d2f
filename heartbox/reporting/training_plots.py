"""Pictures of a training: its curves, its animation, distributions of edges, reliability of margins.

Draws what it is given; knows no networks.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.axes_grid1 import make_axes_locatable
from numpy.typing import NDArray
from PIL import Image

from heartbox.boxes import HEART, box_iou, is_vertical
from heartbox.reporting.plots import draw_box, image_legend, page_of_xrays, save_figure, save_gif, show_xray
from heartbox.reporting.style import LABEL, PREDICTION, TRAINING_COLOUR, VALIDATION_COLOUR, WIDTH

DARK = "#202020"  # behind curves in the colours of boxes, which are made for X-rays
FIRST, SECOND = "-", ":"  # lines around the distributions of the left and top border, and of their opposites


def draw_history(history: pd.DataFrame, baseline_mae: float) -> Figure:
    """Draw loss and validation error over the epochs, beside the error of the constant baseline.

    Parameters
    ----------
    history : DataFrame
        As :func:`heartbox.training.loop.fit` returns it.
    baseline_mae : float
        Mean absolute error of the mean box, in pixels.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(WIDTH, 3.4), layout="constrained")
    left.plot(history["epoch"], history["train_loss"], "--", label="training", color=TRAINING_COLOUR)
    left.plot(history["epoch"], history["val_loss"], label="validation", color=VALIDATION_COLOUR)
    left.set(title="loss", ylabel="loss", ylim=(0, 1.1 * history[["train_loss", "val_loss"]].max(axis=None)))
    left.legend()
    middle.plot(history["epoch"], history["val_mae"], color=VALIDATION_COLOUR, label="network")
    middle.axhline(baseline_mae, color="grey", linestyle=":", label="mean box")
    highest = max(baseline_mae, history["val_mae"].max())
    middle.set(title="validation error", ylabel="mean error, px", ylim=(0, 1.1 * highest))
    middle.legend()
    right.plot(history["epoch"], history["val_iou"], color=VALIDATION_COLOUR)
    right.set(title="validation overlap", ylabel="mean IoU", ylim=(0, 1))
    for ax in (left, middle, right):
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return figure


class TrainingAnimation:
    """Draws the same validation X-rays with label and prediction after each epoch, and joins them into a gif.

    Pass an instance to :func:`heartbox.training.loop.fit` as `on_epoch`. Its frames are files, so the animation of a
    run that was interrupted and resumed is complete.

    Parameters
    ----------
    folder : path
        Where the frames are written.
    images : sequence of ndarray, shape (size, size)
        The X-rays, in [0, 1]: the first few of the validation set, in its order.
    labels : ndarray, shape (n, 4 * targets)
        Their boxes in pixels.

    Attributes
    ----------
    drawn : int
        Number of epochs that this instance has drawn.
    """

    def __init__(self, folder: str | Path, images: Sequence[NDArray], labels: NDArray):
        self.folder, self.images, self.labels = Path(folder), images, np.asarray(labels)[:, HEART]
        self.drawn = 0

    def __call__(self, epoch: int, predicted: NDArray, history: pd.DataFrame) -> None:
        """Draw one frame from the predictions for the whole validation set."""
        self.drawn += 1
        shown = predicted[: len(self.images), HEART]
        titles = [f"IoU {iou:.2f}" for iou in box_iou(shown, self.labels)]
        figure = page_of_xrays(self.images, self.labels, shown, titles, columns=min(4, len(self.images)))
        iou = history["val_iou"].iloc[-1]
        figure.suptitle(f"epoch {epoch}: mean validation IoU {iou:.3f}")
        save_figure(self._frame(epoch), figure)

    def _frame(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}.png"

    def save(self, path: str | Path, epochs: int, milliseconds: int = 250) -> Path:
        """Join the frames of the first `epochs` epochs into a gif that dwells on the last one.

        Raises
        ------
        FileNotFoundError
            If none of them has been drawn.
        """
        frames = [
            Image.open(io.BytesIO(frame.read_bytes())).convert("P", palette=Image.Palette.ADAPTIVE)
            for frame in map(self._frame, range(1, epochs + 1))
            if frame.is_file()
        ]
        if not frames:
            raise FileNotFoundError(f"{self.folder}: no frames to join; pass this animation to fit as on_epoch first")
        return save_gif(path, frames, milliseconds, last=2500)


def draw_distributions(image: NDArray, box: NDArray | None, positions: NDArray, probabilities: NDArray) -> Figure:
    """Draw the distributions of the four heart edges along the borders of the X-ray.

    Two distributions may overlap where the network is undecided, so each has a line of its own kind around it.

    Parameters
    ----------
    image : ndarray, shape (size, size)
        In [0, 1].
    box : array_like, shape (4,), or None
        The label in pixels, where there is one.
    positions : ndarray, shape (bins,)
        Positions of the bins in pixels.
    probabilities : ndarray, shape (4, bins)
        For ``x_min, y_min, x_max, y_max``.
    """
    figure, main = plt.subplots(figsize=(6.4, 6.6), layout="constrained")
    show_xray(main, image)
    # Appended axes share the film's columns and rows exactly.
    around = make_axes_locatable(main)
    top = around.append_axes("top", size="22%", pad=0.1, sharex=main)
    side = around.append_axes("right", size="22%", pad=0.1, sharey=main)
    if box is not None:
        draw_box(main, box, LABEL)
    draw_box(main, probabilities @ positions, PREDICTION, dashed=True)
    for edge, probability in enumerate(probabilities):
        line = {"color": PREDICTION, "linestyle": FIRST if edge < 2 else SECOND, "linewidth": 2}
        if is_vertical(edge):
            top.fill_between(positions, probability, color=PREDICTION, alpha=0.35, linewidth=0)
            top.plot(positions, probability, **line)
        else:
            side.fill_betweenx(positions, probability, color=PREDICTION, alpha=0.35, linewidth=0)
            side.plot(probability, positions, **line)
    for edge, place in enumerate([] if box is None else box):
        (top.axvline if is_vertical(edge) else side.axhline)(place, color=LABEL)
    for ax in (top, side):
        ax.set(xticks=[], yticks=[], facecolor=DARK)
    top.set_ylim(0, None)
    side.set_xlim(0, None)
    top.set_title("left and right border")
    top.set_ylabel("probability")
    side.set_title("top and\nbottom border")
    styles = {
        "left, top border": (PREDICTION, FIRST),
        "right, bottom border": (PREDICTION, SECOND),
        "answer (the means)": (PREDICTION, "--"),
    }
    image_legend(figure, styles | ({} if box is None else {"heart (label)": (LABEL, "-")}))
    return figure


def draw_reliability(coverage: dict[float, NDArray], names: Sequence[str], films: int) -> Figure:
    """Draw how often margins contain the label against how often they should.

    Parameters
    ----------
    coverage : dict
        For each level the coverage of each edge, see :func:`heartbox.evaluation.conformal.reliability`.
    names : sequence of str
        Names of the edges to draw, the first ones.
    films : int
        Number of films, half to calibrate and half to test; the grey band shows how far chance alone moves a share.
    """
    levels = np.array(list(coverage))
    figure, ax = plt.subplots(figsize=(6.4, 5.2), layout="constrained")
    chance = 1.96 * np.sqrt(levels * (1 - levels) * 4 / films)  # of either half
    ax.fill_between(levels, levels - chance, levels + chance, color="grey", alpha=0.25, label="chance, 95 %")
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="exact")
    for edge, (name, style) in enumerate(zip(names, ("o-", "s--", "^-.", "d:"), strict=False)):
        ax.plot(levels, [shares[edge] for shares in coverage.values()], style, markersize=5, linewidth=1, label=name)
    ax.set(xlabel="promised share of X-rays", ylabel="share in which the margin holds", xlim=(0, 1), ylim=(0, 1))
    ax.set_aspect("equal")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
