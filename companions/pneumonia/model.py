"""Is there pneumonia? A ResNet18 with one grey channel and one output: the network, its loss, its recipes.

Knows networks and datasets; the loop is :func:`heartbox.training.loop.fit`, the films come from
:mod:`companions.pneumonia.data`, the measures from :mod:`companions.pneumonia.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from companions.pneumonia.data import PneumoniaDataset
from companions.pneumonia.metrics import auroc, average_precision, fit_logistic
from heartbox.models.backbones import load_backbone
from heartbox.models.fetch import file_sha256
from heartbox.models.weights import load_weights
from heartbox.training.device import mixed_precision
from heartbox.training.task import ProgressiveSchedule, Task
from heartbox.utils.atomic import complete_or_absent

# ---------------------------------------------------------------- the network


class PneumoniaNet(nn.Module):
    """A ResNet18 with one grey channel, global average pooling and one linear layer with one output, the logit.

    Because the last layer is linear and comes straight after the average, a logit is a sum over the places of the
    last feature map: :func:`heartbox.explain.attribution.class_activation_map` shows that sum.

    Parameters
    ----------
    size : int
        Side of the images, in pixels.
    pretrained : bool
        Start from ImageNet weights, which torchvision downloads; if it cannot, a warning says so and the network
        starts from random weights.

    Attributes
    ----------
    features : nn.Sequential
        The trunk: images (N, 1, size, size) to the last feature map, (N, 512, size / 32, size / 32).
    last_layer : nn.Linear
        Turns the averaged features into the logit.
    pretrained : bool
        Whether the trunk did start from ImageNet weights.
    """

    backbone, has_linear_head = "resnet18", True

    def __init__(self, size: int = 224, pretrained: bool = False):
        super().__init__()
        body, self.pretrained = load_backbone("resnet18", pretrained)
        self.size = size
        self.features = nn.Sequential(*list(body.children())[:-2])
        self.last_layer = nn.Linear(body.fc.in_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map films (N, 1, size, size) to logits (N, 1): above 0 for pneumonia."""
        return self.last_layer(self.features(x).mean(dim=(2, 3)))

    def load_trunk(self, path: str | Path) -> None:
        """Take the convolutions of a ResNet18 from a Heartbox weights file, such as the released heart weights.

        Raises
        ------
        ValueError
            If the weights are not those of a ResNet18.
        """
        source, _ = load_weights(path)
        if source.backbone != "resnet18":
            raise ValueError(f"{path}: weights of {source.backbone}; the trunk of a resnet18 is needed")
        # The edges network keeps its trunk in three levels, the regression network in a single one.
        layers = [*source.levels[0], *source.levels[1:]] if source.head_name == "edges" else [*source.features]
        for own, layer in zip(self.features, layers, strict=True):
            own.load_state_dict(layer.state_dict())


def build_classifier(size: int = 224, start: str | Path = "", pretrained: bool = False) -> PneumoniaNet:
    """Build a classifier and give it the weights it starts from.

    Parameters
    ----------
    size : int
        Side of the images, in pixels.
    start : path
        A Heartbox weights file of a ResNet18 whose trunk to start from, such as
        :func:`heartbox.models.weights.released_weights`, which has seen chest films; "" for none.
    pretrained : bool
        Start from ImageNet weights instead (:class:`PneumoniaNet`).

    Raises
    ------
    ValueError
        If the weights are not those of a ResNet18.
    """
    model = PneumoniaNet(size, pretrained)
    if start:
        model.load_trunk(start)
    return model


@torch.no_grad()
def fit_last_layer(model: PneumoniaNet, films: PneumoniaDataset, batch_size: int = 32) -> None:
    """Set the last layer by logistic regression on the trunk's averaged features of the training films.

    A random last layer would, in the first steps, destroy what the trunk has learnt elsewhere; a fitted one does not
    (Kumar et al. 2022, linear probing before fine-tuning). It is also an answer of its own.

    Parameters
    ----------
    model : PneumoniaNet
        With a trunk that is trained; changed in place.
    films : PneumoniaDataset
        The training films, not augmented.
    batch_size : int
        Films in a forward pass.
    """
    model.eval()
    pooled = [model.features(x).mean(dim=(2, 3)) for x, _ in DataLoader(films, batch_size)]
    scaler, logistic = (step for _, step in fit_logistic(torch.cat(pooled).numpy(), films.targets).steps)
    weight = logistic.coef_[0] / scaler.scale_  # the standardisation becomes part of the layer
    model.last_layer.weight.copy_(torch.from_numpy(weight)[None])
    model.last_layer.bias.fill_(float(logistic.intercept_[0] - weight @ scaler.mean_))


def save_classifier(path: str | Path, model: PneumoniaNet, statistics: tuple[float, float], **notes) -> None:
    """Save a classifier as a plain state dict, with what is needed to use it; `notes` are of plain types."""
    config = {"size": model.size, "mean": statistics[0], "std": statistics[1], **notes}
    with complete_or_absent(path) as part:
        torch.save({"config": config, "state_dict": model.state_dict()}, part)


def load_classifier(path: str | Path) -> tuple[PneumoniaNet, dict]:
    """Return the network saved by :func:`save_classifier`, ready to use, and its config."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = PneumoniaNet(saved["config"]["size"])
    model.load_state_dict(saved["state_dict"])
    return model.eval(), saved["config"]


@torch.no_grad()
def predict_logits(model: nn.Module, films: Dataset, batch_size: int = 32) -> NDArray[np.float64]:
    """Return the logit of each film, shape (N,)."""
    model.eval()
    device = next(model.parameters()).device
    logits = [model(x.to(device))[:, 0].cpu() for x, _ in DataLoader(films, batch_size)]
    return torch.cat(logits).numpy().astype(np.float64)


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class PneumoniaRecipe(ProgressiveSchedule):
    """Everything that decides how the classifier is trained.

    Attributes
    ----------
    augment : str
        See :func:`cardiac_dataset.make_augmentation`.
    start, pretrained
        See :func:`build_classifier`.
    """

    augment: str = "published"
    start: str = ""
    pretrained: bool = False


RECIPES = {
    # As the exercise is taught on RSNA's 24,000 films: hours on a CPU, minutes on a GPU.
    "published": PneumoniaRecipe(epochs=30, batch_size=64, learning_rate=1e-4, weight_decay=0.0, one_cycle=False),
    # For some hundred films: 30 epochs at that rate would be too few steps to learn anything from random weights.
    "few films": PneumoniaRecipe(epochs=10, batch_size=16, learning_rate=1e-3, small_size=112, small_share=0.7),
    # For some hundred films and a trunk that already knows chest films: it is only adapted.
    "fine-tuning": PneumoniaRecipe(epochs=3, batch_size=8, learning_rate=2e-4, small_size=160, small_share=0.7),
}


class PneumoniaTask(Task):
    """Learn yes or no from the binary cross-entropy of the logit, with films of pneumonia weighted.

    Parameters
    ----------
    recipe : PneumoniaRecipe
        How long, how fast, on what.
    positive_weight : float
        Weight of a film with pneumonia (:func:`class_weight`).
    """

    score = "val_auroc"

    def __init__(self, recipe: PneumoniaRecipe, positive_weight: float):
        self.schedule, self.positive_weight = recipe, positive_weight

    def settings(self) -> dict:
        """Return recipe and weight; a start file counts by its content, so that it may lie anywhere."""
        start = self.schedule.start
        settings = super().settings() | {"start": file_sha256(start) if start else ""}
        return settings | {"positive_weight": self.positive_weight}

    def labels(self, films: Dataset) -> NDArray:
        """Return all labels."""
        return films.targets

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        weight = torch.tensor(self.positive_weight, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)

    def loss(self, model: nn.Module, batch: Sequence[Tensor], epoch: int, device: torch.device) -> Tensor:
        """Return the weighted binary cross-entropy; the first epochs may use shrunken films."""
        x, targets = batch
        x = self.schedule.shrink(x, epoch).to(device, memory_format=torch.channels_last)
        with mixed_precision(device):
            logits = model(x)[:, 0]
        return self._loss(logits.float(), targets.to(device))

    def validate(self, model: nn.Module, val: Dataset, device: torch.device) -> tuple[NDArray, dict[str, float]]:
        """Return all logits, (N,), with their loss, AUROC and average precision."""
        logits = predict_logits(model, val)
        loss = self._loss(torch.from_numpy(logits), torch.from_numpy(val.targets.astype(np.float64)))
        figures = {
            "val_loss": float(loss),
            "val_auroc": round(auroc(val.targets, logits), 4),
            "val_precision": round(average_precision(val.targets, logits), 4),
        }
        return logits, figures


def class_weight(targets: NDArray) -> float:
    """Return the number of films without pneumonia for each film with it: a weight that balances the classes."""
    return float((targets == 0).sum() / (targets == 1).sum())
