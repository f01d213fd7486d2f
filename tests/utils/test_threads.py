"""Threads that sleep while they wait, whichever is imported first and whatever the user has set."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT

from heartbox.utils.threads import MAPS, WAIT_SETTINGS

# Processor seconds of a hundred short tasks for two threads with a pause after each, in which threads wait.
COST = """
torch.set_num_threads(2)
x = torch.ones(2**20)
def cost():
    before = time.process_time()
    for _ in range(100):
        x.add_(1)
        time.sleep(0.006)
    return time.process_time() - before
cost()
print(cost())
"""


def run(code: str, **setting: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in WAIT_SETTINGS} | setting
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("before", "setting", "after"),
    [
        ("", {}, "PASSIVE"),
        ("import torch;", {}, "PASSIVE"),
        ("", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ("", {"GOMP_SPINCOUNT": "9"}, None),
    ],
)
def test_how_threads_wait_is_set_unless_the_user_did(before, setting, after):
    code = f"{before}import os, heartbox; print(os.environ.get('OMP_WAIT_POLICY'))"
    assert run(code, **setting) == str(after)


@pytest.mark.skipif(not MAPS.is_file(), reason="only GNU's OpenMP on Linux can be told after it is loaded")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two threads on one processor never wait in a loop")
def test_threads_sleep_even_if_torch_was_imported_first():
    waiting = float(run(f"import time, torch{COST}"))
    if waiting < 0.2:
        pytest.skip("torch's threads do not wait in a loop here")
    assert float(run(f"import time, torch, heartbox{COST}")) < waiting / 3
    assert float(run(f"import time, heartbox, torch{COST}")) < waiting / 3
    assert float(run(f"import time, torch, heartbox{COST}", OMP_WAIT_POLICY="ACTIVE")) > waiting / 3
