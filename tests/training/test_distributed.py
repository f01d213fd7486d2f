"""A training that torchrun shares: the same curve for any number of processes, one writer, and a run that goes on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import HANGS, ROOT
from torch.utils.data import DataLoader

from heartbox.training.distributed import Ranks, SeededSamples

SCRIPT = ROOT / "tests" / "shared_training.py"


def train(processed: Path, out: Path, processes: int, augment: str, stop: int = 0) -> tuple[pd.DataFrame | None, str]:
    """Train by torchrun, or by Python alone for 0 processes; return the history, if it was written, and the output."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(processed), str(out), augment],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "STOP_AFTER": str(stop), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert (done.returncode == 0) == (stop == 0), done.stderr[-3000:]
    path = out / "history.csv"
    return (pd.read_csv(path) if path.is_file() else None), done.stdout


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one_and_go_on_after_a_stop(processed, tmp_path):
    one, _ = train(processed, tmp_path / "one", 1, "augmented")
    none, _ = train(processed, tmp_path / "two", 2, "augmented", stop=1)
    assert none is None and (tmp_path / "two" / "checkpoints" / "last.pt").is_file()
    two, said = train(processed, tmp_path / "two", 2, "augmented")
    np.testing.assert_allclose(two, one, rtol=1e-3)
    assert one["train_loss"].iloc[-1] < 0.9 * one["train_loss"].iloc[0]  # something was learnt, so curves can differ
    totals = re.findall(r"rank \d: (\S+)", said)
    assert len(totals) == 2 and totals[0] == totals[1]


@pytest.mark.slow
def test_without_augmentation_torchrun_follows_the_curve_of_python_alone(processed, tmp_path):
    alone, _ = train(processed, tmp_path / "alone", 0, "plain")
    two, _ = train(processed, tmp_path / "two", 2, "plain")
    np.testing.assert_allclose(two, alone, rtol=1e-3)


def test_parts_make_up_the_batches_of_a_loader_that_shuffles():
    numbers = torch.arange(23)
    torch.manual_seed(5)
    expected = [batch.tolist() for batch in DataLoader(numbers, 7, shuffle=True)]
    parts = []
    for rank in range(3):
        torch.manual_seed(5)
        parts.append(Ranks(rank, 3, shared=True).parts(numbers, 7))
    for k, batch in enumerate(expected):
        pairs = [pair for part in parts for pair in part[k][0][: round(part[k][1] * len(batch) / 3)]]
        assert sorted(index for index, _ in pairs) == sorted(batch)
        assert sum(part[k][1] for part in parts) == pytest.approx(3)
    assert [len(part[-1][0]) for part in parts] == [1, 1, 1] and parts[2][-1][1] == 0  # two films for three processes


def test_a_seeded_sample_is_the_same_wherever_it_is_made():
    class Noise:
        def __getitem__(self, index):
            return index + torch.rand(2)

    samples = SeededSamples(Noise())
    torch.manual_seed(1)
    first, after = samples[3, 17], torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after  # the seed does not leak into the generator
    assert torch.equal(samples[3, 17], first) and not torch.equal(samples[3, 18], first)


def test_a_process_alone_shares_nothing(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    ranks = Ranks.join()
    assert ranks == Ranks(0, 1, shared=False)
    assert ranks.share("value") == "value" and ranks.total(torch.tensor(2.5)) == 2.5
