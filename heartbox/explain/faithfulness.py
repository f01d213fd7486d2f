"""Is an evidence map true? Tests that a map can fail, in pixels of edge movement where that is possible.

A plausible map is not an explanation. These tests query the network again with parts of the image removed or restored,
and measure whether it relied on what the map shows. Knows networks and maps; no files, no drawing.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heartbox.boxes import EDGES_PER_BOX, is_vertical
from heartbox.explain.attribution import BLUR, blurred, grad_cam, hires_cam, occlusion_map, smooth_gradients

FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # of the image that deletion and insertion replace
Method = Callable[[nn.Module, Tensor], Tensor]  # network and images -> maps (N, E, h, w)


def to_pixels(maps: Tensor, size: int) -> Tensor:
    """Enlarge maps, (N, E, h, w), to the size of the image, (N, E, size, size)."""
    return maps if maps.shape[-1] == size else F.interpolate(maps, size=(size, size), mode="bilinear")


# ---------------------------------------------------------------- removing and restoring parts of the image


@torch.no_grad()
def deletion(model: nn.Module, x: Tensor, maps: Tensor, edges: int = EDGES_PER_BOX, sigma: float = BLUR) -> Tensor:
    """Blur the pixels that a map ranks highest, and measure how far the edge moves (Petsiuk et al. 2018).

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    x : Tensor, shape (1, 1, size, size)
        One normalised image.
    maps : Tensor, shape (1, E, h, w)
        Signed evidence, whose magnitude ranks the pixels.
    edges : int
        How many maps are tested, counted from the first.
    sigma : float
        Standard deviation of the blur, in pixels.

    Returns
    -------
    Tensor, shape (edges,)
        Mean movement over removing 0.5 to 20 % of the image, in pixels. Larger is more faithful.
    """
    return _distance_after_replacing(model, x, blurred(x, sigma), maps, edges, reference=model(x)[0])


@torch.no_grad()
def insertion(model: nn.Module, x: Tensor, maps: Tensor, edges: int = EDGES_PER_BOX, sigma: float = BLUR) -> Tensor:
    """Restore the pixels that a map ranks highest in a blurred image, and measure how far off the edge remains.

    Parameters are those of :func:`deletion`.

    Returns
    -------
    Tensor, shape (edges,)
        Mean distance from the edge's position in the whole image over restoring 0.5 to 20 % of it, in pixels. Smaller
        is more faithful.
    """
    return _distance_after_replacing(model, blurred(x, sigma), x, maps, edges, reference=model(x)[0])


def _distance_after_replacing(
    model: nn.Module, image: Tensor, source: Tensor, maps: Tensor, edges: int, reference: Tensor
) -> Tensor:
    """Copy the highest-ranked pixels of `source` into `image`; return each edge's mean distance from `reference`."""
    size = image.shape[-1]
    ranking = to_pixels(maps, size)[0, :edges].abs().flatten(1).argsort(dim=1, descending=True)
    distances = []
    for edge in range(edges):
        batch = image.repeat(len(FRACTIONS), 1, 1, 1)
        for k, fraction in enumerate(FRACTIONS):
            pixels = ranking[edge, : round(fraction * size * size)]
            batch[k].view(-1)[pixels] = source.view(-1)[pixels]
        distances.append((model(batch)[:, edge] - reference[edge]).abs().mean())
    return torch.stack(distances)


@torch.no_grad()
def direction(
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    edges: int = EDGES_PER_BOX,
    sigma: float = BLUR,
    fraction: float = 0.05,
) -> Tensor:
    """Measure how often an edge moves as the signs of its map claim.

    The pixels that push an edge hardest in one direction, by the map, are blurred: the edge should move the other way.
    Then the same for the opposite direction.

    Parameters
    ----------
    model, x
        As for :func:`deletion`.
    maps : Tensor, shape (1, E, h, w)
        Signed evidence.
    edges : int
        How many maps are tested, counted from the first.
    sigma : float
        Standard deviation of the blur, in pixels.
    fraction : float
        Share of the image's pixels that is blurred; less where fewer pixels have that sign.

    Returns
    -------
    Tensor, shape (edges,)
        1 where both moved as claimed, 0.5 where one did, 0 where none did; 0.5 on average by chance.
    """
    size = x.shape[-1]
    background, fine = blurred(x, sigma), to_pixels(maps, size)[0, :edges].flatten(1)
    batch, signs = x.repeat(2 * edges, 1, 1, 1), (1, -1)
    for k, (edge, sign) in enumerate(itertools.product(range(edges), signs)):
        strength = sign * fine[edge]
        pixels = strength.argsort(descending=True)[: round(fraction * size * size)]
        pixels = pixels[strength[pixels] > 0]
        batch[k].view(-1)[pixels] = background.view(-1)[pixels]
    moved = model(batch) - model(x)
    as_claimed = [[-sign * moved[2 * edge + k, edge] > 0 for k, sign in enumerate(signs)] for edge in range(edges)]
    return torch.tensor(as_claimed).double().mean(dim=1)


# ---------------------------------------------------------------- comparing maps


def rank_agreement(maps: Tensor, others: Tensor) -> Tensor:
    """Rank correlation (Spearman) of the magnitudes of two maps, (1, E, ...) each, at the size of the second, (E,)."""
    pooled = F.adaptive_avg_pool2d(maps.abs(), others.shape[-2:])
    # Equal values share a rank; otherwise two maps of mostly zeros would agree by the order of their pixels.
    first, second = (
        torch.from_numpy(pd.DataFrame(one.abs()[0].flatten(1).T.cpu().numpy()).rank().to_numpy().T.copy())
        for one in (pooled, others)
    )
    first, second = (one - one.mean(dim=1, keepdim=True) for one in (first, second))
    return (first * second).sum(dim=1) / (first.norm(dim=1) * second.norm(dim=1)).clamp_min(1e-12)


def peak_distance(maps: Tensor, coordinates: Tensor, size: int) -> Tensor:
    """Distance of the maximum of each map from the edge that it explains, in pixels, (E,).

    Parameters
    ----------
    maps : Tensor, shape (1, E, h, w)
        Evidence for ``x_min, y_min, x_max, y_max`` (and so on).
    coordinates : Tensor, shape (E,)
        The network's answer, in pixels.
    size : int
        Side of the image.
    """
    width = maps.shape[-1]
    peak = maps[0].abs().flatten(1).argmax(dim=1)
    scale = size / width
    x, y = (peak % width + 0.5) * scale, (torch.div(peak, width, rounding_mode="floor") + 0.5) * scale
    vertical = torch.tensor([is_vertical(edge) for edge in range(len(peak))], device=peak.device)
    return (torch.where(vertical, x, y) - coordinates).abs()


# ---------------------------------------------------------------- randomising the network


def randomised(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a network with more and more layers randomised, from the head down (Adebayo et al. 2018).

    A map that stays the same when the network has lost what it learnt explains the image and not the network.
    """
    model = copy.deepcopy(model).eval()
    parts = [(name, part) for name, part in model.named_children() if name != "mask_head"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, part in reversed(parts):
            for layer in part.modules():
                if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                    layer.reset_parameters()
            yield name, copy.deepcopy(model).eval()


def sanity(method: Method, model: nn.Module, x: Tensor, edges: int = EDGES_PER_BOX) -> list[tuple[str, float]]:
    """Compare a method's maps before and after layers are randomised, from the head down.

    Returns
    -------
    list of tuple
        For each stage the part randomised last, and the mean rank correlation of the magnitudes with those of the
        trained network: near 1 for a method that ignores the network.
    """
    before = method(model, x)[:, :edges]
    return [
        (name, float(rank_agreement(method(other, x)[:, :edges], before).mean())) for name, other in randomised(model)
    ]


# ---------------------------------------------------------------- methods side by side


def random_map(model: nn.Module, x: Tensor) -> Tensor:
    """Return smooth noise that depends on neither image nor network: the baseline for every method."""
    return blurred(torch.randn(EDGES_PER_BOX, 1, *x.shape[-2:]), 6.0).transpose(0, 1)


def image_edges(model: nn.Module, x: Tensor) -> Tensor:
    """Return the magnitude of the image's gradient, which depends on the image and not on the network."""
    down, right = torch.gradient(blurred(x, 2.0), dim=(2, 3))
    return torch.hypot(down, right).repeat(1, EDGES_PER_BOX, 1, 1)


METHODS: dict[str, Method] = {
    "occlusion": occlusion_map,
    "HiResCAM": hires_cam,
    "integrated gradients": smooth_gradients,
    "Grad-CAM, signed": grad_cam,
    "edges of the image": image_edges,
    "random": random_map,
}


def measure(model: nn.Module, x: Tensor, maps: Tensor, occluded: Tensor) -> dict[str, float]:
    """Run every test that needs no second network on one method's maps of one image.

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
        Means over the first four coordinates: ``deletion`` and ``insertion`` in pixels, ``direction`` (share of
        movements with the map's sign), ``occlusion`` (rank correlation with that map); and the median distance
        ``peak`` of the map's maximum from its edge, in pixels.
    """
    maps = maps[:, :EDGES_PER_BOX]
    with torch.no_grad():
        coordinates = model(x)[0, :EDGES_PER_BOX]
    return {
        "deletion": float(deletion(model, x, maps).mean()),
        "insertion": float(insertion(model, x, maps).mean()),
        "direction": float(direction(model, x, maps).mean()),
        "occlusion": float(rank_agreement(maps, occluded[:, :EDGES_PER_BOX]).mean()),
        "peak": float(peak_distance(maps, coordinates, x.shape[-1]).median()),
    }
