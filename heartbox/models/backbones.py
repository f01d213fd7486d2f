"""Backbones: torchvision's networks with one grey input channel.

Knows torchvision; no heads.
"""

from __future__ import annotations

import urllib.error
import warnings

import torch
import torchvision
from torch import nn

IMAGENET_WEIGHTS = {
    "resnet18": torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
    "vgg16": torchvision.models.VGG16_Weights.IMAGENET1K_V1,
    "vgg16_bn": torchvision.models.VGG16_BN_Weights.IMAGENET1K_V1,
}
BACKBONES = tuple(IMAGENET_WEIGHTS)


def load_backbone(name: str, pretrained: bool) -> tuple[nn.Module, bool]:
    """Return torchvision's network with one input channel, and whether it has ImageNet weights.

    Where the weights cannot be fetched, a warning says so and the network is random.
    """
    build, weights = vars(torchvision.models)[name], IMAGENET_WEIGHTS[name]
    body = None
    if pretrained:
        try:
            body = build(weights=weights)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            # RuntimeError is what torch.hub raises for a download whose hash is wrong.
            warnings.warn(
                f"ImageNet weights for {name} could not be fetched ({error}); starting from scratch instead. "
                f"To use them offline, put {weights.url} into {torch.hub.get_dir()}/checkpoints/.",
                stacklevel=3,
            )
    has_weights = body is not None
    if body is None:
        body = build(weights=None)
    if name == "resnet18":
        body.conv1 = grey_input(body.conv1)
    else:
        body.features[0] = grey_input(body.features[0])
    return body, has_weights


def grey_input(convolution: nn.Conv2d) -> nn.Conv2d:
    """Turn a first layer for red, green and blue into one for grey by summing its weights over the colours.

    The new layer gives exactly what the old one gives for a grey image in three equal channels, so nothing learnt on
    colour images is lost.
    """
    grey = nn.Conv2d(
        1,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        convolution.padding,
        bias=convolution.bias is not None,
    )
    with torch.no_grad():
        grey.weight.copy_(convolution.weight.sum(dim=1, keepdim=True))
        if convolution.bias is not None:
            grey.bias.copy_(convolution.bias)
    return grey
