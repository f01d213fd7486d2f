"""Weights files: what is refused and why, damage anywhere in them, half precision."""

import math

import pytest
import torch

from heartbox.inference.detector import HeartDetector
from heartbox.models.build import build_model
from heartbox.models.config import Calibration
from heartbox.models.fetch import file_sha256
from heartbox.models.weights import load_weights, save_weights

STATS = {"mean": 0.5, "std": 0.25, "layout": "made"}


def test_a_path_with_a_digest(weights):
    HeartDetector.from_weights(weights, sha256=file_sha256(weights))
    with pytest.raises(ValueError, match="another version, or a damaged file"):
        HeartDetector.from_weights(weights, sha256="0" * 64)


def test_a_folder_is_not_a_weights_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder"):
        HeartDetector.from_weights(tmp_path)


@pytest.mark.parametrize(
    "content", [{}, {"config": None}, {"config": {"format": "heartbox-weights-1"}}, [1, 2], 3, {"state_dict": {}}]
)
def test_other_things_that_torch_saved(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt: not a Heartbox weights file"):
        load_weights(tmp_path / "other.pt")


@pytest.mark.parametrize("key", ["targets", "mean", "layout", "size"])
def test_a_config_that_lacks_something(weights, key):
    saved = torch.load(weights, weights_only=True)
    del saved["config"][key]
    torch.save(saved, weights)
    with pytest.raises(ValueError, match=f"model.pt: the config lacks {key}.*train"):
        load_weights(weights)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", math.nan),
        ("std", -0.25),
        ("size", 1_000_000),
        ("targets", ["thorax", "heart"]),
        ("backbone", "alexnet"),
        ("head", "oracle"),
        ("contrast", "uneven"),
    ],
)
def test_a_config_with_a_wrong_value(weights, key, value):
    """File, fault and way out; tests/models/test_config.py has all the faults."""
    saved = torch.load(weights, weights_only=True)
    saved["config"][key] = value
    torch.save(saved, weights)
    with pytest.raises(ValueError, match=f"model.pt: .*{key}.*released weights"):
        load_weights(weights)


@pytest.mark.parametrize("spoil", ["another size", "one missing", "not a tensor", "one too many"])
def test_weights_that_do_not_fit(weights, spoil):
    saved = torch.load(weights, weights_only=True)
    state = saved["state_dict"]
    name = next(iter(state))
    if spoil == "one missing":
        del state[name]
    else:
        state["more" if spoil == "one too many" else name] = {"not a tensor": 3}.get(spoil, torch.zeros(2))
    torch.save(saved, weights)
    with pytest.raises(ValueError, match="model.pt: the weights do not fit"):
        load_weights(weights)


@pytest.mark.parametrize("stats", [STATS, STATS | {"std": 0.0}, STATS | {"mean": math.nan}])
def test_weights_that_could_not_be_used_are_not_written(tmp_path, stats):
    targets = {} if stats is STATS else {"targets": ["heart"]}
    with pytest.raises(ValueError, match="m.pt: not written.*(targets|std|mean)"):
        save_weights(tmp_path / "m.pt", build_model(size=64), stats, **targets)
    assert not (tmp_path / "m.pt").exists()


def test_a_calibration_is_kept(tmp_path):
    calibration = Calibration(level=0.9, images=12, scaled=False, factors=(1.0, 2.0, 3.0, 4.0))
    save_weights(tmp_path / "m.pt", build_model(size=64), STATS, targets=["heart"], calibration=calibration, seed=3)
    _, config = load_weights(tmp_path / "m.pt")
    assert config.calibration.factors == calibration.factors
    assert config.notes == {"seed": 3}
    stored = torch.load(tmp_path / "m.pt", weights_only=True)["config"]["calibration"]
    assert list(stored) == ["level", "images", "scaled", "factors", "ctr_factor", "usual_spread"]


def test_half_precision_halves_the_file_and_hardly_moves_an_edge(tmp_path):
    torch.manual_seed(0)
    model = build_model(head="edges", targets=("heart", "thorax"), size=64).eval()
    for name, half in (("single", False), ("half", True)):
        save_weights(tmp_path / f"{name}.pt", model, STATS, half=half, targets=["heart", "thorax"])
    single, half = ((tmp_path / f"{name}.pt").stat().st_size for name in ("single", "half"))
    assert half < 0.52 * single
    again, _ = load_weights(tmp_path / "half.pt")
    x = torch.randn(4, 1, 64, 64)
    with torch.no_grad():
        assert (again(x) - model(x)).abs().max() < 0.1
    assert next(again.parameters()).dtype == torch.float32


def test_the_mask_head_is_not_saved(tmp_path):
    model = build_model(head="edges", size=64)
    model.add_mask_head()
    save_weights(tmp_path / "model.pt", model, STATS, targets=["heart"])
    again, _ = load_weights(tmp_path / "model.pt")
    assert again.mask_head is None


def test_one_flipped_bit_is_noticed(weights):
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2] ^= 1  # in the middle of the numbers: torch alone would load it
    weights.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="model.pt: damaged .*fetch it again"):
        load_weights(weights)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_ends_too_early(weights, share):
    raw = weights.read_bytes()
    weights.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match="model.pt: .*damaged"):
        load_weights(weights)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(weights, value):
    saved = torch.load(weights, weights_only=True)
    next(iter(saved["state_dict"].values())).view(-1)[0] = value
    torch.save(saved, weights)
    with pytest.raises(ValueError, match="model.pt: holds NaN"):
        load_weights(weights)
