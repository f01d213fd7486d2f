"""The detector: the way back to original pixels, margins, doubts, and refusals in plain words."""

import numpy as np
import pytest
import torch

from heartbox.detector import HeartDetector, as_xray, doubts
from heartbox.xray import XRayError


def test_answer_is_in_original_pixels(weights):
    # 64 -> 256 columns: x by 4; 64 -> 128 rows: y by 2
    image = np.random.default_rng(0).uniform(0, 1, (128, 256))
    found = HeartDetector.from_weights(weights).detect(image)
    assert found.heart == pytest.approx([80, 32, 160, 80], abs=1e-3)
    assert found.thorax == pytest.approx([48, 16, 208, 112], abs=1e-3)
    assert found.ctr == pytest.approx(80 / 160)
    assert found.heart_interval.ravel() == pytest.approx([72, 88, 24, 40, 152, 168, 72, 88], abs=1e-3)
    assert found.ctr_interval == pytest.approx((0.45, 0.55))
    assert found.warnings == ()
    assert any("pixel spacing" in note for note in found.notes)
    assert "Cardiothoracic ratio: 0.50 (0.45 to 0.55)" in found.summary()


def test_maps_have_the_shape_of_the_image(weights):
    maps = HeartDetector.from_weights(weights).explain(np.full((60, 90), 0.5))
    assert maps.shape == (4, 60, 90)
    assert np.abs(maps).max() < 1e-6  # its answer does not depend on the image: no evidence anywhere


def test_one_grey_is_doubted(weights):
    assert any(
        "contrast" in text for text in HeartDetector.from_weights(weights).detect(np.full((64, 64), 0.5)).warnings
    )


def test_integers_span_their_full_range():
    image = as_xray(np.array([[0, 255]], dtype=np.uint8)).image
    assert image.tolist() == [[0, 1]]
    assert as_xray(np.array([[0, 65535]], dtype=np.uint16)).image.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 4, 5)), "2-D"),
        (np.zeros((0, 5)), "2-D"),
        (np.array([[0.0, np.nan]]), "NaN"),
        (np.array([[0.0, np.inf]]), "NaN or infinite"),
        (np.array([[0.0, 255.0]]), r"\[0, 1\]"),
        (np.array([[-1, 3]]), "int64"),
    ],
)
def test_arrays_that_are_no_image(array, said):
    with pytest.raises(XRayError, match=said):
        as_xray(array)


def test_implausible_boxes_are_doubted():
    image = np.random.default_rng(0).uniform(0, 1, (100, 100))
    good = doubts(image, np.array([35.0, 40, 75, 75]), np.array([10.0, 10, 90, 85]))
    assert good == ()
    tiny = doubts(image, np.array([50.0, 50, 55, 55]), None)
    assert "covers 0%" in tiny[0]
    outside = doubts(image, np.array([5.0, 40, 60, 75]), np.array([10.0, 10, 90, 85]))
    assert "reaches out" in outside[0]
    unsure = doubts(image, np.array([35.0, 40, 75, 75]), None, np.array([[20.0, 50], [39, 41], [74, 76], [74, 76]]))
    assert "margin" in unsure[0]


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="03-Model-Training"):
        HeartDetector.from_weights(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(ValueError, match="text.pt: not a weights file"):
        HeartDetector.from_weights(tmp_path / "text.pt")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not a Heartbox weights file"):
        HeartDetector.from_weights(tmp_path / "other.pt")


def test_weights_that_do_not_fit(weights):
    saved = torch.load(weights, weights_only=True)
    saved["config"]["backbone"] = "vgg16"
    torch.save(saved, weights)
    with pytest.raises(ValueError, match="do not fit"):
        HeartDetector.from_weights(weights)


def test_weights_are_plain(weights):
    saved = torch.load(weights, weights_only=True)
    assert set(saved) == {"config", "state_dict"}
    assert all(isinstance(value, torch.Tensor) for value in saved["state_dict"].values())
