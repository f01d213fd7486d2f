"""Signed evidence maps: which parts of an image push each edge of the box in which direction.

A coordinate can be pushed up or down, so the sign is half of the explanation and is kept: positive evidence moves the
edge right or down, negative evidence left or up. Knows networks and torch; no files, no drawing.

:mod:`heartbox.explain.faithfulness` tests whether a map is true.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heartbox.boxes import EDGES_PER_BOX
from heartbox.models.heads import BoxNet

BLUR = 12.0  # px, standard deviation: removes an edge from sight and leaves the brightness around it
SMOOTHING = 3.0  # px, standard deviation: the gradient of a single pixel is noise

# ---------------------------------------------------------------- maps at the last feature map


def class_activation_map(model: BoxNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """Split each coordinate of a regression network into the contributions of the positions of the feature map.

    With global average pooling and one linear layer a coordinate is ``sum over positions of w . f(position) /
    positions + bias``. The class-activation map (Zhou et al. 2016), without the ReLU that usually follows it, is
    therefore not a picture of the answer but the answer itself, written out position by position.

    Parameters
    ----------
    model : BoxNet
        From ``build_model("resnet18", "regression")``.
    x : Tensor, shape (N, 1, size, size)
        Normalised images.

    Returns
    -------
    tuple of Tensor
        Maps, (N, E, h, w), in pixels of movement, and the bias, (E,): ``maps.sum((2, 3)) + bias`` is the output.

    Raises
    ------
    ValueError
        If the network does not end in global pooling and one linear layer.
    """
    if not model.has_linear_head:
        raise ValueError("an exact class-activation map needs resnet18 with the regression head")
    with torch.no_grad():
        features = model.features(x)
        positions = features.shape[2] * features.shape[3]
        maps = torch.einsum("ec,nchw->nehw", model.last_layer.weight, features) / positions
    return maps, model.last_layer.bias.detach()


def hires_cam(model: BoxNet, x: Tensor) -> Tensor:
    """Signed gradient map of each coordinate at the last feature map (HiResCAM, Draelos & Carin 2020).

    At each position the activation is multiplied by the gradient of the coordinate and summed over the channels.
    Grad-CAM averages the gradient over positions first; this does not. For global pooling and one linear layer the map
    equals :func:`class_activation_map`. For other heads it is a first-order estimate of what scaling a feature does,
    which is not the same as removing it: the positions are reliable, but the sign is right no more often than by chance
    (``benchmarks/results/explanation_faithfulness.md``).

    Parameters
    ----------
    model : BoxNet
        In evaluation mode.
    x : Tensor, shape (N, 1, size, size)
        Normalised images.

    Returns
    -------
    Tensor, shape (N, E, h, w)
        Evidence for each coordinate, in pixels of movement.
    """
    features, gradients = _feature_gradients(model, x)
    return torch.stack([(gradient * features).sum(dim=1) for gradient in gradients], dim=1)


def grad_cam(model: BoxNet, x: Tensor) -> Tensor:
    """Signed Grad-CAM of each coordinate at the last feature map (Selvaraju et al. 2017), without its ReLU.

    The gradient is averaged over positions before it weights the channels. That is right where evidence does not depend
    on its position, and wrong for an edge, where position is everything. Kept for comparison.

    Parameters and return value are those of :func:`hires_cam`.
    """
    features, gradients = _feature_gradients(model, x)
    weights = [gradient.mean(dim=(2, 3), keepdim=True) for gradient in gradients]
    return torch.stack([(weight * features).sum(dim=1) for weight in weights], dim=1)


def _feature_gradients(model: BoxNet, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the last feature map, (N, C, h, w), and the gradient of each coordinate there, in the same shape."""
    with torch.enable_grad():
        features = model.features(x).detach().requires_grad_()
        gradients = _gradients(model.coordinates(features), features)
    return features.detach(), gradients


def _gradients(coordinates: Tensor, inputs: Tensor, edges: int | None = None) -> list[Tensor]:
    """Return the gradient of each coordinate, (N, E), with respect to its own inputs, in the shape of these."""
    # Images of a batch do not mix, so the gradient of the sum over the batch is that of each image.
    return [
        torch.autograd.grad(coordinates[:, edge].sum(), inputs, retain_graph=True)[0]
        for edge in range(edges or coordinates.shape[1])
    ]


# ---------------------------------------------------------------- maps at the image


def blurred(x: Tensor, sigma: float = BLUR) -> Tensor:
    """Blur images, (N, 1, size, size), with a Gaussian of `sigma` pixels; borders are extended outwards."""
    radius = int(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))


def integrated_gradients(
    model: nn.Module, x: Tensor, steps: int = 16, sigma: float = BLUR, edges: int | None = None
) -> Tensor:
    """Signed integrated gradients of each coordinate, from the blurred image to the image (Sundararajan et al. 2017).

    Summed over the image, they give how far the coordinate moves between the two images, up to an error that
    depends on `steps`.

    Parameters
    ----------
    model : nn.Module
        Maps images to coordinates; in evaluation mode.
    x : Tensor, shape (N, 1, size, size)
        Normalised images.
    steps : int
        Number of points on the path, which is divided into that many equal parts; the points are their centres.
    sigma : float
        Standard deviation of the blur, in pixels.
    edges : int, optional
        How many coordinates, counted from the first; all by default.

    Returns
    -------
    Tensor, shape (N, E, size, size)
        Evidence for each coordinate, in pixels of movement.

    Notes
    -----
    The points go through the network one by one. On a CPU nearly all the time is spent in `steps` forward and
    ``steps * E`` backward passes, which are no faster in batches.
    """
    start = blurred(x, sigma)
    total = 0
    for step in range(steps):
        point = start + (step + 0.5) / steps * (x - start)
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            gradients = _gradients(model(point), point, edges)
        total = total + torch.cat(gradients, dim=1)
    return (total / steps * (x - start)).detach()


def smooth_gradients(model: nn.Module, x: Tensor, sigma: float = SMOOTHING) -> Tensor:
    """Return the integrated gradients of the first four coordinates, averaged over a few pixels."""
    maps = integrated_gradients(model, x, edges=EDGES_PER_BOX)
    return blurred(maps.flatten(0, 1)[:, None], sigma).view_as(maps)


@torch.no_grad()
def occlusion_map(
    model: nn.Module, x: Tensor, patch: int = 28, stride: int = 14, sigma: float = BLUR, batch_size: int = 16
) -> Tensor:
    """Measure how far each coordinate moves when a patch is blurred away (Zeiler & Fergus 2014), without gradients.

    Parameters
    ----------
    model : nn.Module
        Maps images to coordinates; in evaluation mode.
    x : Tensor, shape (1, 1, size, size)
        One normalised image.
    patch, stride : int
        Side of the patches and distance from one to the next, in pixels. The distance is adjusted where the image's
        side is not a multiple of it.
    sigma : float
        Standard deviation of the blur, in pixels.
    batch_size : int
        How many patches go through the network together: a matter of speed and memory.

    Returns
    -------
    Tensor, shape (1, E, h, w)
        Coordinate of the image minus that of the occluded image, in pixels: positive where the content of the patch
        pushes the edge right or down. The cells of the map tile the image, and each patch is centred on its cell;
        patches at the border extend beyond the image.
    """
    size = x.shape[-1]
    count = max(1, round(size / stride))
    starts = [round((k + 0.5) * size / count - patch / 2) for k in range(count)]
    windows = [slice(max(start, 0), start + patch) for start in starts]
    patches = [(rows, columns) for rows in windows for columns in windows]
    background, before = blurred(x, sigma), model(x)
    moved = []
    for first in range(0, len(patches), batch_size):
        batch = x.repeat(len(patches[first : first + batch_size]), 1, 1, 1)
        for image, (rows, columns) in zip(batch, patches[first : first + batch_size], strict=True):
            image[:, rows, columns] = background[0, :, rows, columns]
        moved.append(before - model(batch))
    return torch.cat(moved).T.reshape(1, -1, count, count)


# ---------------------------------------------------------------- the choice for users


def evidence_maps(model: BoxNet, x: Tensor) -> Tensor:
    """Return the map of each coordinate at the last feature map, (N, E, h, w), by the method that suits the head."""
    return class_activation_map(model, x)[0] if model.has_linear_head else hires_cam(model, x)


# What a user may ask for. benchmarks/results/explanation_faithfulness.md has how each method scores in the tests of
# heartbox.explain.faithfulness; signed Grad-CAM fails them and is not offered.
EXPLANATIONS = {
    "integrated gradients": smooth_gradients,
    "occlusion": occlusion_map,
    "gradients": evidence_maps,
}
