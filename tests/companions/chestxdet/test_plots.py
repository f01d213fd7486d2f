"""Pictures of the ChestX-Det companion: names of boxes that can be read, markers that are whole."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from companions.chestxdet.plots import draw_findings, draw_study

NAMES = ["Calcification", "Consolidation", "Mass", "Nodule"]


def test_names_cover_neither_each_other_nor_small_boxes():
    truth = {
        "boxes": torch.tensor([[130.0, 90, 150, 100], [150, 115, 160, 125], [60, 110, 80, 120]]),
        "labels": torch.tensor([2, 4, 1]),
    }
    answer = {
        "boxes": torch.tensor([[128.0, 88, 152, 102]]),
        "labels": torch.tensor([3]),
        "scores": torch.tensor([0.9]),
    }
    figure = draw_findings([np.zeros((224, 224))], [truth], NAMES, [answer], columns=2)
    figure.canvas.draw()
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["Consolidation", "Nodule", "Calcification", "Mass 0.90"]
    words = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(words, 2))
    inside = ax.get_window_extent()
    assert all(inside.x0 <= one.x0 and one.x1 <= inside.x1 for one in words)
    small = [patch.get_window_extent() for patch in ax.patches]
    assert not any(one.overlaps(box) for one in words for box in small)
    plt.close(figure)


def test_the_best_trial_is_not_cut_at_the_rim():
    trials = pd.DataFrame({"number": range(4), "value": [0.5, 0.3, 0.2, 0.4], "params_width": [8, 16, 24, 16]})
    figure = draw_study(trials, "recall")
    figure.canvas.draw()
    for ax in figure.axes[:2]:
        best = ax.lines[1]
        x, y = ax.transData.transform(np.transpose(best.get_data()))[0]
        half = best.get_markersize() / 72 * figure.dpi * 0.75  # of a diamond's diagonal
        rim = ax.get_window_extent()
        assert rim.x0 < x - half and x + half < rim.x1
        assert y + half < rim.y1
    plt.close(figure)
