"""Checkpoints: damage anywhere is noticed, the file is kept under another name, and training starts anew."""

import math
import random
import shutil

import pytest
import torch
from helpers import same_weights, train_small

from heartbox.training.checkpoints import SEAL, Checkpoints

STATE = {
    "epoch": 2,
    "history": [{"epoch": 1}, {"epoch": 2}],
    "seconds": 1.5,
    "model": {"weight": torch.arange(12.0), "steps": torch.tensor(3)},
    "optimizer": {"state": {0: {"exp_avg": torch.ones(12)}}, "param_groups": [{"lr": 0.1}]},
    "schedule": None,
    "average": None,
}


@pytest.fixture
def store(tmp_path) -> Checkpoints:
    store = Checkpoints(tmp_path / "checkpoints", "this run")
    store.write_last(STATE)
    return store


def names(store: Checkpoints) -> list[str]:
    return sorted(path.name for path in store.last.parent.iterdir())


def test_a_state_comes_back(store):
    state = store.read_last()
    assert state["history"] == STATE["history"]
    assert same_weights(state["model"], STATE["model"])
    assert torch.load(store.last, weights_only=True).keys() == state.keys()  # still a file that torch reads


def test_the_checkpoint_of_another_run_is_ignored(store):
    assert Checkpoints(store.last.parent, "another run").read_last() is None
    assert names(store) == ["last.pt"]


def test_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path, "this run").read_last() is None


def test_every_flipped_bit_is_noticed(store):
    """One bit of each byte of the file, whether it holds a number, a name or nothing."""
    raw = store.last.read_bytes()
    for place in range(len(raw)):
        spoilt = bytearray(raw)
        spoilt[place] ^= 1 << place % 8
        store.last.write_bytes(bytes(spoilt))
        with pytest.warns(UserWarning, match=r"last\.pt: .*renamed.*starts anew"):
            assert store.read_last() is None
        (store.last.parent / "last.damaged-1.pt").unlink()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_ends_too_early(store, share):
    raw = store.last.read_bytes()
    store.last.write_bytes(raw[: int(share * len(raw))])
    with pytest.warns(UserWarning, match="last.pt"):
        assert store.read_last() is None


def test_a_damaged_file_is_kept_and_overwrites_none(store):
    for content in (b"first", b"second"):
        store.last.write_bytes(content)
        with pytest.warns(UserWarning, match=r"last\.damaged-\d\.pt"):
            assert store.read_last() is None
    assert names(store) == ["last.damaged-1.pt", "last.damaged-2.pt"]
    assert (store.last.parent / "last.damaged-1.pt").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"weight": torch.tensor([math.nan])}}, "NaN"),
        ({"average": {"weight": torch.tensor([math.inf])}}, "NaN"),
        ({"optimizer": {"param_groups": [{"lr": math.nan}]}}, "NaN"),
        ({"seconds": math.inf}, "NaN"),
        ({"epoch": 7}, "7 epochs"),
        ({"more": 1}, "not a checkpoint"),
    ],
)
def test_values_that_make_no_sense(store, change, said):
    store.write_last(STATE | change)
    with pytest.warns(UserWarning, match=f"last.pt.*{said}"):
        assert store.read_last() is None


def test_a_checkpoint_of_an_earlier_version_is_named(store):
    torch.save({"identity": "{}", **STATE}, store.last)
    with pytest.warns(UserWarning, match="last.pt: a checkpoint of an earlier version.*last.damaged-1.pt"):
        assert store.read_last() is None


def test_code_in_a_checkpoint_is_not_run(store, tmp_path):
    class Evil:
        def __reduce__(self):
            return (shutil.copy, (__file__, str(tmp_path / "ran")))

    store.write_last(STATE | {"seconds": Evil()})
    with pytest.warns(UserWarning, match="last.pt"):
        assert store.read_last() is None
    assert not (tmp_path / "ran").exists()


def test_a_run_with_a_damaged_checkpoint_ends_as_one_without(processed, tmp_path):
    whole, _ = train_small(processed, tmp_path / "whole")
    rng = random.Random(0)
    train_small(processed, tmp_path / "spoilt")
    last = tmp_path / "spoilt" / "checkpoints" / "last.pt"
    raw = bytearray(last.read_bytes())
    raw[rng.randrange(len(raw) - len(SEAL))] ^= 4
    last.write_bytes(bytes(raw))
    epochs = []
    with pytest.warns(UserWarning, match=r"last\.pt: damaged.*starts anew"):
        again, _ = train_small(processed, tmp_path / "spoilt", on_epoch=lambda epoch, *_: epochs.append(epoch))
    assert epochs == [1, 2, 3]
    assert same_weights(whole.state_dict(), again.state_dict())
    assert (last.parent / "last.damaged-1.pt").read_bytes() == bytes(raw)
