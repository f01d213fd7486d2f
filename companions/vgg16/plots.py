"""Pictures of the comparison: how much images differ from layer to layer, predictions against labels.

Draws what it is given; knows no networks.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from heartbox.boxes import EDGE_NAMES
from heartbox.reporting.style import PREDICTION, TEXT, TRAINING_COLOUR, WIDTH


def draw_differences(networks: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw :func:`companions.vgg16.metrics.difference_by_layer` of each network, one below the other.

    The number above a bar is the number of directions.
    """
    figure, axes = plt.subplots(len(networks), 1, figsize=(WIDTH, 3.8 * len(networks)), sharey=True, squeeze=False)
    for ax, (name, layers) in zip(axes[:, 0], networks.items(), strict=True):
        bars = ax.bar(range(len(layers)), 100 * layers["difference"], color=TRAINING_COLOUR)
        ax.bar_label(bars, [f"{directions:.1f}" for directions in layers["directions"]], fontsize=TEXT)
        ax.set_xticks(range(len(layers)), layers.index, rotation=40, ha="right")
        ax.set(title=f"{name} (above each bar: directions)", yscale="log", ylabel="difference, %")
        ax.margins(y=0.15)
        ax.yaxis.set_major_formatter("{x:g}")
    figure.tight_layout()
    return figure


def draw_predictions(predictions: Mapping[str, NDArray], truth: NDArray) -> Figure:
    """Draw each prediction against its label, one panel per border of the heart, in pixels.

    On the diagonal a prediction equals its label; a horizontal row of points ignores the image.
    """
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, WIDTH), layout="compressed")
    for edge, (ax, name) in enumerate(zip(axes.flat, EDGE_NAMES, strict=True)):
        for (who, boxes), colour, marker in zip(predictions.items(), ("black", PREDICTION), "xo", strict=False):
            style = {"edgecolor": "black", "linewidth": 0.5} if marker == "o" else {}
            ax.scatter(truth[:, edge], boxes[:, edge], s=36, color=colour, marker=marker, label=who, **style)
        middle = truth[:, edge].mean()
        ax.axline((middle, middle), slope=1, color="grey", linewidth=1, label="prediction = label")
        ax.set(title=name, xlabel="label, px", ylabel="prediction, px", aspect="equal")
        values = np.concatenate([truth[:, edge], *(boxes[:, edge] for boxes in predictions.values())])
        ends = values.min() - 5, values.max() + 5
        ax.set(xlim=ends, ylim=ends)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure
