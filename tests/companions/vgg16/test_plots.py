"""Pictures of the VGG16 comparison."""

import numpy as np
import pandas as pd

from companions.vgg16.plots import draw_differences, draw_predictions


def test_pictures():
    layers = pd.DataFrame({"difference": [0.5, 0.1], "directions": [3.0, 1.0]}, index=["image", "coordinates"])
    figure = draw_differences({"published": layers, "mended": layers})
    assert [text.get_text() for text in figure.axes[0].texts] == ["3.0", "1.0"]
    truth = np.arange(12.0).reshape(3, 4)
    figure = draw_predictions({"published": truth + 1, "mended": truth}, truth)
    assert [ax.get_title() for ax in figure.axes] == ["left border", "top border", "right border", "bottom border"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["published", "mended", "prediction = label"]
