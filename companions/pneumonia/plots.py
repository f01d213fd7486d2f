"""Pictures for the pneumonia notebook: films with boxes and evidence, curves, calibration.

Draws what it is given; it does not know networks and reads no files.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from companions.pneumonia.metrics import wilson_interval
from heartbox.reporting.plots import draw_box, image_grid, image_legend, show_xray
from heartbox.reporting.style import DARK_OUTLINE, EVIDENCE_MAP, LABEL, TRAINING_COLOUR, VALIDATION_COLOUR, WIDTH

# Colour and line style of each answer: told apart by either alone.
STYLES = ((VALIDATION_COLOUR, "-"), (TRAINING_COLOUR, "--"), ("#6b6b6b", "-."), ("#111111", ":"))


def page_of_films(
    images: Sequence[NDArray],
    boxes: Sequence[NDArray],
    titles: Sequence[str],
    maps: Sequence[NDArray] | None = None,
    columns: int = 4,
) -> Figure:
    """Draw films with the boxes of their opacities and, over them, the evidence for and against pneumonia.

    Parameters
    ----------
    images : sequence of ndarray, shape (size, size)
        In [0, 1].
    boxes : sequence of ndarray, shape (n, 4)
        In pixels of their film.
    titles : sequence of str
        One above each film.
    maps : sequence of ndarray, shape (h, w), optional
        Signed evidence: green for, purple against; the strongest value of all maps in full colour. Strong places
        carry their sign, because the two colours look alike in grey print.
    columns : int
        Films in a row.

    Returns
    -------
    Figure
    """
    figure, axes = image_grid(len(images), columns, titles=True)
    strongest = max((float(np.abs(evidence).max()) for evidence in maps), default=0.0) if maps is not None else 0.0
    for i, (ax, image) in enumerate(zip(axes, images, strict=True)):
        show_xray(ax, np.asarray(image, dtype=np.float32), titles[i])
        if maps is not None:
            # Cells are shown as they are: smoothing would claim more resolution than a map of 7 x 7 has.
            strength = maps[i] / (strongest or 1.0)
            extent = (0, image.shape[1], image.shape[0], 0)
            shown = ax.imshow(
                strength, cmap=EVIDENCE_MAP, vmin=-1, vmax=1, alpha=0.75 * np.abs(strength), extent=extent
            )
            _write_signs(ax, strength, image.shape)
        for box in boxes[i]:
            draw_box(ax, box, LABEL)
    if maps is not None:
        figure.set_figheight(figure.get_figheight() + 1.0)  # room for the bar and the legend
        bar = figure.colorbar(shown, ax=axes, orientation="horizontal", aspect=30, pad=0.02, shrink=0.9)
        bar.set_ticks([-1, 0, 1], labels=["against", "0", "for pneumonia"])
    if any(len(film_boxes) for film_boxes in boxes):
        image_legend(figure, {"opacity (label)": (LABEL, "-")})
    return figure


def _write_signs(ax: Axes, strength: NDArray, shape: tuple[int, int], least: float = 0.4) -> None:
    """Write the sign of each place of a map whose strength is at least `least`."""
    high, wide = np.divide(shape, strength.shape)
    for row, column in np.argwhere(np.abs(strength) >= least):
        sign = "+" if strength[row, column] > 0 else "−"
        place = ((column + 0.5) * wide, (row + 0.5) * high)
        ax.text(*place, sign, color="white", ha="center", va="center", path_effects=DARK_OUTLINE)


def draw_history(history: pd.DataFrame) -> Figure:
    """Draw losses and validation AUROC over the epochs, as :func:`heartbox.training.loop.fit` returns them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2), layout="constrained")
    left.plot(history["epoch"], history["train_loss"], "--", marker=".", label="training", color=TRAINING_COLOUR)
    left.plot(history["epoch"], history["val_loss"], marker=".", label="validation", color=VALIDATION_COLOUR)
    left.set(title="loss", xlabel="epoch", ylabel="weighted cross-entropy")
    left.set_ylim(0, 1.1 * history[["train_loss", "val_loss"]].max(axis=None))
    right.plot(history["epoch"], history["val_auroc"], marker=".", color=VALIDATION_COLOUR, label="validation")
    right.axhline(0.5, color="grey", linestyle=":", label="chance")
    right.set(title="ranking", xlabel="epoch", ylabel="AUROC", ylim=(0.3, 1))
    for ax in (left, right):
        ax.legend()
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_curves(targets: NDArray, scores: dict[str, NDArray], point: tuple[float, ...] | None = None) -> Figure:
    """Draw ROC and precision-recall curves of several answers about the same films.

    Parameters
    ----------
    targets : ndarray, shape (N,)
        Labels.
    scores : dict
        Scores by name.
    point : tuple of float, optional
        Recall, specificity and precision of the first answer at its threshold, which are marked.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 5.2), layout="constrained")
    lines = {}
    for (name, score), (colour, style) in zip(scores.items(), STYLES, strict=False):
        false, true, _ = roc_curve(targets, score)
        words = f"{name}: AUROC {roc_auc_score(targets, score):.2f}, "
        words += f"average precision {average_precision_score(targets, score):.2f}"
        lines[words] = left.plot(false, true, style, color=colour, linewidth=2)[0]
        precision, recall, _ = precision_recall_curve(targets, score)
        right.step(recall, precision, style, where="post", color=colour, linewidth=2)
    lines["chance"] = left.plot([0, 1], [0, 1], color="grey", linewidth=1)[0]
    right.axhline(np.mean(targets), color="grey", linewidth=1)
    if point is not None:
        recall, specificity, precision = point
        lines[f"{next(iter(scores))}, at its threshold"] = left.plot(
            1 - specificity, recall, "o", color="black", markersize=8
        )[0]
        right.plot(recall, precision, "o", color="black", markersize=8)
    left.set(xlabel="false positive rate", ylabel="recall", title="ROC", aspect="equal")
    right.set(xlabel="recall", ylabel="precision", title="precision and recall", ylim=(0, 1.03), box_aspect=1)
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=1)
    return figure


def draw_calibration(targets: NDArray, answers: dict[str, NDArray], bins: int = 6) -> Figure:
    """Draw the observed share of pneumonia over the predicted probability of pneumonia, in bins of equally many films.

    Bars are 95 % intervals of the share (Wilson 1927), which are wide for few films.
    """
    figure, axes = plt.subplots(
        1, len(answers), figsize=(WIDTH, WIDTH / len(answers) + 0.9), squeeze=False, sharey=True, layout="constrained"
    )
    for ax, (name, probability), (colour, _) in zip(axes[0], answers.items(), STYLES, strict=False):
        ax.plot([0, 1], [0, 1], color="grey", linewidth=1, label="perfect calibration")
        for chosen in np.array_split(np.argsort(probability, kind="stable"), bins):
            positives, films = int(np.sum(targets[chosen])), len(chosen)
            low, high = wilson_interval(positives, films)
            predicted = probability[chosen].mean()
            ax.vlines(predicted, low, high, color=colour, linewidth=1.5, label="95 % interval")
            ax.plot(predicted, positives / films, "o", color=colour, markersize=6, label="films of a bin")
        ax.set(title=name.replace(", ", ",\n"), xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        ax.set_xticks([0, 0.5, 1])
        ax.set_xlabel("predicted probability")
    axes[0, 0].set_ylabel("share with pneumonia")
    handles = dict(zip(*axes[0, 0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3)
    return figure
