"""Weights files: what is refused and why, half precision, and fetching one from an address once."""

import shutil

import pytest
import torch

from heartbox.inference.detector import HeartDetector
from heartbox.models.build import build_model
from heartbox.models.weights import fetch_weights, file_sha256, load_weights, save_weights

ADDRESS = "https://example.org/releases/heart.pt"


@pytest.fixture
def server(weights, tmp_path, monkeypatch):
    """Let an address give the weights file; count how often it is asked."""
    asked = []

    def download(url, destination, **_):
        asked.append(url)
        shutil.copyfile(weights, destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return asked


def test_an_address_is_fetched_once(server, weights, monkeypatch):
    digest = file_sha256(weights)
    first = HeartDetector.from_weights(ADDRESS, sha256=digest.upper())
    assert server == [ADDRESS]

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    second = HeartDetector.from_weights(ADDRESS, sha256=digest)
    assert first.config == second.config


def test_what_comes_must_be_what_was_meant(server, tmp_path):
    with pytest.raises(ValueError, match="SHA-256.*nothing was kept"):
        HeartDetector.from_weights(ADDRESS, sha256="0" * 64)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_damaged_copy_is_fetched_again(server, weights, tmp_path):
    path = fetch_weights(ADDRESS, file_sha256(weights))
    path.write_bytes(b"damaged")
    assert fetch_weights(ADDRESS, file_sha256(weights)) == path
    assert len(server) == 2
    assert file_sha256(path) == file_sha256(weights)


@pytest.mark.parametrize(
    ("address", "digest", "said"),
    [
        ("http://example.org/heart.pt", "0" * 64, "https only"),
        ("ftp://example.org/heart.pt", "0" * 64, "https only"),
        (ADDRESS, None, "need sha256"),
        (ADDRESS, "abc", "64 hexadecimal"),
    ],
)
def test_addresses_that_are_refused(server, address, digest, said):
    with pytest.raises(ValueError, match=said):
        HeartDetector.from_weights(address, sha256=digest)
    assert server == []


def test_no_network_says_what_to_do(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OSError, match="no route to host.*give its path"):
        HeartDetector.from_weights(ADDRESS, sha256="0" * 64)


def test_a_path_with_a_digest(weights):
    HeartDetector.from_weights(weights, sha256=file_sha256(weights))
    with pytest.raises(ValueError, match="another version, or a damaged file"):
        HeartDetector.from_weights(weights, sha256="0" * 64)


def test_a_folder_is_no_weights_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder"):
        HeartDetector.from_weights(tmp_path)


@pytest.mark.parametrize("content", [{}, {"config": None}, {"config": {"format": "heartbox-weights-1"}}, [1, 2], 3])
def test_other_things_that_torch_saved(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt: not a Heartbox weights file"):
        load_weights(tmp_path / "other.pt")


@pytest.mark.parametrize("key", ["targets", "mean", "layout", "size"])
def test_a_config_that_lacks_something(weights, key):
    saved = torch.load(weights, weights_only=True)
    del saved["config"][key]
    torch.save(saved, weights)
    with pytest.raises(ValueError, match=f"lacks {key}"):
        load_weights(weights)


def test_weights_that_could_not_be_used_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="without targets"):
        save_weights(tmp_path / "m.pt", build_model(size=64), {"mean": 0.5, "std": 0.25, "layout": "made"})
    assert not (tmp_path / "m.pt").exists()


def test_half_precision_halves_the_file_and_hardly_moves_an_edge(tmp_path):
    torch.manual_seed(0)
    model = build_model(head="edges", targets=("heart", "thorax"), size=64).eval()
    stats = {"mean": 0.5, "std": 0.25, "layout": "made"}
    for name, half in (("single", False), ("half", True)):
        save_weights(tmp_path / f"{name}.pt", model, stats, half=half, targets=["heart", "thorax"])
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
    save_weights(tmp_path / "model.pt", model, {"mean": 0.5, "std": 0.25, "layout": "made"}, targets=["heart"])
    again, _ = load_weights(tmp_path / "model.pt")
    assert again.mask_head is None


def test_one_flipped_bit_is_seen(weights):
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2] ^= 1  # somewhere in the numbers: torch loads it without a word
    weights.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="model.pt: damaged .*fetch it again"):
        load_weights(weights)


def test_weights_that_are_no_numbers(weights):
    saved = torch.load(weights, weights_only=True)
    next(iter(saved["state_dict"].values())).view(-1)[0] = float("nan")
    torch.save(saved, weights)
    with pytest.raises(ValueError, match="no numbers"):
        load_weights(weights)
