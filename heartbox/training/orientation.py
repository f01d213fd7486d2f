"""Train the orientation head on the features of a network that is trained already, which stays as it is.

Knows networks and any dataset of (image, ...) samples; not where the films come from.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from heartbox.models.folding import fold_batch_norm
from heartbox.models.heads import BoxNet
from heartbox.models.orientation import make_examples
from heartbox.training.device import choose_device

EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 30, 256, 1e-3, 1e-2


def fit_orientation(
    model: BoxNet,
    films: Dataset,
    black_and_white: float,
    copies: int = 2,
    seed: int = 0,
    device: str | None = None,
    workers: int = 0,
) -> None:
    """Give a trained network a head that tells how a film lies, and train it.

    The features of every film in every orientation are computed once; one linear layer is then fitted to them by
    AdamW. The rest of the network does not change, so neither do the boxes.

    Parameters
    ----------
    model : BoxNet
        A trained network with the edges head; it is on the CPU at the end.
    films : Dataset
        Upright frontal films, normalised, (1, size, size) in the first place of each sample; augmented if possible.
    black_and_white : float
        See :func:`heartbox.models.orientation.reorient`.
    copies : int
        How often each film is drawn from the dataset.
    seed : int
        Decides augmentation, examples and the order of training.
    device, workers
        See :func:`heartbox.training.loop.fit`.
    """
    torch.manual_seed(seed)
    chosen_device = choose_device(device)
    model.add_orientation_head()
    model.eval().to(chosen_device)
    head, network = model.orientation_head, fold_batch_norm(model)
    batches = DataLoader(films, 16, num_workers=workers)
    pooled, classes = [], []
    for k, (x, *_) in enumerate(batch for _ in range(copies) for batch in batches):
        examples, labels = make_examples(x, black_and_white, seed=seed * 1_000_003 + k)
        with torch.no_grad():
            for part in examples.to(chosen_device, memory_format=torch.channels_last).split(16):
                pooled.append(head.pool(network.features(part)).half())
        classes.append(labels.to(chosen_device))
    pooled, classes = torch.cat(pooled), torch.cat(classes)
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(pooled)).split(BATCH_SIZE):
            chosen = chosen.to(chosen_device)
            loss = F.cross_entropy(head.classify(pooled[chosen].float()), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.to("cpu").eval()
