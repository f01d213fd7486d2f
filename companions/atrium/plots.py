"""Pictures of volumes: slices with outlines, three planes, curves, the agreement of volumes, a gif through a heart.

Draws and writes what it is given; knows no networks and reads no files.
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
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from companions.atrium.data import AtriumVolume
from companions.atrium.metrics import bland_altman
from heartbox.reporting.plots import image_grid, image_legend, save_gif
from heartbox.reporting.style import LABEL, PREDICTION, TRAINING_COLOUR, VALIDATION_COLOUR, WIDTH

WHITE_AT = 0.85  # grey value shown as white: few voxels are brighter, and blood lies just below
GIF_WIDTH = 400  # pixels, about
OUTLINES = {"atrium (label)": (LABEL, "-"), "atrium, as found": (PREDICTION, "--")}


# ---------------------------------------------------------------- slices


def show_slice(
    ax: Axes,
    image: NDArray,
    truth: NDArray | None = None,
    predicted: NDArray | None = None,
    title: str = "",
    aspect: float = 1.0,
) -> None:
    """Show a slice, (rows, columns) in [0, 1], with the outlines of the label and of the prediction (dashed).

    `aspect` is the height of a pixel divided by its width.
    """
    ax.imshow(np.asarray(image, dtype=np.float32), cmap="gray", vmin=0, vmax=WHITE_AT, aspect=aspect)
    for mask, (colour, style) in zip((truth, predicted), OUTLINES.values(), strict=True):
        if mask is not None and np.any(mask) and not np.all(mask):
            ax.contour(np.asarray(mask, dtype=float), [0.5], colors=[colour], linewidths=1.8, linestyles=style)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title)


def page_of_slices(
    images: Sequence[NDArray],
    truths: Sequence[NDArray] | None = None,
    predicted: Sequence[NDArray] | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Draw several slices on one page, each as :func:`show_slice` does, with a legend."""
    aspect = images[0].shape[0] / images[0].shape[1]
    figure, axes = image_grid(len(images), columns, aspect=aspect, titles=titles is not None)
    for i, (ax, image) in enumerate(zip(axes, images, strict=True)):
        masks = (truths[i] if truths else None), (predicted[i] if predicted else None)
        show_slice(ax, image, *masks, titles[i] if titles else "")
        ax.axis("off")
    image_legend(figure, _shown(truths is not None, predicted is not None))
    return figure


def _shown(truth: bool, predicted: bool) -> dict[str, tuple[str, str]]:
    """Return the entries of the legend for the outlines that are drawn."""
    return {name: style for (name, style), there in zip(OUTLINES.items(), (truth, predicted), strict=True) if there}


def draw_planes(volume: AtriumVolume, predicted: NDArray | None = None) -> Figure:
    """Draw the three planes through the centre of the labelled atrium, in true proportions."""
    k, i, j = (int(round(position)) for position in np.argwhere(volume.mask).mean(axis=0))
    slices_mm, rows_mm, columns_mm = volume.spacing
    planes = [
        ((k,), f"slice {k}\n(rows x columns)", rows_mm / columns_mm),
        ((slice(None), i), f"row {i}\n(slices x columns)", slices_mm / columns_mm),
        ((slice(None), slice(None), j), f"column {j}\n(slices x rows)", slices_mm / rows_mm),
    ]
    depth, rows, columns = np.multiply(volume.mask.shape, volume.spacing)
    widths = np.array([columns, columns, rows])
    height = WIDTH * max(rows, depth) / widths.sum() + 1.6
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, height), layout="constrained", width_ratios=widths)
    for ax, (cut, title, aspect) in zip(axes, planes, strict=True):
        show_slice(
            ax, volume.image[cut], volume.mask[cut], None if predicted is None else predicted[cut], title, aspect
        )
    figure.suptitle(f"{volume.name}: {volume.volume_ml:.0f} mL")
    image_legend(figure, _shown(True, predicted is not None))
    return figure


# ---------------------------------------------------------------- figures


def draw_training(history: pd.DataFrame, baseline: float) -> Figure:
    """Draw loss and Dice of each epoch, with the Dice of the mean mask (`baseline`)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.6), layout="compressed")
    left.plot(history["epoch"], history["train_loss"], "--", label="training", color=TRAINING_COLOUR)
    left.plot(history["epoch"], history["val_loss"], label="validation", color=VALIDATION_COLOUR)
    left.set(title="loss", xlabel="epoch", ylabel="Dice loss", ylim=(0, 1))
    right.plot(history["epoch"], history["val_dice"], label="U-Net", color=VALIDATION_COLOUR)
    right.axhline(baseline, color="grey", linestyle=":", label="mean mask (baseline)")
    right.set(title="validation, in 3-D", xlabel="epoch", ylabel="Dice", ylim=(0, 1))
    for ax in (left, right):
        ax.legend()
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_dice_along(names: Sequence[str], scores: Sequence[NDArray]) -> Figure:
    """Draw the Dice of each labelled slice along the atrium, one line per volume.

    Parameters
    ----------
    names : sequence of str
        Of the volumes.
    scores : sequence of ndarray, shape (labelled slices,)
        Dice of each slice from the first labelled one to the last; NaN counts as 0.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 3.6), layout="compressed")
    styles = ("-o", "--s", ":^", "-.d")
    for number, (name, along) in enumerate(zip(names, scores, strict=True)):
        ax.plot(np.linspace(0, 100, len(along)), np.nan_to_num(along), styles[number % 4], markersize=4, label=name)
    ax.set(xlabel="position from the first labelled slice to the last, %", ylabel="Dice of the slice")
    ax.set_ylim(-0.04, 1.04)  # no marker is cut at the rim
    ax.legend(loc="lower center", ncols=2)
    return figure


def draw_agreement(table: pd.DataFrame) -> Figure:
    """Draw predicted against true volumes, and their differences (Bland & Altman 1986).

    Parameters
    ----------
    table : DataFrame
        With ``volume_ml`` and ``true_ml``, see :func:`companions.atrium.metrics.measure_all`.
    """
    predicted, truth = table["volume_ml"].to_numpy(), table["true_ml"].to_numpy()
    agreement = bland_altman(predicted, truth)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.6), layout="constrained")
    ends = [0.9 * min(predicted.min(), truth.min()), 1.1 * max(predicted.max(), truth.max())]
    left.plot(ends, ends, color="grey", linewidth=1, label="predicted = true")
    left.scatter(truth, predicted, color=PREDICTION, edgecolor="black", zorder=2, label="one subject")
    left.set(xlabel="true volume, mL", ylabel="predicted volume, mL", xlim=ends, ylim=ends, aspect="equal")
    left.set_title("predicted and true volume")
    right.scatter((predicted + truth) / 2, predicted - truth, color=PREDICTION, edgecolor="black", zorder=2)
    for name, style, words in (("high", "--", "bias + 1.96 SD"), ("bias", "-", "bias"), ("low", ":", "bias - 1.96 SD")):
        words = f"{words}: {agreement[name]:+.1f} mL"
        right.axhline(agreement[name], color=TRAINING_COLOUR, linestyle=style, linewidth=1.5, label=words)
    right.axhline(0, color="grey", linewidth=0.8)
    right.set(xlabel="mean of the two, mL", ylabel="predicted - true, mL", title="Bland-Altman plot")
    for ax in (left, right):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return figure


# ---------------------------------------------------------------- a gif


def gif_through(
    path: str | Path, volume: AtriumVolume, predicted: NDArray, window: Sequence[int], margin: int = 4
) -> Path:
    """Write a gif through a volume, slice by slice, with the outlines of label (solid) and prediction (dashed).

    Parameters
    ----------
    path : path
        The gif.
    volume : AtriumVolume
        Image and label.
    predicted : ndarray of bool, shape (slices, rows, columns)
        The predicted mask.
    window : sequence of int
        The rows and columns to show, see :func:`companions.atrium.data.learn_window`.
    margin : int
        Slices shown before the first and after the last slice with an outline.
    """
    centre = np.array(volume.mask.shape[1:]) // 2
    rows, columns = (
        slice(max(0, centre[axis] + window[2 * axis]), centre[axis] + window[2 * axis + 1]) for axis in (0, 1)
    )
    zoom = max(2, GIF_WIDTH // (window[3] - window[2]))
    occupied = np.flatnonzero((volume.mask | predicted).any(axis=(1, 2)))
    # One palette for all frames, with both outline colours in it: a palette made from the commonest colours of a frame
    # has greys only. Outlines are drawn without smoothing, since the palette has nothing between grey and colour.
    colours = [255 * np.array(to_rgb(colour)) for colour in (LABEL, PREDICTION)]
    greys = np.linspace(0, 255, 24)[:, None].repeat(3, axis=1)  # few, for a small file
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(np.concatenate([greys, colours])).astype(np.uint8).tobytes())
    frames = []
    for k in range(max(0, occupied[0] - margin), min(len(predicted), occupied[-1] + margin + 1)):
        grey = np.clip(volume.image[k, rows, columns].astype(np.float32) / WHITE_AT, 0, 1) * 255
        frame = np.repeat(_enlarged(np.rint(grey), zoom, cv2.INTER_CUBIC)[..., None], 3, axis=2)
        for mask, colour, dashed in zip((volume.mask, predicted), colours, (False, True), strict=True):
            _draw_outline(frame, _enlarged(mask[k, rows, columns], zoom, cv2.INTER_NEAREST), colour, dashed)
        frame = np.concatenate([frame, np.zeros((60, *frame.shape[1:]), np.uint8)])  # words stand below the image
        _write(frame, f"slice {k + 1} of {len(predicted)}", (8, len(frame) - 38), np.full(3, 255.0))
        _write(frame, "atrium (label)", (8, len(frame) - 12), colours[0])
        _write(frame, "as found (dashed)", (190, len(frame) - 12), colours[1])
        frames.append(Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE))
    return save_gif(path, frames, milliseconds=120)


def _draw_outline(frame: NDArray[np.uint8], mask: NDArray[np.uint8], colour: NDArray, dashed: bool) -> None:
    """Draw the outline of a mask, two pixels wide, into a frame, which is changed in place."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        parts = [outline[start : start + 7] for start in range(0, len(outline), 12)] if dashed else [outline]
        cv2.polylines(frame, parts, not dashed, colour.tolist(), 2, cv2.LINE_8)


def _write(frame: NDArray[np.uint8], words: str, corner: tuple[int, int], colour: NDArray) -> None:
    """Write words into a frame, which is changed in place; `corner` is the lower left one."""
    cv2.putText(frame, words, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour.tolist(), 1, cv2.LINE_8)


def _enlarged(image: NDArray, zoom: int, interpolation: int) -> NDArray[np.uint8]:
    return cv2.resize(image.astype(np.uint8), None, fx=zoom, fy=zoom, interpolation=interpolation)
