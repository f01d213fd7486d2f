"""The detector: the way back to original pixels, margins, check_quality, and refusals in plain words."""

from pathlib import Path

import numpy as np
import pytest
import torch

from heartbox.explain.attribution import EXPLANATIONS
from heartbox.inference.detector import HeartDetector
from heartbox.inference.quality_checks import check_quality
from heartbox.models.build import build_model
from heartbox.models.heads import BoxNet
from heartbox.models.weights import save_weights
from heartbox.phantom import write_phantoms
from heartbox.xray.borders import plain_border
from heartbox.xray.errors import XRayError
from heartbox.xray.image import XRay
from heartbox.xray.reader import as_xray, load_xray


def test_answer_is_in_original_pixels(weights):
    # 64 -> 256 columns: x by 4; 64 -> 128 rows: y by 2
    image = np.random.default_rng(0).uniform(0, 1, (128, 256))
    found = HeartDetector.from_weights(weights).detect(image)
    assert found.heart == pytest.approx([80, 32, 160, 80], abs=1e-3)
    assert found.thorax == pytest.approx([48, 16, 208, 112], abs=1e-3)
    assert found.ctr == pytest.approx(80 / 160)
    assert found.heart_interval.ravel() == pytest.approx([72, 88, 24, 40, 152, 168, 72, 88], abs=1e-3)
    # The ratio's factor is 0.05 and each edge counts as one pixel of 64: the heart's two make sqrt(2), the
    # thorax's two half of that, over a thorax of 40 px: 0.0395.
    assert found.ctr_interval == pytest.approx((0.5 - 0.05 * 0.03953, 0.5 + 0.05 * 0.03953), abs=1e-5)
    assert found.warnings == ()
    assert any("pixel spacing" in note for note in found.notes)
    assert "Cardiothoracic ratio: 0.50 (0.50 to 0.50)" in found.summary()


@pytest.mark.parametrize("method", list(EXPLANATIONS))
def test_maps_have_the_shape_of_the_image(weights, method):
    maps = HeartDetector.from_weights(weights).explain(np.full((60, 90), 0.5), method)
    assert maps.shape == (4, 60, 90)
    assert np.abs(maps).max() < 1e-5  # its answer does not depend on the image: no evidence anywhere


def test_an_unknown_method_of_explaining_is_refused(weights):
    with pytest.raises(ValueError, match="unknown method 'grad-cam': choose one of integrated gradients, occlusion"):
        HeartDetector.from_weights(weights).explain(np.full((60, 90), 0.5), "grad-cam")


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
        (np.array([[0, 4095]], dtype=np.uint16), "12-bit"),
        (np.ma.masked_less(np.array([[0.2, 0.8]]), 0.5), "MaskedArray"),
        (None, "NoneType"),
        ([[0.5, 0.5]], "list"),
        ("", "no file named"),
    ],
)
def test_arrays_that_are_no_image(array, said):
    with pytest.raises(XRayError, match=said):
        as_xray(array)


def test_implausible_boxes_are_doubted():
    film = as_xray(np.random.default_rng(0).uniform(0, 1, (200, 200)))
    chest = np.array([20.0, 20, 180, 170])
    assert check_quality(film, np.array([70.0, 80, 150, 150]), chest) == ()
    assert "too vague" in check_quality(film, np.array([70.0, 80, 150, 150]), chest, None, (0.3, 0.6))[0]
    assert "covers 0.2%" in check_quality(film, np.array([100.0, 100, 110, 110]), None)[0]
    assert "reaches out" in check_quality(film, np.array([10.0, 80, 120, 150]), chest)[0]
    assert "No chest" in check_quality(film, np.array([70.0, 80, 150, 150]), np.array([90.0, 20, 90, 170]))[0]
    assert "wrong order" in check_quality(film, np.array([120.0, 80, 70, 150]), None)[0]
    unsure = np.array([[40.0, 100], [78, 82], [148, 152], [148, 152]])
    assert "margin" in check_quality(film, np.array([70.0, 80, 150, 150]), None, unsure)[0]


def test_a_plain_border_is_doubted():
    film = np.random.default_rng(0).uniform(0, 1, (200, 100))
    assert plain_border(film) == 0 == plain_border(np.full((20, 20), 0.4))
    assert plain_border(np.pad(film, ((0, 50), (10, 0)))) == 50 / 250  # the larger share of the two
    assert plain_border(np.pad(film, ((20, 20), (0, 0)), constant_values=0.7)) == 40 / 240
    wide = as_xray(np.pad(film, ((0, 0), (0, 50))))
    assert "border of one grey takes up 33%" in check_quality(wide, np.array([20.0, 60, 80, 150]), None)[0]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"view": "LL"}, "The view is LL"),
        ({"orientation": "R\\F"}, "turned, mirrored or lateral"),
        ({"body_part": "KNEE"}, "no film of the chest"),
        ({"damage": "Corrupt JPEG data: 3 extraneous bytes before marker 0xd9"}, "may be damaged"),
        ({"modality": "CT"}, "not a plain X-ray"),
        ({"manufacturer": "Heartbox phantom"}, "this film is synthetic"),
    ],
)
def test_films_of_another_kind_are_doubted(weights, header, said):
    film = XRay(np.random.default_rng(0).uniform(0, 1, (200, 200)), Path("film"), **header)
    assert said in HeartDetector.from_weights(weights).detect(film).warnings[0]


@pytest.mark.parametrize(
    "header", [{"view": "AP ERECT"}, {"orientation": "L\\F"}, {"orientation": "L\\FP"}, {"body_part": "PORT CHEST"}]
)
def test_usual_films_are_not_doubted(weights, header):
    film = XRay(np.random.default_rng(0).uniform(0, 1, (200, 200)), Path("film"), **header)
    assert HeartDetector.from_weights(weights).detect(film).warnings == ()


def test_edges_in_the_wrong_order_are_no_heart(weights):
    saved = torch.load(weights, weights_only=True)
    saved["state_dict"]["regress.bias"][1] = 50  # y_min below y_max
    torch.save(saved, weights)
    film = XRay(np.random.default_rng(0).uniform(0, 1, (1024, 1024)), Path("film"), (0.4, 0.4), view="PA")
    found = HeartDetector.from_weights(weights).detect(film)
    assert (found.ctr, found.heart_mm, found.heart_interval) == (None, None, None)
    assert found.summary().startswith("No heart was found.")
    assert len(found.warnings) == 1


def test_a_tiny_picture_is_doubted(weights):
    found = HeartDetector.from_weights(weights).detect(np.random.default_rng(0).uniform(0, 1, (2, 2)))
    assert "not the size" in found.warnings[0]


def test_a_dithered_picture_is_doubted(weights):
    detector, rng = HeartDetector.from_weights(weights), np.random.default_rng(0)
    assert "2 shades" in " ".join(detector.detect(rng.integers(0, 2, (200, 200)).astype(float)).warnings)
    assert "shades" not in " ".join(detector.detect(rng.uniform(0, 1, (200, 200))).warnings)


def test_weights_from_phantoms_doubt_real_films(weights):
    saved = torch.load(weights, weights_only=True)
    saved["config"]["layout"] = "phantom"
    torch.save(saved, weights)
    detector = HeartDetector.from_weights(weights)
    image = np.random.default_rng(0).uniform(0, 1, (200, 200))
    found = detector.detect(image)
    assert "synthetic" in found.warnings[0]
    assert found.heart_interval is None
    assert found.ctr_interval is None
    of_its_own = detector.detect(XRay(image, Path("film"), manufacturer="Heartbox phantom"))
    assert of_its_own.warnings == ()
    assert of_its_own.heart_interval is not None


def test_phantoms_carry_the_maker_that_the_detector_knows_them_by(tmp_path):
    write_phantoms(tmp_path, count=1, size=128, progress=False)
    (path,) = tmp_path.rglob("*.dcm")
    assert load_xray(path).manufacturer == "Heartbox phantom"


@pytest.mark.parametrize(("spacing", "given"), [(0.4, True), (0.1, False), (2.0, False)])
def test_millimetres_only_where_they_are_possible(weights, spacing, given):
    # the thorax of these weights is 40 of 64 px wide: 640 of 1024
    film = XRay(np.random.default_rng(0).uniform(0, 1, (1024, 1024)), Path("film"), (spacing, spacing), view="PA")
    found = HeartDetector.from_weights(weights).detect(film)
    assert (found.heart_mm is not None) == given
    assert found.notes == () if given else "no millimetres are given" in found.notes[0]


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="03-Model-Training"):
        HeartDetector.from_weights(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(ValueError, match="text.pt: no weights file"):
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


def test_several_at_once_are_answered_as_one_by_one(tmp_path):
    torch.manual_seed(0)
    model = build_model(head="edges", targets=("heart", "thorax"), size=64)
    save_weights(tmp_path / "m.pt", model, {"mean": 0.5, "std": 0.25, "layout": "ctr"}, targets=["heart", "thorax"])
    detector, rng = HeartDetector.from_weights(tmp_path / "m.pt"), np.random.default_rng(0)
    films = [rng.uniform(0, 1, (int(rng.integers(200, 300)), 250)) for _ in range(7)]
    singly = [detector.detect(film) for film in films]
    for batch_size in (1, 3, 16):
        for one, other in zip(singly, detector.detect_each(films, batch_size), strict=True):
            assert one.heart == pytest.approx(other.heart, abs=1e-3)
            assert one.thorax == pytest.approx(other.thorax, abs=1e-3)
            assert one.warnings == other.warnings
    assert detector.detect_each([]) == []
    with pytest.raises(XRayError, match="NaN"):
        detector.detect_each([films[0], np.full((200, 200), np.nan)])


@pytest.mark.parametrize(("usual", "doubted"), [(50.0, False), (0.5, True), (None, False)])
def test_an_undecided_network_is_doubted(tmp_path, usual, doubted):
    torch.manual_seed(0)
    model = build_model(head="edges", targets=("heart", "thorax"), size=64)
    calibration = {"level": 0.9, "images": 50, "scaled": True, "factors": [2.0] * 8, "ctr_factor": 2.0}
    calibration["usual_spread"] = usual
    stats = {"mean": 0.5, "std": 0.25, "layout": "ctr"}
    save_weights(tmp_path / "m.pt", model, stats, targets=["heart", "thorax"], calibration=calibration)
    film = np.random.default_rng(0).uniform(0, 1, (300, 300))
    warnings = HeartDetector.from_weights(tmp_path / "m.pt").detect(film).warnings
    assert any("undecided" in text for text in warnings) == doubted


class Reader(BoxNet):
    """Stands for a network that is sure of films that are bright at the upper left only, and of no others."""

    head_name = "edges"

    def __init__(self):
        super().__init__("resnet18", 1, 64)

    def features(self, x):
        return x

    def coordinates_and_std(self, x):
        stands_out = x[:, 0, :32, :16].mean((1, 2)) - x[:, 0].mean((1, 2))
        std = torch.where(stands_out > 1, 2.0, 9.0)[:, None].repeat(1, 4)
        return torch.tensor([[20.0, 16, 40, 40]]).repeat(len(x), 1), std


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda film: film, None),
        (lambda film: film[:, ::-1], "mirrored"),
        (lambda film: film[::-1, ::-1], "turned by 180 degrees"),
        (lambda film: film[::-1], "upside down"),
        (np.rot90, "turned by 90 degrees to the left"),
        (lambda film: np.rot90(film, 3), "turned by 90 degrees to the right"),
        (lambda film: 1 - film, "inverted"),
    ],
)
def test_what_is_wrong_with_a_film_is_named(change, words):
    """By the variant that the network is surer of; the usual spread is 5 pixels."""
    calibration = {"level": 0.9, "scaled": True, "factors": [1.0] * 4, "ctr_factor": None, "usual_spread": 5.0}
    config = {"mean": 0.3, "std": 0.5, "size": 64, "targets": ["heart"], "layout": "ctr", "calibration": calibration}
    film = np.zeros((256, 256), np.float32)
    film[:128, :64] = 1
    said = " ".join(HeartDetector(Reader(), config).detect(np.ascontiguousarray(change(film))).warnings)
    assert ("undecided" in said) == (words is not None)
    assert ("may be" in said) == (words is not None)
    assert words is None or f"may be {words}" in said
