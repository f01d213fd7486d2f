"""Is there pneumonia? A ResNet18 with one grey channel and one output: its films, its loss, its recipes.

Knows prepared folders and networks; the loop is :func:`heartbox.training.loop.fit`, the films come from
:mod:`companions.pneumonia.data`, what is measured is in :mod:`companions.pneumonia.metrics`.
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

from cardiac_dataset import make_augmentation
from companions.pneumonia.data import Prepared, pixel_statistics
from companions.pneumonia.metrics import auroc, average_precision, fit_logistic
from heartbox.augmentation import augment_image
from heartbox.evaluation.metrics import predict
from heartbox.models.build import build_model
from heartbox.models.fetch import file_sha256
from heartbox.models.heads import RegressionNet
from heartbox.models.weights import load_weights
from heartbox.training.device import mixed_precision
from heartbox.training.task import ProgressiveSchedule, Task
from heartbox.utils.atomic import complete_or_absent

# ---------------------------------------------------------------- films


class PneumoniaDataset(Dataset):
    """Pairs of a z-normalised film and its label, 1 for pneumonia.

    Parameters
    ----------
    prepared : Prepared
        The folder.
    rows : array_like of int
        Which of its films, in the order of its labels.
    statistics : tuple of float
        Mean and standard deviation to normalise by: of the training films, for all sides
        (:func:`companions.pneumonia.data.pixel_statistics`).
    augment : str
        ``""`` for none, else see :func:`heartbox.augmentation.make_augmentation`.
    """

    def __init__(self, prepared: Prepared, rows: Sequence[int], statistics: tuple[float, float], augment: str = ""):
        self.path, self.rows = prepared.folder / "images.npy", np.asarray(rows)
        self.targets = prepared.labels["target"].to_numpy(np.float32)[self.rows]
        self.statistics = statistics
        self.augmentation = make_augmentation(augment) if augment else None

    def __len__(self) -> int:
        return len(self.rows)

    def raw(self, index: int) -> NDArray[np.float32]:
        """Return the film, (size, size) in [0, 1], neither augmented nor normalised."""
        # Mapped anew each time, which costs next to nothing: no process then holds more than the film asked for.
        return np.asarray(np.load(self.path, mmap_mode="r")[self.rows[index]], dtype=np.float32)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return x, float32 (1, size, size), and the label, float32 ()."""
        image = self.raw(index)
        if self.augmentation is not None:
            image, _ = augment_image(image, self.augmentation, int(torch.randint(2**31 - 1, ())))
        mean, std = self.statistics
        return torch.from_numpy((image - mean) / std).float().unsqueeze(0), torch.tensor(self.targets[index])


def make_sides(
    prepared: Prepared, augment: str, train: Sequence[int] | None = None, val: Sequence[int] | None = None
) -> tuple[PneumoniaDataset, PneumoniaDataset]:
    """Return the films to learn from, augmented, and those held out, both normalised by the former's statistics.

    `train` and `val` are rows of the folder's labels; by default those of its split.
    """
    train = prepared.rows("train") if train is None else np.asarray(train)
    val = prepared.rows("held out") if val is None else np.asarray(val)
    statistics = pixel_statistics(prepared.labels.iloc[train])
    return PneumoniaDataset(prepared, train, statistics, augment), PneumoniaDataset(prepared, val, statistics)


# ---------------------------------------------------------------- the network


def build_classifier(size: int = 224, start: str | Path = "", pretrained: bool = False) -> RegressionNet:
    """Build a ResNet18 with one grey channel, global average pooling and one linear layer with one output.

    Parameters
    ----------
    size : int
        Side of the images.
    start : path
        A weights file of a ResNet18 of this project whose trunk to start from, such as
        ``weights/heart-resnet18.pt``, which has seen chest films; "" for none.
    pretrained : bool
        Start from ImageNet's weights, see :func:`heartbox.models.build.build_model`.

    Returns
    -------
    RegressionNet
        Maps (N, 1, size, size) to logits (N, 1): above 0 for pneumonia.

    Raises
    ------
    ValueError
        If the weights are not those of a ResNet18.
    """
    model = build_model("resnet18", "regression", pretrained, size=size)
    model.regress = nn.Linear(model.regress.in_features, 1)
    if start:
        learnt, config = load_weights(start)
        if config.backbone != "resnet18":
            raise ValueError(f"{start}: weights of {config.backbone}; the trunk of a resnet18 is wanted")
        # The edges network keeps the trunk in three levels, the regression network in one piece.
        layers = [*learnt.levels[0], *learnt.levels[1:]] if learnt.head_name == "edges" else [*learnt.features]
        for mine, layer in zip(model.features, layers, strict=True):
            mine.load_state_dict(layer.state_dict())
    return model


@torch.no_grad()
def fit_last_layer(model: RegressionNet, films: PneumoniaDataset, batch_size: int = 32) -> None:
    """Set the last layer by logistic regression on what the trunk, as it is, says of the training films.

    A last layer of random weights would, in the first steps, tear down what a trunk has learnt elsewhere. One that
    fits already does not (Kumar et al. 2022, linear probing before fine-tuning), and is an answer of its own.

    Parameters
    ----------
    model : RegressionNet
        From :func:`build_classifier`, with a trunk that knows something; changed in place.
    films : PneumoniaDataset
        The training films, not augmented.
    batch_size : int
        How many are looked at together.
    """
    model.eval()
    pooled = [model.features(x).mean(dim=(2, 3)) for x, _ in DataLoader(films, batch_size)]
    scaler, logistic = (step for _, step in fit_logistic(torch.cat(pooled).numpy(), films.targets).steps)
    weight = logistic.coef_[0] / scaler.scale_  # the standardisation becomes part of the layer
    model.regress.weight.copy_(torch.from_numpy(weight)[None])
    model.regress.bias.fill_(float(logistic.intercept_[0] - weight @ scaler.mean_))


def save_classifier(path: str | Path, model: RegressionNet, statistics: tuple[float, float], **notes) -> None:
    """Save a classifier as a plain state dict beside what it needs to be used; `notes` are of plain types."""
    config = {"size": model.size, "mean": statistics[0], "std": statistics[1], **notes}
    with complete_or_absent(path) as part:
        torch.save({"config": config, "state_dict": model.state_dict()}, part)


def load_classifier(path: str | Path) -> tuple[RegressionNet, dict]:
    """Return the network that :func:`save_classifier` saved, ready to answer, and its config."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = build_classifier(saved["config"]["size"])
    model.load_state_dict(saved["state_dict"])
    return model.eval(), saved["config"]


def predict_logits(model: nn.Module, films: Dataset, batch_size: int = 32) -> NDArray[np.float64]:
    """Return the logit of each film, shape (N,)."""
    return predict(model, films, batch_size)[0][:, 0].astype(np.float64)


# ---------------------------------------------------------------- how it learns


@dataclass(frozen=True)
class PneumoniaRecipe(ProgressiveSchedule):
    """Everything that decides how the classifier is trained, beside how long and how fast.

    Attributes
    ----------
    augment : str
        See :func:`heartbox.augmentation.make_augmentation`.
    start, pretrained
        See :func:`build_classifier`.
    """

    augment: str = "published"
    start: str = ""
    pretrained: bool = False


RECIPES = {
    # As the exercise is taught on RSNA's 24,000 films: hours on a CPU, minutes on a GPU.
    "published": PneumoniaRecipe(epochs=30, batch_size=64, learning_rate=1e-4, weight_decay=0.0, one_cycle=False),
    # For hundreds of films, where 30 epochs at that rate are too few steps to learn anything from nothing.
    "few films": PneumoniaRecipe(epochs=10, batch_size=16, learning_rate=1e-3, small_size=112, small_share=0.7),
    # For hundreds of films and a trunk that knows chest films already: it is only adapted.
    "fine-tuning": PneumoniaRecipe(epochs=3, batch_size=8, learning_rate=2e-4, small_size=160, small_share=0.7),
}


class PneumoniaTask(Task):
    """Learn yes or no by the binary cross-entropy of the logit, pneumonia weighted.

    Parameters
    ----------
    recipe : PneumoniaRecipe
        How long, how fast, on what.
    positive_weight : float
        How many times a film with pneumonia counts (:func:`class_weight`).
    """

    score = "val_auroc"

    def __init__(self, recipe: PneumoniaRecipe, positive_weight: float):
        self.schedule, self.positive_weight = recipe, positive_weight

    def settings(self) -> dict:
        """Return recipe and weight; what is started from counts by its content: the same file elsewhere is the same."""
        start = self.schedule.start
        settings = super().settings() | {"start": file_sha256(start) if start else ""}
        return settings | {"positive_weight": self.positive_weight}

    def labels(self, side: Dataset) -> NDArray:
        """Return all labels."""
        return side.targets

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        weight = torch.tensor(self.positive_weight, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)

    def loss(self, model: nn.Module, batch: Sequence[Tensor], epoch: int, device: torch.device) -> Tensor:
        """Return the weighted binary cross-entropy; the first epochs may learn from shrunken films."""
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
    """Return how many films without pneumonia there are for one with it: then both answers weigh the same."""
    return float((targets == 0).sum() / (targets == 1).sum())
