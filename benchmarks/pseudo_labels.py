"""Self-training: films without labels get a network's answers as labels, and another network is trained on them.

Films of other hospitals are easy to come by, their labels are not. A network trained on a few labelled films, the
teacher, answers the others; a student that learns from both under strong augmentation is reported to surpass its
teacher and to generalise better (Xie et al. 2020, "noisy student"). What it brought here is in
benchmarks/results/accuracy.md: too little for the released recipe. Knows processed folders and networks, not recipes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from read_films import borrow_outlines
from torch import nn
from torch.utils.data import Dataset

from heartbox.boxes import HEART, box_areas
from heartbox.data.store import BOX_COLUMNS, ProcessedXRay, Statistics, films_of, load_labels, write_processed
from heartbox.evaluation.metrics import predict
from heartbox.utils.parallel import parallel_map
from heartbox.xray.contrast import normalize_contrast
from heartbox.xray.errors import XRayError
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import load_xray


def read_unlabelled(
    paths: Sequence[str | Path], size: int = 224, processes: int | None = None, progress: bool = True
) -> tuple[NDArray[np.float16], list[str], list[tuple[str, str]]]:
    """Read films without labels as :func:`heartbox.data.prepare.prepare` reads those with labels.

    Parameters
    ----------
    paths : sequence of path
        The files.
    size : int
        Side of the square images, in pixels.
    processes, progress
        See :func:`heartbox.utils.parallel.parallel_map`.

    Returns
    -------
    tuple
        Images, float16 (N, size, size) in [0, 1]; their file names; and ``(name, reason)`` for each unreadable file.
    """
    paths = [Path(path) for path in paths]
    jobs = [(path, size) for path in paths]
    results = list(parallel_map(_read, jobs, "Films without labels", processes=processes, progress=progress))
    read = [(path.name, one) for path, one in zip(paths, results, strict=True) if not isinstance(one, str)]
    problems = [(path.name, one) for path, one in zip(paths, results, strict=True) if isinstance(one, str)]
    images = np.stack([image for _, image in read]) if read else np.zeros((0, size, size), np.float16)
    return images, [name for name, _ in read], problems


def _read(job: tuple[Path, int]) -> NDArray[np.float16] | str:
    path, size = job
    try:
        return normalize_contrast(resize_xray(load_xray(path).content, size)).astype(np.float16)
    except XRayError as error:
        return str(error)


def write_self_training(
    labelled: str | Path,
    out: str | Path,
    images: NDArray[np.float16],
    names: Sequence[str],
    teacher: nn.Module,
    share: float = 0.9,
    source: str = "unlabelled",
) -> Path:
    """Write a processed folder that joins labelled films and films labelled by a teacher network.

    The films that the teacher is least sure of are left out: a guess teaches nothing. A film without a mask borrows
    the outline of the labelled film whose boxes are most similar to its own, stretched to fit, so that its boxes can
    be augmented like all others. Its masks are zeros, which :func:`heartbox.training.losses.mask_loss` takes to mean
    unknown.

    Parameters
    ----------
    labelled : path
        Processed folder with masks; the new folder holds all its films, in the same splits.
    out : path
        The folder to write.
    images : ndarray of float16, shape (N, size, size)
        Films without labels, in [0, 1].
    names : sequence of str
        Names of those films.
    teacher : nn.Module
        A network with the edges head for heart and thorax, trained on films of `labelled`.
    share : float
        Share of the films to keep: those with the smallest mean standard deviation of the heart's edges.
    source : str
        Collection name of these films in ``labels.csv``.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ValueError
        If `labelled` has no masks, or the size of the images differs from its own.
    """
    labelled, out = Path(labelled), Path(out)
    if not (labelled / "outlines.npy").is_file():
        raise ValueError(f"{labelled} holds no masks; films without labels need them to borrow outlines from")
    stats, labels = Statistics.load(labelled), load_labels(labelled)
    training = labels["split"] == "train"
    others = labels.loc[training, BOX_COLUMNS].to_numpy().reshape(-1, 2, 4)
    outlines = np.load(labelled / "outlines.npy")[training]
    size = stats.size
    if images.shape[1:] != (size, size):
        raise ValueError(f"images of {images.shape[1:]} pixels do not fit {labelled}, whose images have {(size, size)}")
    answers, std = predict(teacher, _Images(images, stats))
    answers = answers.reshape(-1, 2, 4)
    uncertainty = np.where((box_areas(answers) > 0).all(axis=1), std[:, HEART].mean(axis=1), np.inf)
    keep = np.sort(np.argsort(uncertainty, kind="stable")[: round(share * np.isfinite(uncertainty).sum())])

    def films() -> Iterator[ProcessedXRay]:
        yield from films_of(labelled)
        for i in keep:
            record = {"name": names[i], "source": source, "rows": size, "columns": size}
            record |= dict(zip(BOX_COLUMNS, answers[i].ravel(), strict=True))
            borrowed = np.float32(borrow_outlines(answers[i], others, outlines))
            unknown = np.zeros((2, size // 2, size // 2), np.uint8)
            yield ProcessedXRay(images[i], record, f"{source} {names[i]}", borrowed, unknown)

    splits = labels["split"].tolist() + ["train"] * len(keep)
    rule = f"{stats.split}; {len(keep)} more training films are labelled by a network"
    write_processed(out, films(), lambda: (splits, rule), size, stats.layout, stats.seed, stats.contrast)
    return out


class _Images(Dataset):
    """Images as the network takes them, without labels."""

    def __init__(self, images: NDArray, stats: Statistics):
        self.images, self.stats = images, stats

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor]:
        image = (self.images[index].astype(np.float32) - self.stats.mean) / self.stats.std
        return (torch.from_numpy(image).float().unsqueeze(0),)
