"""Losses: how far predicted boxes and distributions of edges are from the labels.

An unknown label is NaN and is left out. Knows torch and what the edges head puts out; no data, no loop.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from heartbox.models.heads import EdgeDistributions


def edges_to_bins(boxes: Tensor, edges: EdgeDistributions) -> Tensor:
    """Spread each coordinate over its two neighbouring bins, so that the distribution's mean is the coordinate.

    Parameters
    ----------
    boxes : Tensor, shape (N, E)
        Coordinates in pixels.
    edges : EdgeDistributions
        Gives the places of the bins.

    Returns
    -------
    Tensor, shape (N, E, bins)
        Target distributions.
    """
    positions = edges.positions
    place = (boxes - positions[0]) / (positions[1] - positions[0])
    place = place.clamp(0, len(positions) - 1.001)
    low = place.floor().long()
    share = (place - low).unsqueeze(-1)
    bins = len(positions)
    return F.one_hot(low, bins) * (1 - share) + F.one_hot(low + 1, bins) * share


def distribution_loss(edges: EdgeDistributions, boxes: Tensor) -> Tensor:
    """Cross-entropy between each edge's distribution and its label, spread over the two neighbouring bins.

    Parameters
    ----------
    edges : EdgeDistributions
        What the head says of a batch.
    boxes : Tensor, shape (N, E)
        Labels in pixels.
    """
    known = ~boxes.isnan()
    wanted = edges_to_bins(boxes.nan_to_num(), edges)
    surprise = -(wanted * edges.logits.log_softmax(dim=-1)).sum(dim=-1)
    # Nothing known: zero, with a gradient of zero.
    return surprise[known].mean() if known.any() else surprise.sum() * 0


def iou_of_pairs(predicted: Tensor, boxes: Tensor) -> Tensor:
    """Differentiable intersection over union of boxes (..., 4), pair by pair, -> (...)."""
    low = torch.maximum(predicted[..., :2], boxes[..., :2])
    high = torch.minimum(predicted[..., 2:], boxes[..., 2:])
    shared = (high - low).clamp_min(0).prod(dim=-1)
    area = (predicted[..., 2:] - predicted[..., :2]).clamp_min(0).prod(dim=-1)
    true_area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    return shared / (area + true_area - shared).clamp_min(1e-6)


def box_loss(predicted: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Smooth L1 in tenths of the image, over the known edges, plus 1 - IoU, over the boxes known on all sides.

    Parameters
    ----------
    predicted, boxes : Tensor, shape (N, 4 * targets)
        In pixels.
    size : int
        Side of the image, so that the loss does not depend on it.
    """
    predicted, boxes = predicted.reshape(-1, 4), boxes.reshape(-1, 4)
    known = ~boxes.isnan()
    if not known.any():
        return predicted.sum() * 0  # nothing known: zero, with a gradient of zero
    loss = F.smooth_l1_loss(predicted[known] / size * 10, boxes[known] / size * 10)
    whole = known.all(dim=1)
    if whole.any():
        loss = loss + (1 - iou_of_pairs(predicted[whole], boxes[whole])).mean()
    return loss


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy between a coarse map of each target and how much of each place its mask covers.

    Parameters
    ----------
    logits : Tensor, shape (N, targets, h, w)
        From the network's ``mask_head``.
    masks : Tensor, shape (N, targets, H, W)
        Coverage in [0, 1], averaged over the places of the coarse map. A film whose masks are all zero has none,
        and is left out.
    """
    # On the CPU, because Apple's MPS averages whole multiples only, and 112 to 20 is none.
    wanted = F.interpolate(masks.cpu(), logits.shape[-2:], mode="area").to(logits.device)
    known = wanted.flatten(1).any(dim=1)
    if not known.any():
        return logits.sum() * 0  # nothing known: zero, with a gradient of zero
    return F.binary_cross_entropy_with_logits(logits[known], wanted[known])
