"""Networks: shapes, the first layer, the distributions, and what happens without a network connection."""

import urllib.error

import pytest
import torch
import torchvision

from heartbox.models import backbones, heads
from heartbox.models.backbones import grey_input
from heartbox.models.build import build_model


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("head", ["regression", "edges"])
@pytest.mark.parametrize("backbone", ["resnet18", "vgg16", "vgg16_bn"])
def test_shapes(backbone, head):
    model = build_model(backbone, head, size=64).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 1, 64, 64)).shape == (2, 4)
    assert model.pretrained is False


def test_two_targets_give_eight_numbers():
    assert build_model(head="edges", targets=("heart", "thorax"), size=64).eval()(torch.zeros(1, 1, 64, 64)).shape == (
        1,
        8,
    )


@pytest.mark.parametrize("arguments", [{"backbone": "alexnet"}, {"head": "oracle"}, {"size": 100}])
def test_unknown_names_are_refused(arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        build_model(**arguments)


def test_grey_layer_equals_the_colour_layer_on_a_grey_picture():
    colour = torch.nn.Conv2d(3, 8, 7, stride=2, padding=3)
    grey = torch.randn(2, 1, 32, 32)
    assert torch.allclose(grey_input(colour)(grey), colour(grey.expand(-1, 3, -1, -1)), atol=1e-5)


def test_imagenet_weights_are_used_where_they_can_be_had(monkeypatch):
    """Hands over a network as torchvision would after the download: its first layer must be summed, not lost."""
    donor = torchvision.models.resnet18(weights=None)
    monkeypatch.setattr(backbones.torchvision.models, "resnet18", lambda weights: donor)
    first = donor.conv1.weight.detach().clone()
    model = build_model("resnet18", "edges", pretrained=True, size=64)
    assert model.pretrained is True
    assert torch.allclose(model.levels[0][0].weight, first.sum(dim=1, keepdim=True))
    assert model.levels[2] is donor.layer4


def test_without_a_connection_it_says_so_and_starts_from_scratch(monkeypatch):
    real = torchvision.models.resnet18

    def offline(weights):
        if weights is not None:
            raise urllib.error.URLError("no route to host")
        return real(weights=None)

    monkeypatch.setattr(backbones.torchvision.models, "resnet18", offline)
    with pytest.warns(UserWarning, match="starting from scratch instead.*checkpoints"):
        model = build_model("resnet18", pretrained=True, size=64)
    assert model.pretrained is False


def test_distributions():
    model = build_model(head="edges", size=224).eval()
    with torch.no_grad():
        edges = model.predict_distribution(model.features(torch.randn(2, 1, 224, 224)))
    assert edges.logits.shape == (2, 4, 60)
    assert edges.positions[0] == -6
    assert edges.positions[-1] == 230  # every 4 px, and past both borders of the image
    assert torch.allclose(edges.probabilities.sum(-1), torch.ones(2, 4), atol=1e-5)
    assert torch.allclose(edges.attention[:, 0].sum(dim=1), torch.ones(2, 28), atol=1e-5)  # rows, for x_min
    assert torch.allclose(edges.attention[:, 1].sum(dim=2), torch.ones(2, 28), atol=1e-5)  # columns, for y_min


def test_mean_and_spread_by_hand():
    # half the mass at 0 and half at 8: mean 4, standard deviation 4
    logits = torch.tensor([[[0.0, -1e9, 0.0]]])
    edges = heads.EdgeDistributions(logits, torch.tensor([0.0, 4.0, 8.0]), torch.empty(0))
    assert edges.coordinates.item() == pytest.approx(4)
    assert edges.std.item() == pytest.approx(4)


def test_a_bin_lies_over_the_column_it_is_made_of():
    """Moving an image by one stride moves each distribution of x by the bins of one column."""
    head = heads.EdgesHead(4, 4)
    features = torch.zeros(1, 4, 16, 16)
    features[0, :, 5:11, 6:9] = torch.randn(4, 6, 3)
    moved = features.roll(1, dims=3)
    with torch.no_grad():
        first, second = head(features), head(moved)
    assert torch.allclose(first.logits[0, 0, 8:24], second.logits[0, 0, 10:26], atol=1e-5)
    step = (first.positions[1] - first.positions[0]).item()
    assert 2 * step == head.stride
    # the centre of column 0 is at half a stride, between the third and the fourth bin
    assert (first.positions[2] + first.positions[3]).item() / 2 == head.stride / 2


def test_batch_size_does_not_change_the_answer():
    model = build_model(head="edges", size=64).eval()
    x = torch.randn(5, 1, 64, 64)
    with torch.no_grad():
        single = torch.cat([model(one[None]) for one in x])
        assert (model(x) - single).abs().max() < 1e-3
