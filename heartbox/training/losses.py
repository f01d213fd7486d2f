"""Losses: how far predicted boxes and distributions of edges are from the labels.

An unknown label is NaN and is ignored. Knows torch and the output of the edges head; no data, no loop.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from heartbox.boxes import EDGES_PER_BOX
from heartbox.models.heads import EdgeDistributions


def edges_to_bins(boxes: Tensor, edges: EdgeDistributions) -> Tensor:
    """Share each coordinate between its two neighbouring bins, so that the distribution's mean is the coordinate.

    Parameters
    ----------
    boxes : Tensor, shape (N, E)
        Coordinates in pixels.
    edges : EdgeDistributions
        Gives the positions of the bins.

    Returns
    -------
    Tensor, shape (N, E, bins)
        Target distributions.
    """
    positions = edges.positions
    index = (boxes - positions[0]) / (positions[1] - positions[0])
    index = index.clamp(0, len(positions) - 1.001)
    lower = index.floor().long()
    share = (index - lower).unsqueeze(-1)
    bins = len(positions)
    return F.one_hot(lower, bins) * (1 - share) + F.one_hot(lower + 1, bins) * share


def distribution_loss(edges: EdgeDistributions, boxes: Tensor) -> Tensor:
    """Cross-entropy between each edge's distribution and its label, shared between the two neighbouring bins.

    Parameters
    ----------
    edges : EdgeDistributions
        Output of the head for a batch.
    boxes : Tensor, shape (N, E)
        Labels in pixels.
    """
    known = ~boxes.isnan()
    target = edges_to_bins(boxes.nan_to_num(), edges)
    cross_entropy = -(target * edges.logits.log_softmax(dim=-1)).sum(dim=-1)
    return cross_entropy[known].mean() if known.any() else no_loss(cross_entropy)


def iou_of_pairs(predicted: Tensor, boxes: Tensor) -> Tensor:
    """Differentiable intersection over union of boxes, (..., 4), pair by pair, -> (...)."""
    low = torch.maximum(predicted[..., :2], boxes[..., :2])
    high = torch.minimum(predicted[..., 2:], boxes[..., 2:])
    shared = (high - low).clamp_min(0).prod(dim=-1)
    area = (predicted[..., 2:] - predicted[..., :2]).clamp_min(0).prod(dim=-1)
    true_area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    return shared / (area + true_area - shared).clamp_min(1e-6)


def box_loss(predicted: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Smooth L1 over the known edges, in tenths of the image, plus 1 - IoU over the boxes known on all sides.

    Parameters
    ----------
    predicted, boxes : Tensor, shape (N, 4 * targets)
        In pixels.
    size : int
        Side of the image, so that the loss does not depend on it.
    """
    predicted, boxes = predicted.reshape(-1, EDGES_PER_BOX), boxes.reshape(-1, EDGES_PER_BOX)
    known = ~boxes.isnan()
    if not known.any():
        return no_loss(predicted)
    loss = F.smooth_l1_loss(predicted[known] / size * 10, boxes[known] / size * 10)
    whole = known.all(dim=1)
    if whole.any():
        loss = loss + (1 - iou_of_pairs(predicted[whole], boxes[whole])).mean()
    return loss


def mse_loss(predicted: Tensor, boxes: Tensor) -> Tensor:
    """Mean squared error over the known edges, in square pixels; both of shape (N, 4 * targets)."""
    known = ~boxes.isnan()
    return F.mse_loss(predicted[known], boxes[known]) if known.any() else no_loss(predicted)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy between a coarse map of each target and the share of each of its cells that the mask covers.

    Parameters
    ----------
    logits : Tensor, shape (N, targets, h, w)
        From the network's ``mask_head``.
    masks : Tensor, shape (N, targets, H, W)
        Coverage in [0, 1], averaged over the cells of the coarse map. A film whose masks are all zero has none and is
        ignored.
    """
    # On the CPU, because Apple's MPS averages over whole multiples only, and 112 is not a multiple of 20.
    target = F.interpolate(masks.cpu(), logits.shape[-2:], mode="area").to(logits.device)
    known = target.flatten(1).any(dim=1)
    if not known.any():
        return no_loss(logits)
    return F.binary_cross_entropy_with_logits(logits[known], target[known])


def no_loss(outputs: Tensor) -> Tensor:
    """Return zero, with a gradient of zero: the loss of a batch without a known label."""
    return outputs.sum() * 0
