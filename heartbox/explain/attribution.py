"""Signed evidence maps: which parts of an image push each edge of the box to which side.

A coordinate can be pushed up or down, so the sign is half of the answer and is kept: positive evidence moves
the edge right or down, negative left or up. Knows networks and torch; no files, no drawing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def class_activation_map(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Split each coordinate of a regression network into what each place of the feature map adds to it.

    With global average pooling and one linear layer a coordinate is ``sum over places of w . f(place) / places
    + bias``, so the class-activation map (Zhou et al. 2016), without the ReLU that is often put behind it, is
    not a picture of the answer but the answer itself, written out place by place.

    Parameters
    ----------
    model : nn.Module
        From ``build_model("resnet18", "regression")``.
    x : Tensor, shape (N, 1, size, size)
        Normalised images.

    Returns
    -------
    tuple of Tensor
        Maps (N, E, h, w) in pixels of movement and the bias (E,): ``maps.sum((2, 3)) + bias`` is the output.

    Raises
    ------
    ValueError
        If the model does not end in global pooling and one linear layer.
    """
    if not model.has_linear_head:
        raise ValueError("an exact class-activation map needs resnet18 with the regression head")
    with torch.no_grad():
        features = model.features(x)
        places = features.shape[2] * features.shape[3]
        maps = torch.einsum("ec,nchw->nehw", model.last_layer.weight, features) / places
    return maps, model.last_layer.bias.detach()


def hires_cam(model: nn.Module, x: Tensor) -> Tensor:
    """Signed gradient map of each coordinate at the last feature map (HiResCAM, Draelos & Carin 2020).

    At each place, activation times the gradient of the coordinate, summed over channels and not averaged over
    places first as Grad-CAM does. For global pooling and one linear layer it equals
    :func:`class_activation_map`. For other heads it is a first-order account of what scaling a feature would do, which
    is not what taking it away does: it finds the places well, and gets the sign wrong in a third of the cases
    (``benchmarks/results/explanation_faithfulness.md``).

    Parameters
    ----------
    model : nn.Module
        Any model of :mod:`heartbox.models.heads`.
    x : Tensor, shape (N, 1, size, size)
        Normalised images.

    Returns
    -------
    Tensor, shape (N, E, h, w)
        Evidence for each coordinate, in pixels of movement.
    """
    features, gradients = _feature_gradients(model, x)
    return torch.stack([(gradient * features).sum(dim=1) for gradient in gradients], dim=1)


def grad_cam(model: nn.Module, x: Tensor) -> Tensor:
    """Signed Grad-CAM of each coordinate at the last feature map (Selvaraju et al. 2017), without its ReLU.

    The gradient is averaged over places before it weighs the channels, which is right where a place's evidence
    does not depend on where it is, and wrong for an edge, which is all about where. Kept for comparison.

    Parameters and return value as for :func:`hires_cam`.
    """
    features, gradients = _feature_gradients(model, x)
    weights = [gradient.mean(dim=(2, 3), keepdim=True) for gradient in gradients]
    return torch.stack([(weight * features).sum(dim=1) for weight in weights], dim=1)


def _feature_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the last feature map, (N, C, h, w), and the gradient of each coordinate there, in the same shape."""
    with torch.enable_grad():
        features = model.features(x).detach().requires_grad_()
        coordinates = model.coordinates(features)
        edges = range(coordinates.shape[1])
        gradients = [torch.autograd.grad(coordinates[:, e].sum(), features, retain_graph=True)[0] for e in edges]
    return features.detach(), gradients


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Blur images (N, 1, size, size) until what an edge could be seen by is gone, but not the brightness around."""
    reach = int(3 * sigma)
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))


def integrated_gradients(
    model: nn.Module, x: Tensor, steps: int = 16, sigma: float = 12.0, edges: int | None = None
) -> Tensor:
    """Signed integrated gradients of each coordinate, from the blurred image to the image (Sundararajan et al. 2017).

    Summed over all places they are the coordinate's difference between the two images, up to the error of `steps`.

    Parameters
    ----------
    model : nn.Module
        Any model of :mod:`heartbox.models.heads`, in evaluation mode.
    x : Tensor, shape (N, 1, size, size)
        Normalised images.
    steps : int
        Points on the way, at the middles of equal parts.
    sigma : float
        Of the blur, in pixels.
    edges : int, optional
        How many of the coordinates, from the first; all by default.

    Returns
    -------
    Tensor, shape (N, E, size, size)
        Evidence for each coordinate, in pixels of movement.
    """
    start = blurred(x, sigma)
    total: Tensor | None = None
    for step in range(steps):
        point = start + (step + 0.5) / steps * (x - start)
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            coordinates = model(point)
            gradients = torch.cat(
                [
                    torch.autograd.grad(coordinates[:, edge].sum(), point, retain_graph=True)[0]
                    for edge in range(edges or coordinates.shape[1])
                ],
                dim=1,
            )
        total = gradients if total is None else total + gradients
    return (total / steps * (x - start)).detach()


@torch.no_grad()
def occlusion_map(model: nn.Module, x: Tensor, patch: int = 28, stride: int = 14, sigma: float = 12.0) -> Tensor:
    """Measure how far each coordinate moves when a patch is blurred away (Zeiler & Fergus 2014): no gradients.

    Parameters
    ----------
    model : nn.Module
        Any model of :mod:`heartbox.models.heads`, in evaluation mode.
    x : Tensor, shape (1, 1, size, size)
        One normalised image.
    patch, stride : int
        Side of the patch and about the distance from one to the next, in pixels; it is changed a little where the
        image's side is no multiple of it.
    sigma : float
        Of the blur, in pixels.

    Returns
    -------
    Tensor, shape (1, E, h, w)
        Coordinate of the image less that of the occluded one, in pixels: positive where what is there pushes the
        edge right or down. The map's places tile the image, and each patch is centred on its place; those at the
        border reach out of the image.
    """
    size = x.shape[-1]
    count = max(1, round(size / stride))
    starts = [round((k + 0.5) * size / count - patch / 2) for k in range(count)]
    windows = [slice(max(start, 0), start + patch) for start in starts]
    soft, before = blurred(x, sigma), model(x)
    rows = []
    for down in windows:
        batch = x.repeat(len(windows), 1, 1, 1)
        for k, across in enumerate(windows):
            batch[k, :, down, across] = soft[0, :, down, across]
        rows.append(before - model(batch))
    return torch.stack(rows).permute(2, 0, 1)[None]


def smooth_gradients(model: nn.Module, x: Tensor, sigma: float = 3.0) -> Tensor:
    """Return integrated gradients of the first four coordinates, averaged over a few pixels: single ones are noise."""
    maps = integrated_gradients(model, x, edges=4)
    return blurred(maps.transpose(0, 1), sigma).transpose(0, 1)


def evidence_maps(model: nn.Module, x: Tensor) -> Tensor:
    """Return the signed map of each coordinate, (N, E, h, w), by the method that suits the head."""
    if model.has_linear_head:
        return class_activation_map(model, x)[0]
    return hires_cam(model, x)


# How they stand their checks: heartbox.explain.faithfulness, benchmarks/results/explanation_faithfulness.md. Signed Grad-CAM does not.
EXPLANATIONS = {
    "integrated gradients": smooth_gradients,
    "occlusion": occlusion_map,
    "gradients": evidence_maps,
}
