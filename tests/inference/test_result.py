"""The result: no heart, no numbers; millimetres only where they are possible."""

from pathlib import Path

import numpy as np
import pytest
import torch

from heartbox.inference.detector import HeartDetector
from heartbox.xray.image import XRay


def test_edges_in_the_wrong_order_are_no_heart(weights):
    saved = torch.load(weights, weights_only=True)
    saved["state_dict"]["regress.bias"][1] = 50  # y_min below y_max
    torch.save(saved, weights)
    film = XRay(np.random.default_rng(0).uniform(0, 1, (1024, 1024)), Path("film"), (0.4, 0.4), view="PA")
    found = HeartDetector.from_weights(weights).detect(film)
    assert (found.ctr, found.heart_mm, found.heart_interval) == (None, None, None)
    assert found.summary().startswith("No heart was found.")
    assert found.warning_codes == ("no-heart",)


@pytest.mark.parametrize(("spacing", "given"), [(0.4, True), (0.1, False), (2.0, False)])
def test_millimetres_only_where_they_are_possible(weights, spacing, given):
    # the thorax of these weights is 40 of 64 px wide: 640 of 1024
    film = XRay(np.random.default_rng(0).uniform(0, 1, (1024, 1024)), Path("film"), (spacing, spacing), view="PA")
    found = HeartDetector.from_weights(weights).detect(film)
    assert (found.heart_mm is not None) == given
    assert found.notes == () if given else "no millimetres are given" in found.notes[0]
