"""ONNX files answer as the weights they were made from, and a wrong one is refused by name."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from heartbox import cli
from heartbox.inference.detector import HeartDetector
from heartbox.models.build import build_model
from heartbox.models.onnx_files import CONFIG_KEY, export_onnx, load_onnx
from heartbox.models.orientation import ORIENTATIONS
from heartbox.models.weights import load_weights, released_weights, save_weights
from heartbox.phantom import render, sample_subject


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    return export_onnx(released_weights(), tmp_path_factory.mktemp("onnx") / "heart.onnx")


@pytest.fixture
def exported(weights, tmp_path) -> Path:
    return export_onnx(weights, tmp_path / "small.onnx")


def test_fifty_films_have_the_same_answers(released):
    ours, theirs = HeartDetector.from_weights(released_weights()), HeartDetector.from_weights(released)
    films = [render(sample_subject(0, number), 256).image.astype(np.float32) for number in range(50)]
    films = [(film - film.min()) / np.ptp(film) for film in films]
    for one, other in zip(ours.detect_each(films), theirs.detect_each(films), strict=True):
        for name in ("heart", "thorax", "heart_interval"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=0.02)
        assert [flag.code for flag in one.warnings] == [flag.code for flag in other.warnings]
    x = torch.randn(3, 1, 224, 224)
    with torch.no_grad():
        _, std = ours.model.coordinates_and_std(ours.model.features(x))
        _, their_std = theirs.model.coordinates_and_std(theirs.model.features(x))
    torch.testing.assert_close(their_std, std, atol=0.02, rtol=0)


def test_config_and_calibration_come_along(exported, weights):
    _, config = load_weights(weights)
    detector = HeartDetector.from_weights(exported)
    assert detector.config == config and config.calibration is not None
    assert detector.digest != HeartDetector.from_weights(weights).digest
    assert len(detector.digest) == 64
    with pytest.raises(ValueError, match="cannot be explained"):
        detector.explain(np.random.default_rng(0).random((64, 64)))


def test_command_exports_and_answers(weights, tmp_path, capsys):
    target = tmp_path / "model.onnx"
    assert cli.main(["export", str(weights), str(target)]) == 0
    assert HeartDetector.from_weights(target).config.size == 64
    assert cli.main(["export", str(tmp_path / "none.pt"), str(target)]) == 2
    assert "none.pt: no such weights file" in capsys.readouterr().err


def test_folder_called_export_is_still_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("export").mkdir()
    assert cli.main(["export"]) == 2
    assert "export: no X-ray files" in capsys.readouterr().err


def spoil(path: Path, **metadata: str) -> Path:
    """Replace an ONNX file's metadata."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def test_wrong_files_are_named(exported, tmp_path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(exported.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"damaged.onnx: not an ONNX file, or a damaged one .* Export the weights"):
        HeartDetector.from_weights(damaged)
    config = load_onnx_config(exported)
    with pytest.raises(ValueError, match="takes x .* not images of 96 pixels"):
        HeartDetector.from_weights(spoil(exported, **{CONFIG_KEY: config.replace('"size": 64', '"size": 96')}))
    with pytest.raises(ValueError, match="std is -1.0"):
        HeartDetector.from_weights(spoil(exported, **{CONFIG_KEY: config.replace('"std": 0.25', '"std": -1.0')}))
    with pytest.raises(ValueError, match="not a Heartbox weights file"):
        HeartDetector.from_weights(spoil(exported))
    with pytest.raises(ValueError, match="its SHA-256 is"):
        HeartDetector.from_weights(exported, sha256="0" * 64)


def load_onnx_config(path: Path) -> str:
    return next(one.value for one in onnx.load(path).metadata_props if one.key == CONFIG_KEY)


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_missing_package_is_named(package, exported, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    way_out = 'In the folder of Heartbox: python -m pip install "\\.\\[onnx\\]"'
    with pytest.raises(ValueError, match=f"{package} is missing. {way_out}"):
        if package == "onnxruntime":
            HeartDetector.from_weights(exported)
        else:
            export_onnx(weights, tmp_path / "other.onnx")


def test_the_orientation_comes_along(tmp_path):
    torch.manual_seed(0)
    model, targets = build_model(head="edges", targets=["heart"], size=64).eval(), ["heart"]
    model.add_orientation_head()
    save_weights(tmp_path / "m.pt", model, {"mean": 0.5, "std": 0.25, "layout": "ctr"}, targets=targets)
    path = export_onnx(tmp_path / "m.pt", tmp_path / "m.onnx")
    net, config = load_onnx(path)
    assert config.orientations == ORIENTATIONS
    x = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        expected, told = (one.predict_orientation(one.features(x)) for one in (model, net))
    torch.testing.assert_close(told, expected, atol=1e-3, rtol=0)
    silent = json.loads(load_onnx_config(path))
    del silent["orientations"]
    with pytest.raises(ValueError, match="orientations that the network does not tell, or the other way round"):
        load_onnx(spoil(path, **{CONFIG_KEY: json.dumps(silent)}))


def test_weights_without_that_head_tell_no_orientation(exported):
    net, config = load_onnx(exported)
    assert config.orientations == ()
    assert net.predict_orientation(net.features(torch.zeros(1, 1, 64, 64))) is None
