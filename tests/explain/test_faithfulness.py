"""The checks of evidence maps: a true map passes, a false one fails, by numbers worked out beforehand."""

import pytest
import torch
from torch import nn

from heartbox.explain.attribution import (
    blurred,
    class_activation_map,
    grad_cam,
    hires_cam,
    integrated_gradients,
    occlusion_map,
)
from heartbox.explain.faithfulness import (
    METHODS,
    deletion,
    direction,
    insertion,
    measure,
    peak_distance,
    random_map,
    randomised,
    rank_agreement,
    sanity,
)
from heartbox.models.build import build_model

SIZE = 98


class Looker(nn.Module):
    """A network whose four coordinates are the sums of the image inside four squares, times a weight of either sign."""

    def __init__(self):
        super().__init__()
        self.squares = torch.zeros(4, SIZE, SIZE)
        for k, (y, x, weight) in enumerate([(14, 14, 1.0), (14, 56, -1.0), (56, 14, 2.0), (56, 56, -0.5)]):
            self.squares[k, y : y + 14, x : x + 14] = weight
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * torch.einsum("nchw,ehw->ne", x, self.squares)


@pytest.fixture(scope="module")
def looker():
    return Looker().eval()


@pytest.fixture(scope="module")
def spots():
    """Return fine noise, which a blur takes away nearly whole."""
    return torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).abs()


def test_occlusion_finds_where_a_network_looks(looker, spots):
    maps = occlusion_map(looker, spots, patch=14, stride=14)
    assert maps.shape == (1, 4, 7, 7)
    for k, (row, column) in enumerate([(1, 1), (1, 4), (4, 1), (4, 4)]):
        place = maps[0, k].abs().flatten().argmax().item()
        assert divmod(place, 7) == (row, column)
        # What is there makes the coordinate what it is: positive where it pushes right or down.
        change = (looker(spots) - looker(blurred(spots, 12.0)))[0, k]
        assert torch.sign(maps[0, k, row, column]) == torch.sign(change)
        elsewhere = maps[0, k].clone()
        elsewhere[row, column] = 0
        assert elsewhere.abs().max() < 1e-3


@pytest.mark.parametrize("size", [64, 96, 100, 256])
def test_occlusion_tiles_an_image_of_any_size(size):
    """What decides lies in one corner and in the opposite one; the map, stretched over the image, says so."""
    at = size - 12

    class Corners(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, :12, :12].sum((1, 2)), x[:, 0, at:, at:].sum((1, 2))], dim=1)

    x = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(1)).abs()
    maps = occlusion_map(Corners().eval(), x, patch=16, stride=14)[0].abs()
    places = maps.shape[-1]
    assert divmod(maps[0].argmax().item(), places) == (0, 0)
    assert divmod(maps[1].argmax().item(), places) == (places - 1, places - 1)
    # The last place's middle, on the image, lies inside the square that decides.
    assert at < (places - 0.5) * size / places < size


def test_integrated_gradients_add_up(looker, spots):
    maps = integrated_gradients(looker, spots, steps=4)
    difference = looker(spots) - looker(blurred(spots, 12.0))
    assert maps.sum(dim=(2, 3))[0].tolist() == pytest.approx(difference[0].tolist(), rel=1e-3)
    outside = maps[0] * (looker.squares == 0)
    assert outside.abs().max() < 1e-6


def test_integrated_gradients_add_up_on_a_real_network():
    torch.manual_seed(0)
    model = build_model("resnet18", "edges", size=64).eval()
    x = torch.randn(1, 1, 64, 64)
    maps = integrated_gradients(model, x, steps=64)
    with torch.no_grad():
        difference = model(x) - model(blurred(x, 12.0))
    assert maps.sum(dim=(2, 3))[0].tolist() == pytest.approx(difference[0].tolist(), abs=0.05)


@pytest.fixture(scope="module")
def bright(looker):
    """Return an image that is bright where the network looks and dark elsewhere."""
    return (looker.squares != 0).any(dim=0).float()[None, None]


def test_a_true_map_beats_a_false_one(looker, bright):
    true = looker.squares.abs()[None]
    false = 1 - true / true.amax(dim=(2, 3), keepdim=True)  # everywhere but where the network looks
    assert (deletion(looker, bright, true) > 5 * deletion(looker, bright, false)).all()
    assert (insertion(looker, bright, true) < 0.7 * insertion(looker, bright, false)).all()


def test_deletion_by_hand(looker, bright):
    """A square has 196 of 9216 pixels: 0.5, 1 and 2 % are a part of it, from 5 % on it is gone."""
    true = looker.squares.abs()[None]
    change = (looker(bright) - looker(blurred(bright, 12.0)))[0].abs()
    moved = deletion(looker, bright, true)
    parts = (46 + 92 + 184 + 3 * 196) / (6 * 196)
    assert (moved / change).tolist() == pytest.approx([parts] * 4, abs=0.05)


def test_rank_agreement():
    maps = torch.rand(1, 4, 12, 12)
    assert rank_agreement(maps, -maps).tolist() == pytest.approx([1.0] * 4)  # magnitudes count
    assert rank_agreement(maps, 1 - maps).tolist() == pytest.approx([-1.0] * 4)
    assert rank_agreement(torch.rand(1, 4, 40, 40), torch.rand(1, 4, 40, 40)).abs().max() < 0.15


def test_peak_distance():
    maps = torch.zeros(1, 4, 24, 24)
    maps[0, 0, 3, 10] = -5.0  # x of its middle: 42
    maps[0, 1, 3, 10] = 5.0  # y of its middle: 14
    maps[0, 2, 20, 23] = 1.0  # x: 94
    maps[0, 3, 20, 23] = 1.0  # y: 82
    distance = peak_distance(maps, torch.tensor([40.0, 10.0, 94.0, 90.0]), 96)
    assert distance.tolist() == pytest.approx([2, 4, 0, 8])


def test_gradient_maps_of_the_regression_head_agree():
    """With global pooling and one linear layer, Grad-CAM, HiResCAM and the class-activation map are one."""
    torch.manual_seed(0)
    model = build_model("resnet18", "regression", size=96).eval()
    x = torch.randn(1, 1, 96, 96)
    exact = class_activation_map(model, x)[0]
    assert torch.allclose(grad_cam(model, x), exact, atol=1e-4)
    assert torch.allclose(hires_cam(model, x), exact, atol=1e-4)


def test_layers_are_made_random_from_the_head_down():
    model = build_model("resnet18", "edges", size=64).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stages = list(randomised(model))
    assert [name for name, _ in stages] == ["head", "smooth", "laterals", "levels"]
    for name, changed in stages:
        assert not torch.equal(
            next(getattr(changed, name).parameters()),
            before[f"{name}.{next(iter(dict(getattr(model, name).named_parameters())))}"],
        )
    first = stages[0][1].state_dict()
    assert torch.equal(first["levels.0.0.weight"], before["levels.0.0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # a copy was changed


def test_a_map_that_does_not_look_at_the_network_fails_the_sanity_check():
    torch.manual_seed(0)
    model = build_model("resnet18", "edges", size=64).eval()
    x = torch.randn(1, 1, 64, 64)
    picture = sanity(lambda _, image: image.abs().repeat(1, 4, 1, 1), model, x)
    assert picture[-1][1] == pytest.approx(1.0)
    assert sanity(hires_cam, model, x)[-1][1] < 0.6


def test_measures_tell_a_true_map_from_noise(looker, spots):
    occluded = occlusion_map(looker, spots, patch=14, stride=14)
    true, noise = (measure(looker, spots, maps, occluded) for maps in (occluded, random_map(looker, spots)))
    assert list(true) == ["deletion", "insertion", "direction", "occlusion", "peak"]
    assert true["deletion"] > 1.5 * noise["deletion"]
    assert true["insertion"] < noise["insertion"]
    assert true["occlusion"] == pytest.approx(1)
    assert abs(noise["occlusion"]) < 0.5


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_gives_four_finite_maps(name):
    torch.manual_seed(0)
    model = build_model("resnet18", "edges", size=64).eval()
    maps = METHODS[name](model, torch.randn(1, 1, 64, 64))
    assert maps.shape[:2] == (1, 4)
    assert maps.isfinite().all() and maps.std() > 0


def test_the_sign_is_checked():
    """Every coordinate is one bright square less another: blur the one and it falls, blur the other and it rises."""
    weights, x = torch.zeros(4, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE)
    for edge in range(4):
        for column, sign in ((14, 1.0), (56, -1.0)):
            square = slice(4 + 24 * edge, 18 + 24 * edge), slice(column, column + 14)
            weights[edge][square], x[0, 0][square] = sign, 1.0

    class Difference(nn.Module):
        def forward(self, x):
            return torch.einsum("nchw,ehw->ne", x, weights)

    maps = (weights * x[0])[None]
    assert direction(Difference(), x, maps).tolist() == [1, 1, 1, 1]
    assert direction(Difference(), x, -maps).tolist() == [0, 0, 0, 0]
    assert direction(Difference(), x, maps.abs()).tolist() == [0.5, 0.5, 0.5, 0.5]  # half of it is not even claimed


def test_equally_strong_places_share_a_rank():
    """By order alone, two maps of nothing but one place each would agree almost perfectly."""
    first, second = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    first[0, 0, 1, 1], second[0, 0, 5, 5] = 1, 1
    agreement = rank_agreement(first, second)
    assert agreement[0] == pytest.approx(-1 / 63, abs=1e-6)  # scipy.stats.spearmanr says so too
    assert agreement[1] == 0  # of a map without any difference nothing can be said
