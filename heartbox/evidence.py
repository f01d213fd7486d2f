"""Signed evidence maps: which parts of an image push each edge of the box to which side.

A coordinate can be pushed up or down, so the sign is half of the answer and is kept: positive evidence moves
the edge right or down, negative left or up. Knows networks and torch; no files, no drawing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
    if getattr(model, "backbone", None) != "resnet18" or not isinstance(getattr(model, "regress", None), nn.Linear):
        raise ValueError("an exact class-activation map needs resnet18 with the regression head")
    with torch.no_grad():
        features = model.features(x)
        places = features.shape[2] * features.shape[3]
        maps = torch.einsum("ec,nchw->nehw", model.regress.weight, features) / places
    return maps, model.regress.bias.detach()


def hires_cam(model: nn.Module, x: Tensor) -> Tensor:
    """Signed gradient map of each coordinate at the last feature map (HiResCAM, Draelos & Carin 2020).

    At each place, activation times the gradient of the coordinate, summed over channels and not averaged over
    places first as Grad-CAM does. For global pooling and one linear layer it equals
    :func:`class_activation_map`; for other heads it is its first-order approximation.

    Parameters
    ----------
    model : nn.Module
        Any model of :mod:`heartbox.networks`.
    x : Tensor, shape (N, 1, size, size)
        Normalised images.

    Returns
    -------
    Tensor, shape (N, E, h, w)
        Evidence for each coordinate, in pixels of movement.
    """
    with torch.enable_grad():
        features = model.features(x).detach().requires_grad_()
        coordinates = model.read(features)
        maps = []
        for edge in range(coordinates.shape[1]):
            (gradient,) = torch.autograd.grad(coordinates[:, edge].sum(), features, retain_graph=True)
            maps.append((gradient * features).sum(dim=1))
    return torch.stack(maps, dim=1).detach()


def evidence_maps(model: nn.Module, x: Tensor) -> Tensor:
    """Return the signed map of each coordinate, (N, E, h, w), by the method that suits the head."""
    if getattr(model, "backbone", None) == "resnet18" and isinstance(getattr(model, "regress", None), nn.Linear):
        return class_activation_map(model, x)[0]
    return hires_cam(model, x)
