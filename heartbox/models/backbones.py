"""Backbones: torchvision's networks with one grey input channel.

Knows torchvision; no heads.
"""

from __future__ import annotations

import urllib.error
import warnings

import torch
import torchvision
from torch import nn

BACKBONES = ("resnet18", "vgg16", "vgg16_bn")


def load_backbone(name: str, pretrained: bool) -> tuple[nn.Module, bool]:
    """Return torchvision's network with one input channel, and whether it holds ImageNet weights."""
    build = {
        "resnet18": torchvision.models.resnet18,
        "vgg16": torchvision.models.vgg16,
        "vgg16_bn": torchvision.models.vgg16_bn,
    }[name]
    weights = {
        "resnet18": torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
        "vgg16": torchvision.models.VGG16_Weights.IMAGENET1K_V1,
        "vgg16_bn": torchvision.models.VGG16_BN_Weights.IMAGENET1K_V1,
    }[name]
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
    found = body is not None
    if body is None:
        body = build(weights=None)
    if name == "resnet18":
        body.conv1 = grey_input(body.conv1)
    else:
        body.features[0] = grey_input(body.features[0])
    return body, found


def grey_input(convolution: nn.Conv2d) -> nn.Conv2d:
    """Turn a first layer for red, green and blue into one for grey by summing its weights over the colours.

    A grey picture shown to the old layer as three equal channels gives exactly what the new one gives, so
    nothing that was learnt on colour pictures is thrown away.
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
