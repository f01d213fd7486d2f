"""``build_model``: a head on a backbone, by name.

Knows backbones and heads; no weights files.
"""

from __future__ import annotations

from collections.abc import Sequence

from heartbox.models.backbones import BACKBONES, load_backbone
from heartbox.models.heads import HEADS, BoxNet, EdgesNet, RegressionNet


def build_model(
    backbone: str = "resnet18",
    head: str = "regression",
    pretrained: bool = False,
    targets: Sequence[str] = ("heart",),
    size: int = 224,
    hidden: Sequence[int] = (),
) -> BoxNet:
    """Build a network that finds boxes in a single-channel image.

    Parameters
    ----------
    backbone : {"resnet18", "vgg16", "vgg16_bn"}
        Network that extracts the features (He et al. 2016; Simonyan & Zisserman 2015, plain or with batch norm).
    head : {"regression", "edges"}
        ``"regression"``: the classic last layer, whose outputs are the coordinates. ``"edges"``: a distribution over
        columns or rows for each edge, whose mean is the coordinate (:class:`heartbox.models.heads.EdgesHead`).
    pretrained : bool
        Whether to start from ImageNet weights, which torchvision fetches. If that fails, a warning says so and the
        network starts from scratch. The network's attribute ``pretrained`` says which of the two happened.
    targets : sequence of str
        Names of the boxes; each adds four outputs ``x_min, y_min, x_max, y_max``, in this order.
    size : int
        Side of the square input in pixels, a multiple of 32.
    hidden : sequence of int
        Widths of fully connected layers between the backbone's own 1000 outputs and the coordinates, for the
        regression head. Without any, the coordinates replace the 1000 outputs.

    Returns
    -------
    BoxNet
        Maps (N, 1, size, size) to (N, 4 * targets), in pixels.

    Raises
    ------
    ValueError
        If a name is unknown, `size` does not fit, or hidden layers are given to the edges head, which has none.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"unknown backbone {backbone!r}: choose one of {', '.join(BACKBONES)}")
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}: choose one of {', '.join(HEADS)}")
    if size < 64 or size % 32:
        raise ValueError(f"size {size} does not fit: the backbones need a multiple of 32, at least 64")
    if hidden and head != "regression":
        raise ValueError(f"the {head} head has no fully connected layers: leave out hidden={tuple(hidden)}")
    body, has_weights = load_backbone(backbone, pretrained)
    if head == "regression":
        model = RegressionNet(body, backbone, len(targets), size, hidden)
    else:
        model = EdgesNet(body, backbone, len(targets), size)
    model.pretrained = has_weights
    return model
