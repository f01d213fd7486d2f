"""Pictures of both stages: films with boxes and scores, confusion matrices, curves.

Draws what it is given; it does not know networks and reads no files.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from companions.chestxdet.metrics import AveragePrecision
from heartbox.reporting.plots import draw_box, image_grid, image_legend, show_xray
from heartbox.reporting.style import DARK_OUTLINE, LABEL, PREDICTION, TEXT, TRAINING_COLOUR, VALIDATION_COLOUR, WIDTH

# Ten colours (Okabe & Ito 2008, with grey and brown) and four line styles: each curve differs in both from its like.
COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#7f7f7f", "#8c564b", "#bcbd22")
STYLES = ("-", "--", "-.", ":")


def draw_findings(
    images: Sequence[NDArray],
    truths: Sequence[dict[str, Tensor]],
    findings: Sequence[str],
    answers: Sequence[dict[str, Tensor]] | None = None,
    threshold: float = 0.5,
    titles: Sequence[str] | None = None,
    columns: int = 3,
) -> Figure:
    """Draw films with their boxes: labels solid, with their names; detections dashed, with name and score.

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
    """
    figure, axes = image_grid(len(images), columns, titles=titles is not None)
    side = WIDTH / columns
    for i, (ax, image) in enumerate(zip(axes, images, strict=True)):
        show_xray(ax, np.asarray(image), titles[i] if titles else "")
        words = []
        for box, label in zip(truths[i]["boxes"].tolist(), truths[i]["labels"].tolist(), strict=True):
            draw_box(ax, box, LABEL)
            words.append((box, findings[label - 1], LABEL))
        if answers is not None:
            columns_of = (answers[i][key].tolist() for key in ("boxes", "labels", "scores"))
            for box, label, score in zip(*columns_of, strict=True):
                if score >= threshold:
                    draw_box(ax, box, PREDICTION, dashed=True)
                    words.append((box, f"{findings[label - 1]} {score:.2f}", PREDICTION))
        _write_names(ax, image.shape, words, side)
    styles = {"finding (label)": (LABEL, "-")}
    if answers is not None:
        styles["as found, with its score"] = (PREDICTION, "--")
    image_legend(figure, styles)
    return figure


def _write_names(
    ax: Axes, shape: tuple[int, int], words: Sequence[tuple[Sequence[float], str, str]], side: float
) -> None:
    """Write the name of each box beside it, where it covers as little as possible of the other names and boxes.

    `words` are box, name and colour: labels are rather written above their box, detections below it.
    """
    rows, columns = shape
    point = 1.1 * columns / side / 72  # in pixels of the film; the layout leaves a little less than `side` inches
    high = 1.2 * TEXT * point
    names: list[tuple[float, float, float, float]] = []
    boxes = [box for box, _, _ in words]
    for (x_min, y_min, x_max, y_max), text, colour in words:
        wide = TextPath((0, 0), text, TEXT).get_extents().x1 * point
        above, below = y_min - 1.1 * high, y_max + 0.2 * high
        lefts = (x_min, x_max - wide, x_max + 0.2 * high, x_min - wide - 0.2 * high)
        tops = (above, below) if colour == LABEL else (below, above)
        places = [(left, top) for top in (*tops, above - high, below + high) for left in lefts[:2]]
        places += [(left, top) for left in lefts[2:] for top in (y_min, y_max - high, (y_min + y_max - high) / 2)]
        on_film = [
            (min(max(left, 0), max(columns - wide, 0)), min(max(top, 0), max(rows - high, 0))) for left, top in places
        ]
        rectangles = [(left, top, left + wide, top + high) for left, top in on_film]
        covered = [
            3 * sum(_shared(one, name) for name in names) + sum(_shared(one, box) for box in boxes)
            for one in rectangles
        ]
        wanted = [area + 0.02 * wide * high * number for number, area in enumerate(covered)]  # the first, if alike
        names.append(rectangles[int(np.argmin(wanted))])
        ax.text(*names[-1][:2], text, color=colour, ha="left", va="top", path_effects=DARK_OUTLINE, clip_on=True)


def _shared(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the area that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def draw_confusion(matrices: dict[str, dict[str, float]]) -> Figure:
    """Draw confusion matrices side by side, from the counts of ``companions.pneumonia.metrics.confusion_figures``."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(WIDTH, WIDTH / len(matrices) + 0.6), layout="constrained")
    for ax, (name, counts) in zip(np.atleast_1d(axes), matrices.items(), strict=True):
        table = np.array([[counts["TN"], counts["FP"]], [counts["FN"], counts["TP"]]])
        ax.imshow(table / np.maximum(table.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=2)
        for (row, column), count in np.ndenumerate(table):
            words = f"{count}\n{(('TN', 'FP'), ('FN', 'TP'))[row][column]}"
            ax.text(column, row, words, ha="center", va="center", fontsize=TEXT + 2)
        ax.set(xticks=[0, 1], yticks=[0, 1], xlabel="called", ylabel="label", title=name)
        ax.set_xticklabels(["normal", "abnormal"])
        ax.set_yticklabels(["normal", "abnormal"], rotation=90, va="center")
    return figure


def draw_tradeoff(scores: ArrayLike, abnormal: ArrayLike, floor: float, chosen: dict[str, float]) -> Figure:
    """Draw recall over specificity for every threshold, with the floor and the threshold chosen."""
    scores, abnormal = np.asarray(scores), np.asarray(abnormal).astype(bool)
    steps = np.r_[-np.inf, np.unique(scores), np.inf]
    recall = [(scores[abnormal] >= step).mean() for step in steps]
    specificity = [(scores[~abnormal] < step).mean() for step in steps]
    figure, ax = plt.subplots(figsize=(0.85 * WIDTH, 4.2), layout="constrained")
    ax.step(specificity, recall, where="post", color=VALIDATION_COLOUR, linewidth=2, label="all thresholds")
    ax.axvspan(-0.03, floor, color="0.9", label=f"below the floor of {floor:.0%}")
    ax.plot(0, 1, "X", color="black", markersize=11, label='"everything is abnormal"')
    ax.plot(chosen["specificity"], chosen["recall"], "o", color=TRAINING_COLOUR, markersize=11, label="chosen")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.05), xlabel="specificity", ylabel="recall", title="validation films")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def draw_training(history: pd.DataFrame, baseline: float) -> Figure:
    """Draw a detector's loss and the mean average precision (mAP) on the validation films over the epochs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.8), layout="constrained")
    left.plot(history["epoch"], history["train_loss"], "--", color=TRAINING_COLOUR, marker=".", label="training")
    left.set(title="training films", xlabel="epoch", ylabel="sum of the four losses")
    left.set_ylim(0, 1.05 * history["train_loss"].max())
    right.plot(history["epoch"], history["val_map50"], color=VALIDATION_COLOUR, marker="o", label="IoU 0.5")
    right.plot(history["epoch"], history["val_map"], "--", color="#111111", marker="o", label="IoU 0.5 to 0.95")
    right.axhline(baseline, color="grey", linestyle=":", linewidth=2, label="mean boxes, IoU 0.5")
    right.set(title="validation films", xlabel="epoch", ylabel="mAP")
    right.set_ylim(0, 1.1 * max(history["val_map50"].max(), baseline, 0.01))
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def draw_precision_recall(measured: AveragePrecision, ious: Sequence[float] = (0.3, 0.5)) -> Figure:
    """Draw the precision-recall curve of each finding, one picture for each overlap."""
    recalls = np.linspace(0, 1, measured.precision.shape[1])
    figure, axes = plt.subplots(1, len(ious), figsize=(WIDTH, 6.4), sharey=True, squeeze=False, layout="constrained")
    lines = {}
    for ax, iou in zip(axes[0], ious, strict=True):
        curves = measured.precision[measured.ious.index(iou)]
        for k, finding in enumerate(measured.findings):
            if not np.isnan(measured.at(iou)[k]):
                values = " / ".join(f"{measured.at(each)[k]:.2f}" for each in ious)
                style, colour = STYLES[k % len(STYLES)], COLOURS[k % len(COLOURS)]
                words = f"{finding}: {values} ({measured.boxes[k]})"
                lines[words] = ax.plot(recalls, curves[:, k], style, color=colour, linewidth=2)[0]
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", title=f"IoU at least {iou}", box_aspect=1)
    axes[0, 0].set_ylabel("precision")
    title = f"AP at IoU {' / '.join(str(iou) for iou in ious)} (number of boxes)"
    figure.legend(lines.values(), lines, title=title, loc="outside lower center", ncols=2)
    return figure


def draw_study(trials: pd.DataFrame, goal: str) -> Figure:
    """Draw the result of each trial of a study, in order and over each of its settings.

    Parameters
    ----------
    trials : DataFrame
        From Optuna's ``study.trials_dataframe()``: columns ``number``, ``value`` and ``params_...``.
    goal : str
        Name of the value.
    """
    done = trials.dropna(subset="value")
    settings = [column for column in done if column.startswith("params_")]
    panels = ["number", *settings]
    rows = -(-len(panels) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(WIDTH, 2.5 * rows), sharey=True, squeeze=False, layout="constrained")
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    best = done["value"].idxmax()
    for ax, column in zip(axes.flat, panels, strict=False):
        values = done[column].astype(float)
        ax.margins(0.12)  # no marker is cut at the rim
        ax.plot(values, done["value"], "o", color=TRAINING_COLOUR, markersize=7, label="trial")
        ax.plot(values[best], done["value"][best], "D", color="black", markersize=9, label="best trial")
        ax.set_xlabel("trial" if column == "number" else column.removeprefix("params_").replace("_", " "))
        if values.max() > 20 * values.min() > 0:
            ax.set_xscale("log")
        if column in ("number", "params_blocks", "params_width"):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    figure.supylabel(goal)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure
