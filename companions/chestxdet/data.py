"""Prepared films: checked annotations and images -> one folder with splits, and the datasets that serve from it.

Knows files, boxes and torch's datasets; it does not know networks. :mod:`companions.chestxdet.layouts` knows
what a raw folder may hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cardiac_dataset import make_augmentation
from companions.chestxdet.layouts import TEN, AnnotatedXRay, match_images, read_annotations, recognise_layout
from heartbox.augmentation import augment_image, move_boxes
from heartbox.boxes import EDGES, box_areas, clip_boxes, scale_boxes
from heartbox.data.reading import read_each
from heartbox.data.splits import TEST, TRAIN, VAL, assign_folds
from heartbox.data.tables import ItemError, Problem, write_problems
from heartbox.utils.atomic import complete_or_absent, keep_apart
from heartbox.xray.contrast import NORMALIZED_CONTRAST, fault_of_image, normalize_contrast
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import read_xray

SPLITS = (TRAIN, VAL, TEST)
LEAST_FILMS, LEAST_PATIENTS = 10, 5  # five folds need five patients


# ---------------------------------------------------------------- the prepared folder


@dataclass(frozen=True)
class Collection:
    """Prepared films: images of one size, boxes in their pixels, a split for each film.

    Attributes
    ----------
    folder : Path
        Where it lies on disk.
    films : DataFrame
        One row per film, in the order of the images: ``name, patient, split, abnormal, located`` (whether its boxes are
        known).
    boxes : DataFrame
        One row per box: ``film`` (row of `films`), ``finding``, and ``x_min ... y_max`` in pixels at `size`.
    problems : DataFrame
        ``name, kind, reason`` of everything that was not used as it stands.
    stats : dict
        ``layout, size, seed, mean, std`` (of the training films, in [0, 1]), ``findings``, ``checksum``.
    """

    folder: Path
    films: pd.DataFrame
    boxes: pd.DataFrame
    problems: pd.DataFrame
    stats: dict

    @classmethod
    def load(cls, folder: str | Path) -> Collection:
        """Read a folder written by :func:`prepare`."""
        folder = Path(folder)
        text = {"name": str, "patient": str}
        tables = [pd.read_csv(folder / f"{name}.csv", dtype=text, keep_default_na=False)
                  for name in ("films", "boxes", "problems")]  # fmt: skip
        return cls(folder, *tables, json.loads((folder / "stats.json").read_text(encoding="utf-8")))

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings to be detected, in the order of the classes; class 0 is the background."""
        return tuple(self.stats["findings"])

    @property
    def images(self) -> NDArray[np.uint8]:
        """All images, uint8 (N, size, size), memory-mapped."""
        return np.load(self.folder / "images.npy", mmap_mode="r")

    def rows(self, split: str, located: bool = False) -> NDArray[np.int64]:
        """Return the rows of the films in one split; with `located`, only of those whose boxes are known."""
        chosen = self.films["split"] == split
        return np.flatnonzero(chosen & self.films["located"] if located else chosen)

    def boxes_of(self, row: int) -> tuple[NDArray, NDArray]:
        """Return boxes, float32 (n, 4), and classes, int64 (n,), of one film, without findings not asked for."""
        chosen = self.boxes[(self.boxes["film"] == row) & self.boxes["finding"].isin(self.findings)]
        classes = [self.findings.index(finding) + 1 for finding in chosen["finding"]]
        return chosen[list(EDGES)].to_numpy(np.float32).reshape(-1, 4), np.array(classes, dtype=np.int64)

    def counts(self) -> pd.DataFrame:
        """Count normal and abnormal films, and the boxes of each finding, by split."""
        states = np.where(self.films["abnormal"], "abnormal films", "normal films")
        films = pd.crosstab(pd.Series(states, name="films"), self.films["split"])
        splits = self.films["split"].to_numpy()[self.boxes["film"].to_numpy(dtype=int)]
        boxes = pd.crosstab(self.boxes["finding"], pd.Series(splits, index=self.boxes.index, name="split"))
        return pd.concat([films, boxes]).reindex(columns=list(SPLITS)).fillna(0).astype(int)


def summarise(problems: Sequence[Problem] | pd.DataFrame, examples: int = 2) -> pd.DataFrame:
    """Count problems by kind, with the reason of the first and the names of a few: many of a kind stay readable."""
    table = pd.DataFrame(problems, columns=list(Problem._fields))
    kinds = table.groupby("kind", sort=False).agg(
        count=("name", "size"),
        examples=("name", lambda names: ", ".join(names[:examples])),
        first_reason=("reason", "first"),
    )
    return kinds.rename(columns={"first_reason": "reason of the first"})


# ---------------------------------------------------------------- preparing it


def prepare(
    folder: str | Path,
    out: str | Path,
    size: int = 224,
    findings: Sequence[str] = TEN,
    seed: int = 0,
    fold: int = 0,
    limit: int | None = None,
    processes: int | None = None,
    progress: bool = True,
    even: bool = True,
    log: str | Path | None = None,
) -> Collection:
    """Read annotations and images, check them, and write a prepared folder; an existing one that fits is loaded.

    Parameters
    ----------
    folder : path
        The raw data.
    out : path
        The prepared folder.
    size : int
        Side of the images, in pixels; an oblong film is squeezed.
    findings : sequence of str
        What stage 2 is to detect, of those that occur; NIH films have "Opacity" only. A film with other findings only
        is abnormal all the same.
    seed, fold : int
        Decide the splits, see :func:`assign_splits`.
    limit : int, optional
        Use about that many films, spread evenly over the list: for quick trials.
    processes, progress
        See :func:`heartbox.data.reading.read_each`.
    even : bool
        Whether to normalise the contrast (:func:`heartbox.xray.contrast.normalize_contrast`), as was done for the
        films that the released heart weights learnt from.
    log : path, optional
        A file for the tracebacks of unexpected errors.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    ValueError
        If the annotations cannot be used, or a split has no abnormal or no normal films.
    """
    out = Path(out)
    keep_apart(folder, out)
    films, problems = read_annotations(folder)
    films, missing = match_images(folder, films, problems)
    films, shared = drop_tested_patients(films)
    problems += missing + shared
    if limit and len(films) > limit:
        films = [films[i] for i in np.linspace(0, len(films) - 1, limit).astype(int)]
    _refuse_too_few(folder, films, problems)
    checksum = _fingerprint(films, size, findings, seed, fold, even)
    if (out / "stats.json").is_file():
        with contextlib.suppress(OSError, ValueError, KeyError):  # damaged: prepare again
            ready = Collection.load(out)
            if ready.stats["checksum"] == checksum:
                return ready
        (out / "stats.json").unlink()
    # Splits are assigned before images are read, so that one broken image moves no other film.
    splits = assign_splits(films, seed, fold)
    options = {"processes": processes, "progress": progress, "log": log}
    read = read_each(read_film, films, size, even, description="Reading films", **options)
    rows, boxes, images = [], [], []
    for film, split, result in zip(films, splits, read, strict=True):
        if isinstance(result, Problem):
            problems.append(result)
            continue
        image, moved = result
        boxes += [{"film": len(rows), "finding": name, **dict(zip(EDGES, box, strict=True))}
                  for name, box in zip(film.findings or (), moved, strict=True)]  # fmt: skip
        rows.append({"name": film.name, "patient": film.patient, "split": str(split), "abnormal": film.abnormal,
                     "located": film.findings is not None})  # fmt: skip
        images.append(image)
    table = pd.DataFrame(rows, columns=["name", "patient", "split", "abnormal", "located"])
    _refuse_one_class(table, problems)
    layout = recognise_layout(folder)
    stats = {"layout": layout, "size": size, "seed": seed, "fold": fold}
    train = np.stack([image for image, row in zip(images, rows, strict=True) if row["split"] == TRAIN])
    stats |= {"mean": float(train.mean() / 255), "std": float(train.std() / 255)}
    wanted = ["Opacity"] if layout == "NIH" else list(findings)
    taught = {box["finding"] for box in boxes if rows[box["film"]]["split"] == TRAIN}
    stats |= {"findings": [finding for finding in wanted if finding in taught], "checksum": checksum}
    stats |= {"contrast": NORMALIZED_CONTRAST} if even else {}
    if not stats["findings"]:
        raise ValueError(f"{folder}: no training film has one of {', '.join(wanted)}: there is nothing to learn")
    _write(out, np.stack(images), table, pd.DataFrame(boxes, columns=["film", "finding", *EDGES]), problems, stats)
    return Collection.load(out)


def drop_tested_patients(films: Sequence[AnnotatedXRay]) -> tuple[list[AnnotatedXRay], list[Problem]]:
    """Leave out training films of patients in the official test split: no reported patient is learnt from."""
    tested = {film.patient for film in films if film.split == TEST}
    shared = [film for film in films if film.split != TEST and film.patient in tested]
    kept = [film for film in films if film.split == TEST or film.patient not in tested]
    reason = "another film of this patient is in the test split; left out"
    return kept, [Problem(film.name, "patient", reason) for film in shared]


def assign_splits(films: Sequence[AnnotatedXRay], seed: int = 0, fold: int = 0) -> NDArray:
    """Assign each film to ``"train"``, ``"val"`` or ``"test"``, with all films of a patient in the same split.

    If the data bring test films, these remain so, and a fifth of the rest is for validation. Otherwise a fifth is for
    testing and a fifth for validation: of five folds, number `fold` and the one after it. Normal and abnormal
    films are spread evenly.
    """
    official = np.array([film.split == TEST for film in films])
    # Official test films take no part in the folds: otherwise the rest would not be spread evenly.
    others = [film for film in films if film.split != TEST]
    states = ["abnormal" if film.abnormal else "normal" for film in others]
    folds = assign_folds([film.patient for film in others], states, 5, seed)
    splits = np.full(len(films), TEST, dtype="U5")
    splits[~official] = np.where(folds == (fold + 1) % 5, VAL, TRAIN)
    if not official.any():
        splits[folds == fold] = TEST
    return splits


def read_film(film: AnnotatedXRay, size: int, even: bool = True) -> tuple[NDArray, NDArray]:
    """Read one film and its boxes at the size of the prepared images.

    Returns
    -------
    tuple of ndarray
        The image, uint8 (size, size), and its boxes (n, 4) in pixels of that.

    Raises
    ------
    ValueError
        If the image cannot be read (:class:`heartbox.xray.errors.XRayError`) or is empty.
    ItemError
        If a box lies outside the image.
    """
    image = read_xray(film.path)
    if fault := fault_of_image(image):
        raise ValueError(f"{fault}. Download it again.")
    boxes = np.reshape(np.array(film.boxes, dtype=np.float64), (-1, 4))
    frame = film.box_shape or image.shape
    # One per cent beyond the border is rounding; more is a mistake that clipping would hide.
    outside = np.abs(clip_boxes(boxes, frame) - boxes).max(axis=1, initial=0.0) > 0.01 * max(frame)
    if outside.any():
        box = boxes[outside.argmax()].tolist()
        raise ItemError("box", f"the box {box} reaches outside the image of {frame[1]} x {frame[0]} pixels")
    boxes = scale_boxes(clip_boxes(boxes, frame), frame, (size, size))
    small = resize_xray(image, size)
    return np.rint((normalize_contrast(small) if even else small) * 255).astype(np.uint8), boxes


def _refuse_too_few(folder: str | Path, films: Sequence[AnnotatedXRay], problems: Sequence[Problem]) -> None:
    if len(films) < LEAST_FILMS:
        raise ValueError(
            f"{folder}: {len(films)} films have both annotation and image; at least {LEAST_FILMS} are needed. "
            f"{_main_problems(problems)} The images are a separate download: put their folders beside the annotations."
        )
    patients = len({film.patient for film in films if film.split != TEST})
    if patients < LEAST_PATIENTS:
        raise ValueError(
            f"{folder}: films of {patients} patients are left for training and validation; at least {LEAST_PATIENTS} "
            f"patients are needed. {_main_problems(problems)}"
        )


def _refuse_one_class(films: pd.DataFrame, problems: Sequence[Problem]) -> None:
    for split in SPLITS:
        abnormal = films.loc[films["split"] == split, "abnormal"]
        if not abnormal.any() or abnormal.all():
            raise ValueError(
                f"the split {split!r} has {int(abnormal.sum())} abnormal and {int((~abnormal).sum())} normal films; "
                f"both are needed, and a normal film has an empty list of findings. {_main_problems(problems)}"
            )


def _main_problems(problems: Sequence[Problem]) -> str:
    """Return the two most frequent kinds of problems in one sentence, or nothing."""
    kinds = summarise(problems, 1).nlargest(2, "count")
    counted = [f"{row['count']} x {kind} ({row['examples']}: {row['reason of the first']})" for kind, row in
               kinds.iterrows()]  # fmt: skip
    return f"Problems: {'; '.join(counted)}." if counted else ""


def _fingerprint(
    films: Sequence[AnnotatedXRay], size: int, findings: Sequence[str], seed: int, fold: int, even: bool
) -> str:
    """Return a digest that tells one prepared folder from another: annotations, image files, what was asked for."""
    digest = hashlib.sha256(repr((size, tuple(findings), seed, fold, even)).encode())
    for film in films:
        status = film.path.stat()
        digest.update(repr((replace(film, path=None), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def _write(
    out: Path, images: NDArray, films: pd.DataFrame, boxes: pd.DataFrame, problems: Sequence[Problem], stats: dict
) -> None:
    with complete_or_absent(out / "images.npy") as part:
        np.save(part, images)
    for name, table in (("films", films), ("boxes", boxes)):
        with complete_or_absent(out / f"{name}.csv") as part:
            table.to_csv(part, index=False, lineterminator="\n")
    write_problems(out / "problems.csv", problems)
    with complete_or_absent(out / "stats.json") as part:  # last: it marks the folder as finished
        part.write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- serving them


class AbnormalityDataset(Dataset):
    """Stage 1: pairs of a z-normalised film, float32 (1, size, size), and 1.0 for an abnormal one, else 0.0.

    Parameters
    ----------
    collection : Collection
        From :func:`prepare`.
    split : str
        ``"train"``, ``"val"`` or ``"test"``.
    size : int
        Side of the images served, in pixels.
    augment : bool
        Whether to vary each image a little (:func:`cardiac_dataset.make_augmentation`); the draws come from torch's
        generator.
    """

    def __init__(self, collection: Collection, split: str, size: int = 128, augment: bool = False):
        self.rows = collection.rows(split)
        images = collection.images
        self.images = np.stack([resize_xray(images[row] / np.float32(255), size) for row in self.rows])
        self.abnormal = collection.films["abnormal"].to_numpy()[self.rows].astype(np.float32)
        self.mean, self.std = collection.stats["mean"], collection.stats["std"]
        self.augmentation = make_augmentation() if augment else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the film and whether it is abnormal."""
        image = self.images[index]
        if self.augmentation is not None:
            image, _ = augment_image(image, self.augmentation, int(torch.randint(2**31 - 1, ())))
        x = torch.from_numpy((image - self.mean) / self.std).float()[None]
        return x, torch.tensor(self.abnormal[index])


class FindingsDataset(Dataset):
    """Stage 2: pairs of a film, float32 (1, size, size) in [0, 1], and ``boxes`` (n, 4) with ``labels`` (n,).

    Normal films are included, without a box: what they show is not a finding. Films whose boxes nobody drew are
    left out.

    Parameters
    ----------
    collection, split, augment
        As in :class:`AbnormalityDataset`; boxes move with their image, and a box that loses three quarters of its area
        beyond the border is dropped.
    """

    def __init__(self, collection: Collection, split: str, augment: bool = False):
        self.rows = collection.rows(split, located=True)
        self.collection, self.path = collection, collection.folder / "images.npy"
        self.targets = [collection.boxes_of(row) for row in self.rows]
        self.augmentation = make_augmentation() if augment else None

    def __len__(self) -> int:
        return len(self.rows)

    def raw(self, index: int) -> NDArray[np.float32]:
        """Return the film, (size, size) in [0, 1]."""
        return np.load(self.path, mmap_mode="r")[self.rows[index]] / np.float32(255)

    def truth(self, index: int) -> dict[str, Tensor]:
        """Return boxes and labels, not augmented."""
        boxes, labels = self.targets[index]
        return {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}

    def truths(self) -> list[dict[str, Tensor]]:
        """Return boxes and labels of all films, not augmented."""
        return [self.truth(index) for index in range(len(self))]

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the film and its boxes, augmented if that was asked for."""
        image, target = self.raw(index), self.truth(index)
        if self.augmentation is not None:
            image, matrix = augment_image(image, self.augmentation, int(torch.randint(2**31 - 1, ())))
            target = _move_target(target, matrix, image.shape)
        return torch.from_numpy(np.ascontiguousarray(image))[None].float(), target


def _move_target(target: dict[str, Tensor], matrix: NDArray, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Move boxes with their image; drop those that lose three quarters of their area or are a pixel or less wide."""
    if not len(target["boxes"]):
        return target
    before = target["boxes"].numpy()
    moved = move_boxes(before, matrix, shape)
    whole = box_areas(before) * abs(np.linalg.det(matrix[:, :2]))
    kept = torch.from_numpy((box_areas(moved) > 0.25 * whole) & (moved[:, 2:] - moved[:, :2] > 1).all(axis=1))
    return {"boxes": torch.from_numpy(moved).float()[kept], "labels": target["labels"][kept]}
