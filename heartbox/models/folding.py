"""A trained network for inference only: batch normalisation folded into the convolutions before it.

Knows torch's layers; no heads, no files.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(model: Network) -> Network:
    """Return a network that gives the same answers with fewer steps; `model` stays as it is.

    In evaluation mode batch normalisation multiplies and shifts each channel by constants, which the convolution
    before it can do itself (Jacob et al. 2018, section 3.2). Folded convolutions lie channels-last, as a processor
    prefers them. Everything that is not folded is shared with `model`.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode. A batch normalisation is folded if the layer registered before it is a convolution, which
        is then the one whose output it normalises in all networks here.
    """
    shared = [*model.parameters(), *model.buffers()]
    folded = copy.deepcopy(model, memo={id(one): one for one in shared})
    for parent in folded.modules():
        before = ("", None)
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm2d) and isinstance(before[1], nn.Conv2d):
                convolution = fuse_conv_bn_eval(before[1], layer).requires_grad_(False)
                setattr(parent, before[0], convolution.to(memory_format=torch.channels_last))
                setattr(parent, name, nn.Identity())
            before = (name, layer)
    return folded
