"""Pictures of volumes: slices with outlines, three planes, a gif through a heart, the agreement of volumes.

Draws and writes what it is handed; knows no networks and reads no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from companions.atrium.data import AtriumVolume
from companions.atrium.metrics import bland_altman
from heartbox.reporting.plots import LABEL, PREDICTION, save_gif

BRIGHT = 0.85  # grey value shown as white: few voxels are brighter, and blood is just below


def show_slice(
    ax: Axes,
    image: NDArray,
    truth: NDArray | None = None,
    found: NDArray | None = None,
    title: str = "",
    aspect: float = 1.0,
) -> None:
    """Show a slice, (rows, columns) in [0, 1], with the outlines of the label and of what was found (dashed).

    `aspect` is the height of a pixel over its width, where it is not square.
    """
    ax.imshow(np.asarray(image, dtype=np.float32), cmap="gray", vmin=0, vmax=BRIGHT, aspect=aspect)
    for mask, colour, style in ((truth, LABEL, "-"), (found, PREDICTION, "--")):
        if mask is not None and np.any(mask) and not np.all(mask):
            ax.contour(np.asarray(mask, dtype=float), [0.5], colors=[colour], linewidths=1.3, linestyles=style)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)


def page_of_slices(
    images: Sequence[NDArray],
    truths: Sequence[NDArray | None] | None = None,
    found: Sequence[NDArray | None] | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    side: float = 2.4,
) -> Figure:
    """Draw many slices on one page, each as :func:`show_slice` does; `side` is the width of each in inches."""
    rows = -(-len(images) // columns)
    high = side * images[0].shape[0] / images[0].shape[1] + 0.3
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * side, rows * high), layout="compressed", squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    nothing = [None] * len(images)
    for i, ax in zip(range(len(images)), axes.flat, strict=False):
        show_slice(ax, images[i], (truths or nothing)[i], (found or nothing)[i], titles[i] if titles else "")
    if truths and found:
        lines = [Line2D([], [], color=LABEL), Line2D([], [], color=PREDICTION, linestyle="--")]
        figure.legend(lines, ["label", "found"], loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_planes(subject: AtriumVolume, found: NDArray | None = None) -> Figure:
    """Draw the three planes through the middle of the labelled atrium, in true proportions."""
    k, i, j = (int(round(place)) for place in np.argwhere(subject.mask).mean(axis=0))
    deep, high, wide = subject.spacing
    across = subject.mask.shape[2] * wide, subject.mask.shape[2] * wide, subject.mask.shape[1] * high  # mm
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.2), layout="constrained", width_ratios=across)
    planes = [
        ((k,), f"slice {k}: rows x columns", high / wide),
        ((slice(None), i), f"row {i}: slices x columns", deep / wide),
        ((slice(None), slice(None), j), f"column {j}: slices x rows", deep / high),
    ]
    for ax, (cut, title, aspect) in zip(axes, planes, strict=True):
        show_slice(ax, subject.image[cut], subject.mask[cut], None if found is None else found[cut], title, aspect)
    figure.suptitle(f"{subject.name}: {subject.volume_ml:.0f} mL", fontsize=10)
    return figure


def draw_training(history: pd.DataFrame, baseline: float) -> Figure:
    """Draw loss and Dice of each epoch, beside the Dice of an answer that never looks (`baseline`)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="compressed")
    left.plot(history["epoch"], history["train_loss"], label="training", color="#4a6fa5")
    left.plot(history["epoch"], history["val_loss"], label="held back", color=PREDICTION)
    left.set(title="Dice loss", xlabel="epoch", ylim=(0, 1))
    left.legend(frameon=False)
    right.plot(history["epoch"], history["val_dice"], color=PREDICTION)
    right.axhline(baseline, color="grey", linestyle=":", label="mean atrium")
    right.set(title="3-D Dice, held back", xlabel="epoch", ylim=(0, 1))
    right.legend(frameon=False, loc="lower right")
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_agreement(table: pd.DataFrame) -> Figure:
    """Draw volumes found against true ones, and their differences (Bland & Altman 1986).

    Parameters
    ----------
    table : DataFrame
        With ``subject``, ``volume_ml`` and ``true_ml``, see :func:`companions.atrium.metrics.measure_all`.
    """
    found, truth = table["volume_ml"].to_numpy(), table["true_ml"].to_numpy()
    limits = bland_altman(found, truth)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="compressed")
    ends = [0.9 * min(found.min(), truth.min()), 1.1 * max(found.max(), truth.max())]
    left.plot(ends, ends, color="grey", linewidth=0.8)
    left.scatter(truth, found, color=PREDICTION, zorder=2)
    left.set(xlabel="true volume, mL", ylabel="found volume, mL", xlim=ends, ylim=ends, aspect="equal")
    right.scatter((found + truth) / 2, found - truth, color=PREDICTION, zorder=2)
    for place, style, words in (
        ("high", "--", "bias + 1.96 SD"),
        ("bias", "-", "bias"),
        ("low", "--", "bias - 1.96 SD"),
    ):
        words = f"{words}: {limits[place]:+.1f} mL"
        right.axhline(limits[place], color="#4a6fa5", linestyle=style, linewidth=1, label=words)
    right.axhline(0, color="grey", linewidth=0.8)
    right.set(xlabel="mean of both, mL", ylabel="found - true, mL", title=f"{len(table)} subjects")
    right.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    return figure


def gif_through(
    path: str | Path, subject: AtriumVolume, found: NDArray, window: Sequence[int], around: int = 4
) -> Path:
    """Write a gif through a volume, slice by slice, with the label's outline and that of what was found.

    Parameters
    ----------
    path : path
        Of the gif.
    subject : AtriumVolume
        Image and label.
    found : ndarray of bool, shape (slices, rows, columns)
        What was found.
    window : sequence of int
        Which rows and columns to show, see :func:`companions.atrium.model.learn_window`.
    around : int
        Slices before the first and after the last one with anything in it.
    """
    middle = np.array(subject.mask.shape[1:]) // 2
    rows, columns = (
        slice(max(0, middle[axis] + window[2 * axis]), middle[axis] + window[2 * axis + 1]) for axis in (0, 1)
    )
    zoom = max(2, 200 // (window[3] - window[2]))
    seen = np.flatnonzero((subject.mask | found).any(axis=(1, 2)))
    # One palette for all frames, in which both outlines have their place: one made of each frame's commonest colours
    # has greys only. Outlines are not smoothed, as there is nothing between grey and colour.
    colours = [255 * np.array(to_rgb(colour)) for colour in (LABEL, PREDICTION)]
    greys = np.linspace(0, 255, 62)[:, None].repeat(3, axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(np.concatenate([greys, colours])).astype(np.uint8).tobytes())
    frames = []
    for k in range(max(0, seen[0] - around), min(len(found), seen[-1] + around + 1)):
        grey = np.clip(subject.image[k, rows, columns].astype(np.float32) / BRIGHT, 0, 1) * 255
        picture = np.repeat(_enlarged(np.rint(grey), zoom, cv2.INTER_CUBIC)[..., None], 3, axis=2)
        for mask, colour in zip((subject.mask, found), colours, strict=True):
            large = _enlarged(mask[k, rows, columns], zoom, cv2.INTER_NEAREST)
            outlines, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, colour.tolist(), 1, cv2.LINE_8)
        words = f"{k + 1} of {len(found)}"
        cv2.putText(
            picture, words, (6, len(picture) - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA
        )
        frames.append(Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE))
    return save_gif(path, frames, milliseconds=120)


def _enlarged(picture: NDArray, zoom: int, how: int) -> NDArray[np.uint8]:
    return cv2.resize(picture.astype(np.uint8), None, fx=zoom, fy=zoom, interpolation=how)
