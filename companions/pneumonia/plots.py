"""Pictures for the pneumonia notebook: films with boxes and evidence, curves, calibration.

Draws what it is handed: knows no networks and reads no films.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from heartbox.reporting.plots import LABEL, PREDICTION, draw_box, show_xray

COLOURS = (PREDICTION, "#4a6fa5", "#7a7a7a", "#9b5de5")


def page_of_films(
    images: Sequence[NDArray],
    boxes: Sequence[NDArray],
    titles: Sequence[str],
    maps: Sequence[NDArray] | None = None,
    columns: int = 6,
    side: float = 2.1,
) -> Figure:
    """Draw films with the boxes of their opacities, and over them what speaks for pneumonia and against it.

    Parameters
    ----------
    images : sequence of ndarray, shape (size, size)
        In [0, 1].
    boxes : sequence of ndarray, shape (n, 4)
        In pixels of their film.
    titles : sequence of str
        One above each.
    maps : sequence of ndarray, shape (h, w), optional
        Signed evidence: red for, blue against, the strongest of all maps in full colour.
    columns : int
        Films in a row.
    side : float
        Inches of each.

    Returns
    -------
    Figure
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * side, rows * (side + 0.25)), layout="compressed", squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    strongest = max((float(np.abs(one).max()) for one in maps), default=1.0) or 1.0 if maps is not None else 1.0
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        show_xray(ax, np.asarray(image, dtype=np.float32), titles[i])
        if maps is not None:
            # Cells are shown as they are: smoothing would claim to know more than a map of 7 x 7 does.
            strength = maps[i] / strongest
            extent = (0, image.shape[1], image.shape[0], 0)
            shown = ax.imshow(strength, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.6 * np.abs(strength), extent=extent)
        for box in boxes[i]:
            draw_box(ax, box, LABEL)
    if maps is not None and len(maps):
        bar = figure.colorbar(shown, ax=axes, orientation="horizontal", fraction=0.05, pad=0.02, shrink=0.6)
        bar.set_ticks([-1, 0, 1], labels=["against", "0", "for pneumonia"])
    return figure


def draw_history(history: pd.DataFrame) -> Figure:
    """Draw losses and the held-out AUROC over the epochs, as :func:`heartbox.training.loop.fit` returns them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8))
    left.plot(history["epoch"], history["train_loss"], label="training", color="#4a6fa5")
    left.plot(history["epoch"], history["val_loss"], label="held out", color=PREDICTION)
    left.set(title="loss", xlabel="epoch", ylim=(0, None))
    left.legend(frameon=False)
    right.plot(history["epoch"], history["val_auroc"], color=PREDICTION)
    right.axhline(0.5, color="grey", linestyle=":", label="chance")
    right.set(title="held-out AUROC", xlabel="epoch", ylim=(0.3, 1))
    right.legend(frameon=False)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.tight_layout()
    return figure


def draw_curves(targets: NDArray, scores: dict[str, NDArray], point: tuple[float, ...] | None = None) -> Figure:
    """Draw the ROC curve and the precision-recall curve of several answers about the same films.

    Parameters
    ----------
    targets : ndarray, shape (N,)
        Labels.
    scores : dict
        Scores by name.
    point : tuple of float, optional
        Recall, specificity and precision that the first of them has at its threshold, to mark.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    for (name, score), colour in zip(scores.items(), COLOURS, strict=False):
        false, true, _ = roc_curve(targets, score)
        left.plot(false, true, color=colour, label=f"{name}: {roc_auc_score(targets, score):.2f}")
        precision, recall, _ = precision_recall_curve(targets, score)
        average = average_precision_score(targets, score)
        right.step(recall, precision, where="post", color=colour, label=f"{name}: {average:.2f}")
    left.plot([0, 1], [0, 1], color="grey", linestyle=":")
    right.axhline(np.mean(targets), color="grey", linestyle=":")
    if point is not None:
        recall, specificity, precision = point
        left.plot(1 - specificity, recall, "o", color="black", label="the first at its threshold")
        right.plot(recall, precision, "o", color="black")
    left.set(xlabel="false alarms among those without", ylabel="recall", title="ROC, with area", aspect="equal")
    right.set(xlabel="recall", ylabel="precision", title="precision and recall, with average precision", ylim=(0, 1.03))
    left.legend(fontsize=8, loc="lower right")
    right.legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def draw_calibration(targets: NDArray, answers: dict[str, NDArray], bins: int = 6) -> Figure:
    """Draw how often films have pneumonia against the probability that was said, in bins of equally many films.

    Bars are 95 % intervals of the share (Wilson 1927): with few films they are wide.
    """
    figure, axes = plt.subplots(1, len(answers), figsize=(3.4 * len(answers), 3.6), squeeze=False, sharey=True)
    for ax, (name, probability), colour in zip(axes[0], answers.items(), COLOURS, strict=False):
        ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for chosen in np.array_split(np.argsort(probability, kind="stable"), bins):
            hits, of = int(np.sum(targets[chosen])), len(chosen)
            low, high = binomtest(hits, of).proportion_ci(method="wilson")
            said = probability[chosen].mean()
            ax.vlines(said, low, high, color=colour, linewidth=1)
            ax.plot(said, hits / of, "o", color=colour, markersize=5)
        ax.set(xlabel="said", title=name, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes[0, 0].set_ylabel("share that has pneumonia")
    figure.tight_layout()
    return figure
