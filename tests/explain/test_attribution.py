"""Evidence maps: the exact map adds up to the coordinate, the gradient map is what its definition says."""

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, LayerGradientXActivation, Occlusion

from heartbox.explain.attribution import (
    blurred,
    class_activation_map,
    evidence_maps,
    grad_cam,
    hires_cam,
    integrated_gradients,
    occlusion_map,
)
from heartbox.models.build import build_model


@pytest.fixture
def regression():
    torch.manual_seed(0)
    model = build_model("resnet18", "regression", size=96).eval()
    model.start_at(torch.tensor([30.0, 20.0, 70.0, 60.0]))
    return model


def test_the_map_and_the_bias_are_the_coordinate(regression):
    x = torch.randn(3, 1, 96, 96)
    maps, bias = class_activation_map(regression, x)
    with torch.no_grad():
        coordinates = regression(x)
    assert maps.shape == (3, 4, 3, 3)
    assert (maps.sum(dim=(2, 3)) + bias - coordinates).abs().max() < 1e-3
    assert (maps < 0).any()  # signed: a ReLU would have thrown this away
    assert (maps > 0).any()


def test_gradient_map_equals_the_exact_map_where_there_is_one(regression):
    x = torch.randn(2, 1, 96, 96)
    assert torch.allclose(hires_cam(regression, x), class_activation_map(regression, x)[0], atol=1e-4)


@pytest.mark.parametrize("head", ["edges", "regression"])
def test_each_map_belongs_to_its_edge(head):
    """A step along one edge's gradient at the feature map moves that edge as the map's sum foretells."""
    torch.manual_seed(1)
    model = build_model("resnet18", head, size=96).eval()
    x = torch.randn(1, 1, 96, 96)
    maps = evidence_maps(model, x)
    with torch.no_grad():
        features = model.features(x)
        # The directional derivative along the features themselves is the sum of activation times gradient.
        step = 1e-3
        slope = (model.coordinates(features * (1 + step)) - model.coordinates(features * (1 - step))) / (2 * step)
    assert maps.sum(dim=(2, 3))[0].tolist() == pytest.approx(slope[0].tolist(), rel=0.05, abs=0.05)


def test_an_exact_map_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="regression head"):
        class_activation_map(build_model("resnet18", "edges", size=64), torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("head", ["edges", "regression"])
def test_gradient_maps_agree_with_captum(head):
    """An independent implementation of the same methods, hooked into the same layer."""
    torch.manual_seed(0)
    model = build_model("resnet18", head, targets=("heart", "thorax"), size=64).eval()
    x = torch.randn(1, 1, 64, 64)
    layer = model.smooth if head == "edges" else model.features[-1]
    ours = {"hires": hires_cam(model, x), "grad": grad_cam(model, x), "paths": integrated_gradients(model, x, edges=4)}
    for edge in range(4):
        products = LayerGradientXActivation(model, layer).attribute(x, target=edge)
        weighed = LayerGradCam(model, layer).attribute(x, target=edge, relu_attributions=False)
        paths = IntegratedGradients(model).attribute(
            x, blurred(x, 12.0), target=edge, n_steps=16, method="riemann_middle"
        )
        assert torch.allclose(ours["hires"][:, edge], products.sum(dim=1), rtol=1e-4, atol=1e-5)
        assert torch.allclose(ours["grad"][:, edge], weighed[:, 0], rtol=1e-4, atol=1e-5)
        assert torch.allclose(ours["paths"][:, edge], paths[:, 0].float(), rtol=1e-3, atol=1e-5)
        assert ours["hires"][:, edge].abs().max() > 1e-3


@pytest.mark.parametrize("head", ["edges", "regression"])
def test_occlusion_agrees_with_captum(head):
    torch.manual_seed(0)
    model = build_model("resnet18", head, size=64).eval()
    x = torch.randn(1, 1, 64, 64)
    ours = occlusion_map(model, x, patch=16, stride=16)
    for edge in range(4):
        theirs = Occlusion(model).attribute(
            x, sliding_window_shapes=(1, 16, 16), strides=(1, 16, 16), baselines=blurred(x, 12.0), target=edge
        )
        # captum spreads each window's difference over its pixels; windows side by side do not mix.
        assert torch.allclose(ours[:, edge], theirs[:, 0, ::16, ::16].float(), rtol=1e-3, atol=1e-4)
