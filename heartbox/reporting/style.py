"""The look that all pictures share: colours, text size and page width, set here and nowhere else."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.patheffects import withStroke

WIDTH = 8.4  # inches; at 100 dots an inch a notebook shows all of it in a window of 960 pixels
TEXT = 12  # points, for every text: legible from the back of a classroom
# One meaning, one colour everywhere. They differ in lightness too, so they can be told apart with any colour vision
# and in grey print; labels are drawn solid and predictions dashed.
LABEL, PREDICTION, CHEST = "#4de3c1", "#f58518", "#5b6fe6"
WRONG = "#e45756"  # a box that is shown because it is wrong
TRAINING_COLOUR, VALIDATION_COLOUR = "#4a6fa5", PREDICTION
EVIDENCE_MAP = "PRGn"  # for signed maps: purple to green, so that an orange line stays visible on it
DARK_OUTLINE = [withStroke(linewidth=2.5, foreground="#202020")]  # legible on dark lung and bright bone alike

plt.rcParams.update(
    {
        "font.size": TEXT,
        "axes.titlesize": TEXT,
        "axes.labelsize": TEXT,
        "xtick.labelsize": TEXT,
        "ytick.labelsize": TEXT,
        "legend.fontsize": TEXT,
        "legend.title_fontsize": TEXT,
        "figure.titlesize": TEXT,
        "legend.frameon": False,
    }
)
