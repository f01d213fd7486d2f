"""The detector: the way back to original pixels, margins, flags, and refusals in plain words."""

from pathlib import Path

import numpy as np
import pytest
import torch

from heartbox.explain.attribution import EXPLANATIONS
from heartbox.inference.detector import HeartDetector
from heartbox.inference.quality_checks import LOOKS
from heartbox.models.build import build_model
from heartbox.models.config import Calibration, WeightsConfig
from heartbox.models.heads import BoxNet
from heartbox.models.orientation import ORIENTATIONS
from heartbox.models.weights import save_weights
from heartbox.phantom import write_phantoms
from heartbox.xray.contrast import NORMALIZED_CONTRAST, normalize_contrast
from heartbox.xray.errors import XRayError
from heartbox.xray.image import XRay, resize_xray
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
    maps = HeartDetector.from_weights(weights).explain(np.random.default_rng(0).uniform(0, 1, (60, 90)), method)
    assert maps.shape == (4, 60, 90)
    assert np.abs(maps).max() < 1e-5  # its answer does not depend on the image: no evidence anywhere


@pytest.fixture
def untrained(tmp_path) -> HeartDetector:
    """Return a detector whose answer depends on every pixel."""
    torch.manual_seed(0)
    model = build_model(head="regression", targets=("heart", "thorax"), size=64)
    model.start_at(torch.tensor([20.0, 16, 40, 40, 12, 8, 52, 56]))
    calibration = {"level": 0.9, "images": 50, "scaled": False, "factors": [1.0] * 8, "ctr_factor": 1.0}
    about = {"mean": 0.5, "std": 0.25, "layout": "ctr", "contrast": NORMALIZED_CONTRAST}
    save_weights(tmp_path / "m.pt", model, about, targets=["heart", "thorax"], calibration=calibration)
    return HeartDetector.from_weights(tmp_path / "m.pt")


@pytest.mark.parametrize("grey", [0.0, 1.0, 0.4])
def test_a_border_moves_the_answer_and_changes_nothing_else(untrained, grey):
    film = np.random.default_rng(0).uniform(0, 1, (150, 210)).astype(np.float32)
    padded = np.pad(film, ((60, 20), (75, 105)), constant_values=np.float32(grey))
    before, after = untrained.detect(film), untrained.detect(padded)
    assert after.heart == pytest.approx(before.heart + [75, 60, 75, 60], abs=1e-9)
    assert after.thorax == pytest.approx(before.thorax + [75, 60, 75, 60], abs=1e-9)
    moved = before.heart_interval + np.array([[75], [60], [75], [60]])
    np.testing.assert_allclose(after.heart_interval, moved, atol=1e-9)
    assert (after.ctr, *after.ctr_interval) == pytest.approx((before.ctr, *before.ctr_interval))
    assert after.warning_codes == before.warning_codes
    (note,) = set(after.notes) - set(before.notes)
    assert "border was cropped" in note and "rows 60 to 210 and columns 75 to 285" in note
    assert not any("border" in note for note in before.notes)


def test_a_film_without_a_border_is_shown_as_it_is(untrained):
    film = as_xray(np.random.default_rng(0).uniform(0, 1, (150, 210)))
    expected = normalize_contrast(resize_xray(film.image, 64)).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(untrained.shown(film), expected)


@pytest.mark.parametrize("method", list(EXPLANATIONS))
def test_maps_are_zero_in_a_border(untrained, method):
    film = np.random.default_rng(0).uniform(0, 1, (90, 60)).astype(np.float32)
    maps = untrained.explain(np.pad(film, ((0, 30), (40, 0)), constant_values=1), method)
    assert maps.shape == (4, 120, 100)
    np.testing.assert_array_equal(maps[:, :90, 40:], untrained.explain(film, method))
    assert np.abs(maps[:, :90, 40:]).max() > 0 == np.abs(maps[:, 90:]).max() == np.abs(maps[:, :, :40]).max()


@pytest.mark.parametrize(("rows", "columns"), [(100, 300), (300, 100)])
def test_what_is_left_of_an_oblong_film_is_flagged(untrained, rows, columns):
    """The shape that counts is that of the film, not that of the page around it."""
    film = np.random.default_rng(0).uniform(0, 1, (rows, columns))
    assert "unusual-size" in untrained.detect(np.pad(film, ((300 - rows, 0), (0, 300 - columns)))).warning_codes
    square = np.random.default_rng(0).uniform(0, 1, (150, 150))
    assert "unusual-size" not in untrained.detect(np.pad(square, ((0, 0), (0, 300)))).warning_codes


def test_an_unknown_method_of_explaining_is_refused(weights):
    with pytest.raises(ValueError, match="unknown method 'grad-cam': choose one of integrated gradients, occlusion"):
        HeartDetector.from_weights(weights).explain(np.full((60, 90), 0.5), "grad-cam")


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


def test_weights_from_phantoms_flag_real_films(weights):
    saved = torch.load(weights, weights_only=True)
    saved["config"]["layout"] = "phantom"
    torch.save(saved, weights)
    detector = HeartDetector.from_weights(weights)
    image = np.random.default_rng(0).uniform(0, 1, (200, 200))
    found = detector.detect(image)
    assert found.warning_codes == ("phantom-weights",)
    assert found.heart_interval is None
    assert found.ctr_interval is None
    of_its_own = detector.detect(XRay(image, Path("film"), manufacturer="Heartbox phantom"))
    assert of_its_own.warnings == ()
    assert of_its_own.heart_interval is not None


def test_phantoms_carry_the_maker_that_the_detector_knows_them_by(tmp_path):
    write_phantoms(tmp_path, count=1, size=128, progress=False)
    (path,) = tmp_path.rglob("*.dcm")
    assert load_xray(path).manufacturer == "Heartbox phantom"


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="03-Model-Training"):
        HeartDetector.from_weights(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(ValueError, match="text.pt: not a file"):
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


@pytest.mark.parametrize(("usual", "flagged"), [(50.0, False), (0.5, True), (None, False)])
def test_an_undecided_network_is_flagged(tmp_path, usual, flagged):
    torch.manual_seed(0)
    model = build_model(head="edges", targets=("heart", "thorax"), size=64)
    calibration = {"level": 0.9, "images": 50, "scaled": True, "factors": [2.0] * 8, "ctr_factor": 2.0}
    calibration["usual_spread"] = usual
    stats = {"mean": 0.5, "std": 0.25, "layout": "ctr"}
    save_weights(tmp_path / "m.pt", model, stats, targets=["heart", "thorax"], calibration=calibration)
    film = np.random.default_rng(0).uniform(0, 1, (300, 300))
    found = HeartDetector.from_weights(tmp_path / "m.pt").detect(film)
    assert ("undecided" in found.warning_codes) == flagged


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
    ("change", "code"),
    [
        (lambda film: film, None),
        (lambda film: film[:, ::-1], "looks-mirrored"),
        (lambda film: film[::-1, ::-1], "looks-turned-180"),
        (lambda film: film[::-1], "looks-upside-down"),
        (np.rot90, "looks-turned-left"),
        (lambda film: np.rot90(film, 3), "looks-turned-right"),
        (lambda film: 1 - film, "looks-inverted"),
    ],
)
def test_what_is_wrong_with_a_film_is_named(change, code):
    """By the variant that the network is surer of; the usual spread is 5 pixels."""
    calibration = Calibration(level=0.9, images=50, scaled=True, factors=(1.0,) * 4, usual_std=5.0)
    about = {"mean": 0.3, "std": 0.5, "layout": "ctr", "calibration": calibration}
    config = WeightsConfig("resnet18", "edges", 64, ("heart",), **about)
    film = np.zeros((256, 256), np.float32)
    film[:128, :64] = 1
    found = HeartDetector(Reader(), config).detect(np.ascontiguousarray(change(film)))
    looks = [code for code in found.warning_codes if code in LOOKS]
    assert ("undecided" in found.warning_codes) == (code is not None)
    assert looks == ([] if code is None else [code])


# ---------------------------------------------------------------- weights with an orientation head


class Teller(Reader):
    """Stands for a network whose orientation head gives one class a probability, and the rest to "upright".

    By :class:`Reader` alone, a film that is dark at the upper left would be flagged as undecided or as turned.
    """

    def __init__(self, orientation: str, probability: float):
        super().__init__()
        self.probabilities = torch.full((len(ORIENTATIONS),), 1e-6)
        self.probabilities[0] = 1 - probability
        self.probabilities[ORIENTATIONS.index(orientation)] = probability
        self.asked = 0

    def features(self, x):
        self.asked += 1
        return x

    def predict_orientation(self, x):
        return self.probabilities.log().repeat(len(x), 1)


def flags_of(orientation: str, probability: float, **limits) -> list[str]:
    calibration = Calibration(level=0.9, images=50, scaled=True, factors=(0.1,) * 4, **limits)
    about = {"mean": 0.3, "std": 0.5, "layout": "ctr", "calibration": calibration, "orientations": ORIENTATIONS}
    detector = HeartDetector(
        Teller(orientation, probability), WeightsConfig("resnet18", "edges", 64, ("heart",), **about)
    )
    film = np.random.default_rng(0).uniform(0.0, 1.0, (256, 256))
    found = detector.detect(film)
    assert detector.network.asked == 1  # no other variant is tried
    return list(found.warning_codes)


@pytest.mark.parametrize("name", ORIENTATIONS[1:])
def test_the_orientation_head_names_how_a_film_lies(name):
    assert flags_of(name, 0.9, clear_std=10.0) == [f"looks-{name}"]
    assert flags_of(name, 0.75, clear_std=10.0) == []  # "upright" has more than a fifth


def test_an_upright_film_is_silent_whatever_the_edges_say():
    assert flags_of("upright", 0.99) == []
    assert flags_of("upright", 0.99, clear_std=10.0) == []
    assert flags_of("upright", 0.99, usual_std=5.0) == ["undecided"]  # and nothing about how it lies


def test_unclear_borders_reach_the_answer():
    assert flags_of("mirrored", 0.9, clear_std=5.0) == ["undecided", "unclear-left", "unclear-right", "looks-mirrored"]


def test_the_head_of_real_weights_is_asked(tmp_path):
    """Biases decide: the same weights call every film upright, then every film cropped."""
    torch.manual_seed(0)
    model = build_model(head="edges", targets=("heart", "thorax"), size=64)
    model.add_orientation_head()
    torch.nn.init.zeros_(model.orientation_head.classify.weight)
    film = np.random.default_rng(0).uniform(0, 1, (300, 300))
    for name, expected in (("upright", set()), ("cropped", {"looks-cropped"})):
        bias = torch.zeros(len(ORIENTATIONS))
        bias[ORIENTATIONS.index(name)] = 9
        model.orientation_head.classify.bias.data.copy_(bias)
        about = {"mean": 0.5, "std": 0.25, "layout": "ctr"}
        save_weights(tmp_path / "m.pt", model, about, targets=["heart", "thorax"])
        found = HeartDetector.from_weights(tmp_path / "m.pt").detect(film)
        assert set(found.warning_codes) & set(LOOKS) == expected
