"""Heads: how the features of a backbone become the edges of boxes.

Every network takes (N, 1, size, size), z-normalised, and gives (N, 4 * targets) coordinates in pixels. Knows torch
and the order of edges: no files, no labels, no training. :mod:`heartbox.models.build` puts a head on a backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heartbox.boxes import EDGES_PER_BOX, is_vertical
from heartbox.models.orientation import OrientationHead

HEADS = ("regression", "edges")


@dataclass(frozen=True)
class EdgeDistributions:
    """Probability distributions of the edges in a batch of images.

    Attributes
    ----------
    logits : Tensor, shape (N, E, bins)
        Unnormalised log-probability of each bin, for each of the E = 4 * targets edges.
    positions : Tensor, shape (bins,)
        Centres of the bins, in pixels.
    attention : Tensor, shape (N, E, h, w)
        Weight of each row, for a vertical edge, in each column (sums to 1 down the columns), and of each column, for
        a horizontal edge, in each row (sums to 1 along the rows).
    """

    logits: Tensor
    positions: Tensor
    attention: Tensor

    @property
    def probabilities(self) -> Tensor:
        """Distributions, (N, E, bins), each summing to 1."""
        return self.logits.softmax(dim=-1)

    @property
    def coordinates(self) -> Tensor:
        """Means of the distributions, (N, E), in pixels."""
        return self.probabilities @ self.positions

    @property
    def std(self) -> Tensor:
        """Standard deviations of the distributions, (N, E), in pixels: the network's own uncertainty."""
        second_moment = self.probabilities @ self.positions.square()
        return (second_moment - self.coordinates.square()).clamp_min(0).sqrt()


class BoxNet(nn.Module):
    """A backbone and a head that find boxes: the base class of every network here.

    Code that uses a network asks these attributes what it can do and never looks for attributes of one head.

    Attributes
    ----------
    head_name : str
        ``"regression"`` or ``"edges"``, as in a weights file.
    can_learn_masks : bool
        Whether :meth:`add_mask_head` works.
    has_linear_head : bool
        Whether the head is global average pooling and one linear layer, which an exact class-activation map needs.
    features : callable
        Maps images, (N, 1, size, size), to the last feature map, (N, C, h, w).
    backbone : str
        Name of the backbone.
    targets : int
        Number of boxes.
    size : int
        Side of the input images, in pixels.
    hidden : tuple of int
        Widths of additional fully connected layers.
    pretrained : bool
        Whether the backbone started from ImageNet weights.
    mask_head : nn.Module or None
        Auxiliary output for the targets' masks, used in training only.
    orientation_head : OrientationHead or None
        Tells how a film lies.
    """

    head_name: ClassVar[str]
    can_learn_masks: ClassVar[bool] = False
    # Declared and not defined: one head has a submodule of this name, which a method would hide.
    features: Callable[[Tensor], Tensor]

    def __init__(self, backbone: str, targets: int, size: int, hidden: Sequence[int] = ()):
        super().__init__()
        self.backbone, self.targets, self.size, self.hidden = backbone, targets, size, tuple(hidden)
        self.pretrained = False
        self.mask_head: nn.Module | None = None
        self.orientation_head: OrientationHead | None = None

    @property
    def has_linear_head(self) -> bool:
        """Whether a coordinate is a weighted sum of globally averaged features."""
        return False

    def coordinates(self, features: Tensor) -> Tensor:
        """Turn the last feature map, (N, C, h, w), into coordinates, (N, 4 * targets), in pixels."""
        raise NotImplementedError

    def predict_distribution(self, features: Tensor) -> EdgeDistributions | None:
        """Turn the last feature map into the distributions of the edges; None for a head without distributions."""
        return None

    def predict_orientation(self, features: Tensor) -> Tensor | None:
        """Return the logits of :data:`heartbox.models.orientation.ORIENTATIONS`, (N, orientations).

        None for a network without that head.
        """
        return None if self.orientation_head is None else self.orientation_head(features)

    def coordinates_and_std(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Turn the last feature map into coordinates and their standard deviations.

        Parameters
        ----------
        features : Tensor, shape (N, C, h, w)
            From ``features(x)``.

        Returns
        -------
        tuple
            Both of shape (N, 4 * targets), in pixels; the second is None for a head without distributions.
        """
        distributions = self.predict_distribution(features)
        if distributions is None:
            return self.coordinates(features), None
        return distributions.coordinates, distributions.std

    def start_at(self, boxes: Tensor) -> None:
        """Make the untrained network answer roughly `boxes`, shape (4 * targets,), whatever it is shown.

        Raises
        ------
        ValueError
            If the head has no bias that would do this.
        """
        raise ValueError(f"the {self.head_name} head cannot start at given boxes: set start_at_mean to False")

    def add_mask_head(self) -> None:
        """Add an auxiliary output for each target's mask.

        Raises
        ------
        ValueError
            If the head cannot learn from masks.
        """
        raise ValueError(f"the {self.head_name} head cannot learn from masks: set mask_weight to 0")

    def add_orientation_head(self) -> None:
        """Add an untrained output that tells how a film lies.

        Raises
        ------
        ValueError
            If the head has no features that are laid out like the film.
        """
        raise ValueError(f"the {self.head_name} head cannot tell how a film lies: use the edges head")

    def forward(self, x: Tensor) -> Tensor:
        """Map images, (N, 1, size, size), to coordinates, (N, 4 * targets), in pixels."""
        return self.coordinates(self.features(x))


class RegressionNet(BoxNet):
    """The classic recipe: torchvision's backbone, whose last layer gives the coordinates in pixels.

    With ``resnet18`` the head is global average pooling and one linear layer. A coordinate is then a sum over the
    positions of the feature map, which makes an exact class-activation map possible (Zhou et al. 2016).
    """

    head_name = "regression"

    def __init__(self, body: nn.Module, backbone: str, targets: int, size: int, hidden: Sequence[int] = ()):
        super().__init__(backbone, targets, size, hidden)
        if backbone == "resnet18":
            self.features = nn.Sequential(*list(body.children())[:-2])
            last = self._last_layers(body.fc, EDGES_PER_BOX * targets)
            self.regress = nn.Sequential(*last) if hidden else last[0]
        else:
            self.features = body.features
            last = self._last_layers(body.classifier[-1], EDGES_PER_BOX * targets)
            self.regress = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), *body.classifier[:-1], *last)

    def _last_layers(self, original: nn.Linear, outputs: int) -> list[nn.Module]:
        """Replace the backbone's last layer, or keep it and add the hidden layers after it."""
        if not self.hidden:
            return [nn.Linear(original.in_features, outputs)]
        layers, width = [original], original.out_features
        for next_width in (*self.hidden, outputs):
            layers += [nn.ReLU(), nn.Linear(width, next_width)]
            width = next_width
        return layers

    @property
    def has_linear_head(self) -> bool:
        """Whether a coordinate is a weighted sum of globally averaged features."""
        return isinstance(self.regress, nn.Linear)

    @property
    def last_layer(self) -> nn.Linear:
        """The linear layer that gives the coordinates."""
        return self.regress if isinstance(self.regress, nn.Linear) else self.regress[-1]

    def start_at(self, boxes: Tensor) -> None:
        """Set the last layer's bias to `boxes`, shape (4 * targets,)."""
        with torch.no_grad():
            self.last_layer.bias.copy_(boxes)

    def coordinates(self, features: Tensor) -> Tensor:
        """Turn the last feature map, (N, C, h, w), into coordinates, (N, 4 * targets), in pixels."""
        return self.regress(features.mean(dim=(2, 3)) if self.backbone == "resnet18" else features)


class EdgesNet(BoxNet):
    """A backbone, a three-level feature pyramid to stride 8 and the edges head.

    The pyramid (Lin et al. 2017) carries what the deep levels know about anatomy to the fine level, where an edge can
    be located: 1x1 convolutions from strides 8, 16 and 32, summed top-down, then one 3x3 convolution.
    """

    head_name = "edges"
    can_learn_masks = True

    def __init__(self, body: nn.Module, backbone: str, targets: int, size: int, width: int = 64):
        super().__init__(backbone, targets, size)
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
        self.head = EdgesHead(width, EDGES_PER_BOX * targets)

    def add_mask_head(self) -> None:
        """Add an output for each target's mask, computed from the pyramid's finest level.

        It improves the features and is not needed for an answer, so it exists in training only and is not saved.
        """
        self.mask_head = nn.Conv2d(self.laterals[0].out_channels, self.targets, 1)

    def add_orientation_head(self) -> None:
        """Add an untrained output that tells how a film lies, computed from the pyramid's finest level."""
        self.orientation_head = OrientationHead(self.laterals[0].out_channels)

    def features(self, x: Tensor) -> Tensor:
        """Map images, (N, 1, size, size), to the pyramid's finest level, (N, width, size / 8, size / 8)."""
        levels = []
        for level in self.levels:
            x = level(x)
            levels.append(x)
        top = self.laterals[2](levels[2])
        for lateral, level in ((self.laterals[1], levels[1]), (self.laterals[0], levels[0])):
            top = lateral(level) + F.interpolate(top, scale_factor=2.0, mode="nearest")
        return self.smooth(top)

    def predict_distribution(self, features: Tensor) -> EdgeDistributions:
        """Turn the pyramid's finest level into the distributions of the edges."""
        return self.head(features)

    def coordinates(self, features: Tensor) -> Tensor:
        """Turn the pyramid's finest level into coordinates, (N, 4 * targets), in pixels."""
        return self.predict_distribution(features).coordinates


class EdgesHead(nn.Module):
    """Predict each edge as a probability distribution over columns (x) or rows (y).

    A vertical edge has one x but is visible in many rows. An attention map for each edge weights the rows of every
    column and leaves one feature vector per column; a 1-D convolution turns these into logits. A horizontal edge is
    treated the same way with rows and columns exchanged. The coordinate is the mean of the distribution, and the
    standard deviation its uncertainty (compare the integral regression of Sun et al. 2018 and the general
    distribution of Li et al. 2020).

    Parameters
    ----------
    width : int
        Channels of the feature map.
    edges : int
        Number of edges, four for each target in the order ``x_min, y_min, x_max, y_max``.

    Notes
    -----
    No layer depends on the size of the image: square images of any multiple of 32 pixels are accepted.
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
        """Return the centres of the bins, in pixels, for a feature map of that many columns.

        The bins extend one column beyond the image on each side, so that an edge at the very border of the image is
        not pushed inwards.
        """
        bins = torch.arange((columns + 2) * self.bins_per_column, dtype=like.dtype, device=like.device)
        return (bins + 0.5) * (self.stride / self.bins_per_column) - self.stride

    def forward(self, features: Tensor) -> EdgeDistributions:
        """Map features, (N, width, h, w), to the distributions of the edges."""
        scores = self.attend(features)
        attention, strips = [], []
        for edge in range(self.edges):
            weights = scores[:, edge].softmax(dim=1 if is_vertical(edge) else 2)
            attention.append(weights)
            strips.append(torch.einsum("nchw,nhw->ncw" if is_vertical(edge) else "nchw,nhw->nch", features, weights))
        strip = F.pad(torch.cat(strips, dim=1), (1, 1), mode="replicate")
        strip = F.interpolate(strip, scale_factor=float(self.bins_per_column), mode="linear", align_corners=False)
        logits = self.logits(F.relu(self.hidden(strip)))
        return EdgeDistributions(logits, self.positions(features.shape[-1], logits), torch.stack(attention, dim=1))
