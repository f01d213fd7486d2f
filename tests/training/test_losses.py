"""Losses by hand, and what they make of unknown labels."""

import math

import pytest
import torch

from heartbox.models.heads import EdgeDistributions
from heartbox.training.losses import box_loss, distribution_loss, edges_to_bins, mask_loss, mse_loss


def test_bins_have_the_coordinate_as_their_mean():
    edges = EdgeDistributions(torch.zeros(1, 4, 60), torch.arange(60) * 4.0 - 6, torch.empty(0))
    boxes = torch.tensor([[0.0, 100.0, 123.4, 224.0]])
    shares = edges_to_bins(boxes, edges)
    assert torch.allclose(shares.sum(-1), torch.ones(1, 4))
    assert torch.allclose(shares @ edges.positions, boxes, atol=1e-3)
    assert (shares > 0).sum(-1).max() <= 2


def test_distribution_loss_by_hand():
    """Flat distributions over 60 bins, whatever the label; an unknown label does not count."""
    edges = EdgeDistributions(torch.zeros(1, 4, 60), torch.arange(60) * 4.0 - 6, torch.empty(0))
    boxes = torch.tensor([[10.0, math.nan, 50, math.nan]])
    assert distribution_loss(edges, boxes).item() == pytest.approx(math.log(60))


def test_box_loss_by_hand_and_with_unknown_boxes():
    exact = torch.tensor([[10.0, 10, 50, 50]])
    assert box_loss(exact, exact, 100).item() == pytest.approx(0)
    # half the width missed: IoU 0.5; one edge is off by 20 of 100 px = 2 tenths -> smooth L1 1.5, over 4 edges
    half = torch.tensor([[10.0, 10, 30, 50]])
    assert box_loss(half, exact, 100).item() == pytest.approx(0.5 + 1.5 / 4)
    both = torch.cat([exact, torch.full((1, 4), math.nan)], dim=1)
    assert box_loss(torch.cat([half, half], dim=1), both, 100).item() == pytest.approx(0.5 + 1.5 / 4)
    # With the sides alone known, their distance counts, over two edges; there is no box to overlap with.
    sides = torch.tensor([[10.0, math.nan, 50, math.nan]])
    assert box_loss(half, sides, 100).item() == pytest.approx(1.5 / 2)


def test_mse_loss_by_hand():
    predicted = torch.tensor([[10.0, 10, 30, 50]])
    assert mse_loss(predicted, torch.tensor([[10.0, 10, 50, 50]])).item() == pytest.approx(100)
    assert mse_loss(predicted, torch.tensor([[10.0, math.nan, 50, 50]])).item() == pytest.approx(400 / 3)


def test_mask_loss_by_hand():
    """Half of each cell is covered, so logits of 0 have the entropy of a coin; a film without masks is ignored."""
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, :, :, ::2] = 1
    logits = torch.zeros(2, 1, 2, 2)
    logits[1] = 100
    assert mask_loss(logits, masks).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", ["box", "mse", "distribution", "mask"])
def test_nothing_known_gives_zero_and_no_gradient(loss):
    boxes = torch.full((1, 4), math.nan)
    outputs = (
        torch.ones(1, 4, 4, 4)
        if loss == "mask"
        else torch.ones(1, 4, 60)
        if loss == "distribution"
        else torch.ones(1, 4)
    )
    outputs.requires_grad_()
    value = {
        "box": lambda: box_loss(outputs, boxes, 100),
        "mse": lambda: mse_loss(outputs, boxes),
        "distribution": lambda: distribution_loss(
            EdgeDistributions(outputs, torch.arange(60) * 4.0 - 6, torch.empty(0)), boxes
        ),
        "mask": lambda: mask_loss(outputs, torch.zeros(1, 4, 8, 8)),
    }[loss]()
    value.backward()
    assert value.item() == 0
    assert outputs.grad.abs().sum() == 0
