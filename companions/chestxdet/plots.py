"""Pictures of both stages: films with boxes and scores, a confusion matrix, curves.

Draws what it is handed: knows no networks and reads no files.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from companions.chestxdet.metrics import AveragePrecision
from heartbox.reporting.plots import DARK_OUTLINE, LABEL, PREDICTION, draw_box, show_xray


def draw_findings(
    images: Sequence[NDArray],
    truths: Sequence[dict[str, Tensor]],
    findings: Sequence[str],
    answers: Sequence[dict[str, Tensor]] | None = None,
    threshold: float = 0.5,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    side: float = 2.7,
) -> Figure:
    """Draw films with their boxes; true ones drawn through, found ones dashed, with name and score.

    Parameters
    ----------
    images : sequence of ndarray, shape (rows, columns)
        In [0, 1].
    truths, answers : sequence of dict
        ``boxes`` and ``labels``, answers also ``scores``; answers below `threshold` are not drawn.
    findings : sequence of str
        Names of the classes 1, 2 ...
    titles : sequence of str, optional
        One above each film.
    columns : int
        Films in a row.
    side : float
        Inches of each film.
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * side, rows * (side + 0.2)), layout="compressed")
    for ax in np.atleast_1d(axes).flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(np.atleast_1d(axes).flat, images, strict=False)):
        show_xray(ax, np.asarray(image), titles[i] if titles else "")
        words = []
        for box, label in zip(truths[i]["boxes"].tolist(), truths[i]["labels"].tolist(), strict=True):
            draw_box(ax, box, LABEL, "label")
            words.append((box, findings[label - 1], LABEL))
        if answers is not None:
            answer = answers[i]
            for box, label, score in zip(*(answer[key].tolist() for key in ("boxes", "labels", "scores")), strict=True):
                if score >= threshold:
                    draw_box(ax, box, PREDICTION, "found", dashed=True)
                    words.append((box, f"{findings[label - 1]} {score:.2f}", PREDICTION))
        _write(ax, image.shape, words, side)
    drawn = {}
    for ax in np.atleast_1d(axes).flat:
        handles, names = ax.get_legend_handles_labels()
        drawn |= dict(zip(names, handles, strict=True))
    if "found" in drawn:
        figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=len(drawn), frameon=False, fontsize=9)
    return figure


def _write(ax, shape: tuple[int, int], words: Sequence[tuple[Sequence[float], str, str]], side: float) -> None:
    """Write the name of each box at its upper or lower border, where the film and the other names leave room.

    `words` are box, name and colour: labels above their box, what was found below.
    """
    rows, columns = shape
    size = 7  # points, of which an inch has 72
    high, letter = 1.3 * size / 72 / side * rows, 0.6 * size / 72 / side * columns
    taken: list[tuple[float, float, float, float]] = []
    for box, text, colour in words:
        wide = len(text) * letter
        left = min(max(box[2] - wide if box[0] > 0.6 * columns else box[0], 0), max(columns - wide, 0))
        wanted = box[1] - high if colour == LABEL else box[3]
        places = [wanted + step * high for step in (0, 1, -1, 2, -2, 3, -3, 4, -4)]
        places = [min(max(place, 0), rows - high) for place in places]
        # Where the film is full, names overlap rather than stand far from their box.
        top = next((y for y in places if not any(
            left < x_max and left + wide > x_min and y < y_max - 0.1 and y + high > y_min + 0.1
            for x_min, y_min, x_max, y_max in taken)), places[0])  # fmt: skip
        taken.append((left, top, left + wide, top + high))
        ax.text(left, top, text, color=colour, fontsize=size, ha="left", va="top",
                path_effects=DARK_OUTLINE, clip_on=True)  # fmt: skip


def draw_confusion(matrices: dict[str, dict[str, float]]) -> Figure:
    """Draw confusion matrices side by side, each as :func:`companions.chestxdet.metrics.confusion` counts it."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(3.0 * len(matrices), 3.0), layout="compressed")
    for ax, (name, counts) in zip(np.atleast_1d(axes), matrices.items(), strict=True):
        table = np.array([[counts["true_normal"], counts["false_alarms"]], [counts["missed"], counts["true_ill"]]])
        ax.imshow(table / np.maximum(table.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1.3)
        for (row, column), count in np.ndenumerate(table):
            ax.text(column, row, str(count), ha="center", va="center", fontsize=14)
        ax.set(xticks=[0, 1], yticks=[0, 1], xlabel="called", ylabel="is")
        ax.set_xticklabels(["normal", "ill"])
        ax.set_yticklabels(["normal", "ill"], rotation=90, va="center")
        ax.set_title(name, fontsize=9)
    return figure


def draw_tradeoff(scores: ArrayLike, ill: ArrayLike, floor: float, chosen: dict[str, float]) -> Figure:
    """Draw recall over specificity for every threshold, with the floor and the point chosen."""
    scores, ill = np.asarray(scores), np.asarray(ill).astype(bool)
    steps = np.r_[-np.inf, np.unique(scores), np.inf]
    recall = [(scores[ill] >= step).mean() for step in steps]
    specificity = [(scores[~ill] < step).mean() for step in steps]
    figure, ax = plt.subplots(figsize=(4.6, 3.6))
    ax.step(specificity, recall, where="post", color=PREDICTION)
    ax.axvspan(0, floor, color="0.9", label=f"below the floor of {floor:.0%}")
    ax.plot(0, 1, "x", color="#e63946", markersize=9, label='"everything is ill"', clip_on=False)
    ax.plot(chosen["specificity"], chosen["recall"], "o", color="#1d3557", label="chosen")
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="specificity", ylabel="recall", title="validation films")
    ax.legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    return figure


def draw_rise(history: pd.DataFrame, baseline: float) -> Figure:
    """Draw a detector's loss and the mean average precision of its validation films over the epochs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
    left.plot(history["epoch"], history["train_loss"], color="#4a6fa5", marker=".")
    left.set(title="training loss", xlabel="epoch", ylim=(0, None))
    right.plot(history["epoch"], history["val_map50"], color=PREDICTION, marker=".", label="mAP at IoU 0.5")
    right.plot(history["epoch"], history["val_map"], color="#4a6fa5", marker=".", label="mAP over 0.5 to 0.95")
    right.axhline(baseline, color="grey", linestyle=":", label="usual boxes, at 0.5")
    right.set(title="validation films", xlabel="epoch", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.tight_layout()
    return figure


def draw_precision_recall(measured: AveragePrecision, ious: Sequence[float] = (0.3, 0.5)) -> Figure:
    """Draw the precision-recall curve of each finding, one picture an overlap."""
    recalls = np.linspace(0, 1, measured.precision.shape[1])
    figure, axes = plt.subplots(1, len(ious), figsize=(5.2 * len(ious), 3.4), sharey=True, layout="compressed")
    colours = plt.get_cmap("tab10").colors
    for ax, iou in zip(np.atleast_1d(axes), ious, strict=True):
        curves, areas = measured.precision[measured.ious.index(iou)], measured.at(iou)
        for k, finding in enumerate(measured.findings):
            if not np.isnan(areas[k]):
                words = f"{finding} ({measured.boxes[k]}): {areas[k]:.2f}"
                style = "-" if k < len(colours) else "--"
                width = 3.5 - 2.3 * k / len(measured.findings)  # so that none hides another that runs alike
                ax.plot(recalls, curves[:, k], style, color=colours[k % len(colours)], label=words, linewidth=width)
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", title=f"found from IoU {iou} on")
        ax.legend(fontsize=7, title="finding (boxes): AP", title_fontsize=7, bbox_to_anchor=(1, 1), loc="upper left")
    np.atleast_1d(axes)[0].set_ylabel("precision")
    return figure
