"""Pictures of the pneumonia companion: what films with evidence say in words and signs."""

import matplotlib.pyplot as plt
import numpy as np

from companions.pneumonia.plots import draw_curves, page_of_films


def test_strong_places_carry_their_sign():
    evidence = np.zeros((7, 7))
    evidence[1, 2], evidence[4, 5], evidence[6, 6] = 2, -1, 0.1
    figure = page_of_films([np.zeros((224, 224))], [np.array([[10.0, 20, 40, 60]])], ["TP"], [evidence])
    assert [(text.get_text(), *text.get_position()) for text in figure.axes[0].texts] == [
        ("+", 80.0, 48.0),
        ("\N{MINUS SIGN}", 176.0, 144.0),
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["opacity (label)"]
    plt.close(figure)


def test_the_marked_point_is_named():
    targets, scores = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.4, 0.5])
    figure = draw_curves(targets, {"network": scores, "thumbnail": -scores}, (0.5, 0.5, 0.5))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[-2:] == ["chance", "network, at its threshold"]
    plt.close(figure)
