"""Is an evidence map true? Checks that a map can fail, each in pixels of edge movement where that is possible.

A pretty map is no explanation. These ask the network again, with parts of the image taken away or given back, and see
whether it rested on what the map says. Knows networks and maps; no files, no drawing.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heartbox.explain.attribution import blurred, grad_cam, hires_cam, occlusion_map, smooth_gradients

FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
Method = Callable[[nn.Module, Tensor], Tensor]


def to_pixels(maps: Tensor, size: int) -> Tensor:
    """Enlarge maps (N, E, h, w) to the image, (N, E, size, size)."""
    return maps if maps.shape[-1] == size else F.interpolate(maps, size=(size, size), mode="bilinear")


@torch.no_grad()
def deletion(model: nn.Module, x: Tensor, maps: Tensor, edges: int = 4, sigma: float = 12.0) -> Tensor:
    """Blur away the places that a map calls most important, and see how far the edge moves (Petsiuk et al. 2018).

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    x : Tensor, shape (1, 1, size, size)
        One normalised image.
    maps : Tensor, shape (1, E, h, w)
        Signed evidence; its magnitude ranks the places.
    edges : int
        How many of the maps, from the first, are tried.
    sigma : float
        Of the blur, in pixels.

    Returns
    -------
    Tensor, shape (edges,)
        Mean movement over taking away 0.5 to 20 % of the image, in pixels: the larger, the more faithful.
    """
    return _replace(model, x, blurred(x, sigma), maps, edges)


@torch.no_grad()
def insertion(model: nn.Module, x: Tensor, maps: Tensor, edges: int = 4, sigma: float = 12.0) -> Tensor:
    """Give back, to a blurred image, the places that a map calls most important, and see how far off the edge stays.

    Parameters as for :func:`deletion`.

    Returns
    -------
    Tensor, shape (edges,)
        Mean distance from the edge's place in the whole image over giving back 0.5 to 20 % of it, in pixels: the
        smaller, the more faithful.
    """
    return _replace(model, blurred(x, sigma), x, maps, edges, target=model(x)[0])


def _replace(
    model: nn.Module, first: Tensor, second: Tensor, maps: Tensor, edges: int, target: Tensor | None = None
) -> Tensor:
    size = first.shape[-1]
    target = model(first)[0] if target is None else target
    strength = to_pixels(maps, size)[0, :edges].abs().flatten(1)
    order = strength.argsort(dim=1, descending=True)
    moved = []
    for edge in range(edges):
        batch = first.repeat(len(FRACTIONS), 1, 1, 1)
        for k, fraction in enumerate(FRACTIONS):
            taken = order[edge, : round(fraction * size * size)]
            batch[k].view(-1)[taken] = second.view(-1)[taken]
        moved.append((model(batch)[:, edge] - target[edge]).abs().mean())
    return torch.stack(moved)


def direction(
    model: nn.Module, x: Tensor, maps: Tensor, edges: int = 4, sigma: float = 12.0, fraction: float = 0.05
) -> Tensor:
    """Tell how often an edge moves as the signs of its map claim.

    What a map says pushes an edge one way is blurred, the strongest `fraction` of the image: the edge should go the
    other way. Then the same for what pushes it back.

    Parameters
    ----------
    model, x
        As for :func:`deletion`.
    maps : Tensor, shape (1, E, h, w)
        Signed evidence.
    edges : int
        How many coordinates, from the first.
    sigma : float
        Of the blur, in pixels.
    fraction : float
        Of the image's pixels; fewer, where fewer have that sign.

    Returns
    -------
    Tensor, shape (E,)
        1 where both moved as claimed, 0.5 where one did, 0 for none; 0.5 on average by chance.
    """
    size = x.shape[-1]
    soft, fine = blurred(x, sigma), to_pixels(maps, size)[0, :edges].flatten(1)
    batch, signs = x.repeat(2 * edges, 1, 1, 1), (1, -1)
    for k, (edge, sign) in enumerate(itertools.product(range(edges), signs)):
        strength = sign * fine[edge]
        taken = strength.argsort(descending=True)[: round(fraction * size * size)]
        taken = taken[strength[taken] > 0]
        batch[k].view(-1)[taken] = soft.view(-1)[taken]
    with torch.no_grad():
        moved = model(batch) - model(x)
    claimed = [[-sign * moved[2 * edge + k, edge] > 0 for k, sign in enumerate(signs)] for edge in range(edges)]
    return torch.tensor(claimed).double().mean(dim=1)


def rank_agreement(maps: Tensor, others: Tensor) -> Tensor:
    """Rank correlation (Spearman) of the magnitudes of two maps, (1, E, ...) each, at the size of the second, (E,)."""
    pooled = F.adaptive_avg_pool2d(maps.abs(), others.shape[-2:])
    # Places that are equally strong share a rank, so that two maps of nearly nothing do not agree by their order.
    first, second = (
        torch.from_numpy(pd.DataFrame(one.abs()[0].flatten(1).T.cpu().numpy()).rank().to_numpy().T.copy())
        for one in (pooled, others)
    )
    first, second = (one - one.mean(dim=1, keepdim=True) for one in (first, second))
    return (first * second).sum(dim=1) / (first.norm(dim=1) * second.norm(dim=1)).clamp_min(1e-12)


def peak_distance(maps: Tensor, coordinates: Tensor, size: int) -> Tensor:
    """Distance of the strongest place of each map from the edge it explains, in pixels, (E,).

    Parameters
    ----------
    maps : Tensor, shape (1, E, h, w)
        Evidence for ``x_min, y_min, x_max, y_max`` (and so on).
    coordinates : Tensor, shape (E,)
        Where the network puts the edges, in pixels.
    size : int
        Side of the image.
    """
    width = maps.shape[-1]
    place = maps[0].abs().flatten(1).argmax(dim=1)
    scale = size / width
    x, y = (place % width + 0.5) * scale, (torch.div(place, width, rounding_mode="floor") + 0.5) * scale
    vertical = torch.arange(len(place), device=place.device) % 2 == 0
    return (torch.where(vertical, x, y) - coordinates).abs()


def randomised(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a model with ever more of its layers made random, from the head down (Adebayo et al. 2018).

    A map that stays the same when the network forgets what it learnt explains the image and not the network.
    """
    model = copy.deepcopy(model).eval()
    parts = [name for name, _ in model.named_children() if name not in ("mask_head",)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in reversed(parts):
            for layer in getattr(model, name).modules():
                if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                    layer.reset_parameters()
            yield name, copy.deepcopy(model).eval()


def sanity(method: Method, model: nn.Module, x: Tensor, edges: int = 4) -> list[tuple[str, float]]:
    """Compare a method's maps before and after layers are made random, from the head down.

    Returns
    -------
    list of tuple
        For each stage the last part made random, and the mean rank correlation of the magnitudes with those of the
        learnt network: near 1 for a method that does not look at the network.
    """
    before = method(model, x)[:, :edges]
    return [
        (name, float(rank_agreement(method(other, x)[:, :edges], before).mean())) for name, other in randomised(model)
    ]


# ---------------------------------------------------------------- methods side by side


def random_map(model: nn.Module, x: Tensor) -> Tensor:
    """Return smooth noise that knows neither image nor network: what any method must beat."""
    return blurred(torch.randn(4, 1, *x.shape[-2:]), 6.0).transpose(0, 1)


def image_edges(model: nn.Module, x: Tensor) -> Tensor:
    """Return the strength of the image's gradient, which knows the image and not the network."""
    down, right = torch.gradient(blurred(x, 2.0), dim=(2, 3))
    return torch.hypot(down, right).repeat(1, 4, 1, 1)


METHODS: dict[str, Method] = {
    "occlusion": occlusion_map,
    "HiResCAM": hires_cam,
    "integrated gradients": smooth_gradients,
    "Grad-CAM, signed": grad_cam,
    "edges of the image": image_edges,
    "random": random_map,
}


def measure(model: nn.Module, x: Tensor, maps: Tensor, occluded: Tensor) -> dict[str, float]:
    """Measure one method's maps of one image by all checks that need no second network.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    x : Tensor, shape (1, 1, size, size)
        One normalised image.
    maps : Tensor, shape (1, E, h, w)
        Signed evidence for at least the first four coordinates.
    occluded : Tensor, shape (1, E, h', w')
        The occlusion map of the same image.

    Returns
    -------
    dict
        Means over the first four coordinates: ``deletion`` and ``insertion`` in pixels, ``direction`` (share of moves
        with the map's sign), ``occlusion`` (rank agreement with that map); and the median distance ``peak`` of the
        strongest place from its edge, in pixels.
    """
    maps = maps[:, :4]
    with torch.no_grad():
        coordinates = model(x)[0, :4]
    return {
        "deletion": float(deletion(model, x, maps).mean()),
        "insertion": float(insertion(model, x, maps).mean()),
        "direction": float(direction(model, x, maps).mean()),
        "occlusion": float(rank_agreement(maps, occluded[:, :4]).mean()),
        "peak": float(peak_distance(maps, coordinates, x.shape[-1]).median()),
    }
