"""The result: no heart, no numbers; millimetres only where they are possible."""

import dataclasses
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


def test_the_box_with_the_vessels(weights):
    """It begins 23 % down the chest, and never below the heart."""
    found = HeartDetector.from_weights(weights).detect(np.random.default_rng(0).uniform(0, 1, (640, 640)))
    chest, heart = np.array([100.0, 100, 500, 500]), np.array([150.0, 300, 400, 480])
    made = dataclasses.replace(found, heart=heart, thorax=chest)
    assert made.heart_with_vessels.tolist() == [150, pytest.approx(192), 400, 480]
    high = dataclasses.replace(made, heart=np.array([150.0, 180, 400, 480]))
    assert high.heart_with_vessels.tolist() == [150, 180, 400, 480]
    assert made.heart.tolist() == [150, 300, 400, 480]
    assert dataclasses.replace(made, thorax=None).heart_with_vessels is None
    assert dataclasses.replace(made, heart=heart[[2, 1, 0, 3]]).heart_with_vessels is None


def test_printing_an_answer_shows_neither_pixels_nor_patient(weights):
    film = XRay(np.random.default_rng(0).uniform(0, 1, (64, 64)), Path("film"), patient_id="Jane Doe", view="PA")
    found = HeartDetector.from_weights(weights).detect(film)
    assert str(found).startswith("HeartDetection(heart=[20.0, 16.0, 40.0, 40.0], ctr=0.500, warnings=[")
    assert str(film) == "XRay(64 x 64, view='PA', transfer_syntax='')"
    assert not any(name in str(found) + str(film) for name in ("Jane", "array"))
