"""Folded networks answer as the original ones, which stay as they are."""

import copy

import pytest
import torch
from helpers import same_weights
from torch import nn

from heartbox.models.build import build_model
from heartbox.models.folding import fold_batch_norm


def trained(backbone: str, head: str) -> nn.Module:
    """Return a network whose batch normalisation has statistics that matter."""
    torch.manual_seed(0)
    model = build_model(backbone, head, targets=("heart", "thorax"), size=64)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low in ((layer.running_mean, -0.3), (layer.bias.data, -0.3), (layer.running_var, 0.5)):
                values.uniform_(low, low + 1)
            layer.weight.data.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("head", ["regression", "edges"])
@pytest.mark.parametrize("backbone", ["resnet18", "vgg16_bn"])
def test_answers_are_the_same_without_batch_norm(backbone, head):
    model = trained(backbone, head)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model)
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-3, atol=1e-3)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert same_weights(before, model.state_dict())


def test_what_is_not_folded_takes_no_memory_twice():
    model = trained("vgg16", "regression")
    folded = fold_batch_norm(model)
    assert folded.regress[2].weight.data_ptr() == model.regress[2].weight.data_ptr()
