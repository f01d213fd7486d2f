"""Backbones and heads: how a network turns one grey image into the edges of boxes.

``build_model`` puts a head on a backbone. Every model takes (N, 1, size, size), z-normalised, and gives
(N, 4 * targets) coordinates in pixels. Knows torch and torchvision only: no files, no boxes, no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ---------------------------------------------------------------- backbones


# ---------------------------------------------------------------- the classic head


class RegressionNet(nn.Module):
    """The classic recipe: the backbone as torchvision has it, its last layer putting out coordinates in pixels.

    With ``resnet18`` that is global average pooling and one linear layer, which is what makes an exact
    class-activation map possible (Zhou et al. 2016): a coordinate is a sum over places of the feature map.
    """

    def __init__(self, body: nn.Module, backbone: str, targets: int, size: int, hidden: Sequence[int] = ()):
        super().__init__()
        self.backbone, self.targets, self.size, self.hidden = backbone, targets, size, tuple(hidden)
        if backbone == "resnet18":
            self.features = nn.Sequential(*list(body.children())[:-2])
            last = self._last_layers(body.fc, 4 * targets)
            self.regress = nn.Sequential(*last) if hidden else last[0]
        else:
            self.features = body.features
            last = self._last_layers(body.classifier[-1], 4 * targets)
            self.regress = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), *body.classifier[:-1], *last)

    def _last_layers(self, theirs: nn.Linear, outputs: int) -> list[nn.Module]:
        """Replace the backbone's last layer; or keep it and put the hidden layers behind it."""
        if not self.hidden:
            return [nn.Linear(theirs.in_features, outputs)]
        layers, width = [theirs], theirs.out_features
        for wanted in (*self.hidden, outputs):
            layers += [nn.ReLU(), nn.Linear(width, wanted)]
            width = wanted
        return layers

    @property
    def last_layer(self) -> nn.Linear:
        """The linear layer that puts out the coordinates."""
        return self.regress if isinstance(self.regress, nn.Linear) else self.regress[-1]

    def start_at(self, boxes: Tensor) -> None:
        """Set the last bias so that the untrained network answers about `boxes`, shape (4 * targets,)."""
        with torch.no_grad():
            self.last_layer.bias.copy_(boxes)

    def read(self, features: Tensor) -> Tensor:
        """Turn the last feature map, (N, C, h, w), into coordinates, (N, 4 * targets), in pixels."""
        return self.regress(features.mean(dim=(2, 3)) if self.backbone == "resnet18" else features)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, size, size) to coordinates (N, 4 * targets) in pixels."""
        return self.read(self.features(x))


# ---------------------------------------------------------------- the edges head


@dataclass
class Edges:
    """What the edges head says of a batch.

    Attributes
    ----------
    logits : Tensor, shape (N, E, bins)
        Unnormalised log-probability of each place for each of the E = 4 * targets edges.
    positions : Tensor, shape (bins,)
        Where the bins lie, in pixels.
    attention : Tensor, shape (N, E, h, w)
        How much each row counts for a vertical edge in each column (sums to 1 down the columns), and each
        column for a horizontal edge in each row (sums to 1 along the rows).
    """

    logits: Tensor
    positions: Tensor
    attention: Tensor

    @property
    def probabilities(self) -> Tensor:
        """Distributions (N, E, bins), each summing to 1."""
        return self.logits.softmax(dim=-1)

    @property
    def coordinates(self) -> Tensor:
        """Means of the distributions, (N, E), in pixels."""
        return self.probabilities @ self.positions

    @property
    def spread(self) -> Tensor:
        """Standard deviations of the distributions, (N, E), in pixels: the head's own doubt."""
        second = self.probabilities @ self.positions.square()
        return (second - self.coordinates.square()).clamp_min(0).sqrt()


class EdgesNet(nn.Module):
    """A backbone, a three-level feature pyramid to stride 8 and the edges head.

    The pyramid (Lin et al. 2017) brings what the deep levels know about anatomy to the fine level, where an
    edge can be placed: 1x1 convolutions from strides 8, 16 and 32, summed top-down, one 3x3 convolution.
    """

    def __init__(self, body: nn.Module, backbone: str, targets: int, size: int, width: int = 64):
        super().__init__()
        self.backbone, self.targets, self.size = backbone, targets, size
        if backbone == "resnet18":
            stem = nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool, body.layer1, body.layer2)
            self.levels = nn.ModuleList([stem, body.layer3, body.layer4])
            channels = (128, 256, 512)
        else:  # VGG16's third, fourth and fifth pooling layer end at strides 8, 16 and 32
            pools = [i + 1 for i, layer in enumerate(body.features) if isinstance(layer, nn.MaxPool2d)]
            cuts = [0, *pools[2:]]
            self.levels = nn.ModuleList([body.features[a:b] for a, b in zip(cuts, cuts[1:], strict=False)])
            channels = (256, 512, 512)
        self.laterals = nn.ModuleList([nn.Conv2d(c, width, 1) for c in channels])
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = EdgesHead(width, 4 * targets)
        self.mask_head: nn.Conv2d | None = None

    def add_mask_head(self) -> None:
        """Give the network something more to learn from: each target's mask, from the pyramid's finest level.

        It helps the features and not the answer, so it is there in training only and is not saved.
        """
        self.mask_head = nn.Conv2d(self.laterals[0].out_channels, self.targets, 1)

    def features(self, x: Tensor) -> Tensor:
        """Map images (N, 1, size, size) to the pyramid's finest level, (N, width, size / 8, size / 8)."""
        levels = []
        for level in self.levels:
            x = level(x)
            levels.append(x)
        top = self.laterals[2](levels[2])
        for lateral, level in ((self.laterals[1], levels[1]), (self.laterals[0], levels[0])):
            top = lateral(level) + F.interpolate(top, scale_factor=2.0, mode="nearest")
        return self.smooth(top)

    def edges(self, x: Tensor) -> Edges:
        """Map images (N, 1, size, size) to the distributions of their edges."""
        return self.head(self.features(x))

    def read(self, features: Tensor) -> Tensor:
        """Turn the pyramid's level into coordinates, (N, 4 * targets), in pixels."""
        return self.head(features).coordinates

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, size, size) to coordinates (N, 4 * targets) in pixels."""
        return self.read(self.features(x))


class EdgesHead(nn.Module):
    """Each edge a probability distribution over columns (x) or rows (y).

    A vertical edge has one x but shows over many rows: an attention map, one for each edge, weighs the rows of
    every column and leaves one feature vector a column; a 1-D convolution turns those into logits. A horizontal
    edge the other way round. The coordinate is the mean of the distribution and its spread the doubt
    (compare the integral regression of Sun et al. 2018 and the general distribution of Li et al. 2020).

    Parameters
    ----------
    width : int
        Channels of the feature map.
    edges : int
        Number of edges, four for each target in the order ``x_min, y_min, x_max, y_max``.

    Notes
    -----
    Nothing in it is tied to a size of image: square images of any multiple of 32 pixels will do.
    """

    stride = 8
    bins_per_column = 2

    def __init__(self, width: int, edges: int):
        super().__init__()
        self.attend = nn.Conv2d(width, edges, 1)
        self.hidden = nn.Conv1d(edges * width, edges * width // 2, 5, padding=2, groups=edges)
        self.logits = nn.Conv1d(edges * width // 2, edges, 5, padding=2, groups=edges)
        self.edges = edges

    def positions(self, columns: int, like: Tensor) -> Tensor:
        """Return where the bins lie, in pixels, for a feature map that many columns wide.

        One column more on each side: an edge at the very border of the image is then not squeezed inwards.
        """
        bins = torch.arange((columns + 2) * self.bins_per_column, dtype=like.dtype, device=like.device)
        return (bins + 0.5) * (self.stride / self.bins_per_column) - self.stride

    def forward(self, features: Tensor) -> Edges:
        """Map features (N, width, h, w) to the distributions of the edges."""
        scores = self.attend(features)
        vertical = [edge for edge in range(self.edges) if edge % 2 == 0]
        attention = torch.stack([scores[:, e].softmax(dim=1 if e in vertical else 2) for e in range(self.edges)], dim=1)
        strips = [
            torch.einsum("nchw,nhw->ncw" if e in vertical else "nchw,nhw->nch", features, attention[:, e])
            for e in range(self.edges)
        ]
        strip = F.pad(torch.cat(strips, dim=1), (1, 1), mode="replicate")
        strip = F.interpolate(strip, scale_factor=float(self.bins_per_column), mode="linear", align_corners=False)
        logits = self.logits(F.relu(self.hidden(strip)))
        return Edges(logits, self.positions(features.shape[-1], logits), attention)
