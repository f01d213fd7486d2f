"""Where is computed, and in which precision."""

import pytest
import torch

from heartbox.training.device import choose_device, mixed_precision


def test_a_device_can_be_named():
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("supported", [True, False])
def test_a_cpu_trains_in_bfloat16_where_it_has_it_and_never_answers_in_it(monkeypatch, supported):
    monkeypatch.setattr("heartbox.training.device._cpu_has_bfloat16", lambda: supported)
    layer, x, cpu = torch.nn.Linear(4, 4), torch.ones(1, 4), torch.device("cpu")
    with mixed_precision(cpu):
        assert layer(x).dtype is (torch.bfloat16 if supported else torch.float32)
    with mixed_precision(cpu, training=False):
        assert layer(x).dtype is torch.float32
