"""Prepared films: checked annotations and images -> one folder with sides, and the datasets that serve from it.

Knows files, boxes and torch's datasets; no networks. What may lie in the raw folder is :mod:`companions.chestxdet.layouts`'s.
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
from companions.chestxdet.layouts import (
    TEN,
    AnnotatedXRay,
    Problem,
    match_images,
    read_annotations,
    read_film,
    recognise_layout,
    summarise,
)
from heartbox.augmentation import augment_image, move_boxes
from heartbox.boxes import EDGES, box_areas
from heartbox.data.splits import assign_folds
from heartbox.utils.atomic import complete_or_absent, keep_apart
from heartbox.utils.parallel import parallel_map
from heartbox.xray.contrast import NORMALIZED_CONTRAST
from heartbox.xray.image import resize_xray

SIDES = ("train", "val", "test")


# ---------------------------------------------------------------- the prepared folder


@dataclass(frozen=True)
class Collection:
    """Prepared films: images of one size, boxes in their pixels, a side for each.

    Attributes
    ----------
    folder : Path
        Where it lies on disk.
    films : DataFrame
        A row a film, in the order of the images: ``name, patient, side, ill, located`` (whether boxes are known).
    boxes : DataFrame
        A row a box: ``film`` (row of `films`), ``finding``, and ``x_min ... y_max`` in pixels at `size`.
    problems : DataFrame
        ``file, fault, consequence``: everything that was not used as it is.
    stats : dict
        ``layout, size, seed, mean, std`` (of the training side, in [0, 1]), ``findings``, ``checksum``.
    """

    folder: Path
    films: pd.DataFrame
    boxes: pd.DataFrame
    problems: pd.DataFrame
    stats: dict

    @classmethod
    def load(cls, folder: str | Path) -> Collection:
        """Read a folder that :func:`prepare` wrote."""
        folder = Path(folder)
        tables = [pd.read_csv(folder / f"{name}.csv", dtype={"name": str, "patient": str}, keep_default_na=False)
                  for name in ("films", "boxes", "problems")]  # fmt: skip
        return cls(folder, *tables, json.loads((folder / "stats.json").read_text(encoding="utf-8")))

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of what is to be found, in the order of the classes; class 0 is the background."""
        return tuple(self.stats["findings"])

    def rows(self, side: str, located: bool = False) -> NDArray[np.int64]:
        """Return the rows of one side's films; of those with known boxes alone, if asked for."""
        chosen = self.films["side"] == side
        return np.flatnonzero(chosen & self.films["located"] if located else chosen)

    def images(self) -> NDArray[np.uint8]:
        """Map all images, uint8 (N, size, size)."""
        return np.load(self.folder / "images.npy", mmap_mode="r")

    def boxes_of(self, row: int) -> tuple[NDArray, NDArray]:
        """Return boxes, float32 (n, 4), and classes, int64 (n,), of one film; findings not asked for left out."""
        mine = self.boxes[(self.boxes["film"] == row) & self.boxes["finding"].isin(self.findings)]
        classes = [self.findings.index(finding) + 1 for finding in mine["finding"]]
        return mine[list(EDGES)].to_numpy(np.float32).reshape(-1, 4), np.array(classes, dtype=np.int64)

    def counts(self) -> pd.DataFrame:
        """Count films, normal and ill, and boxes of each finding, by side."""
        films = self.films.assign(state=np.where(self.films["ill"], "ill films", "normal films"))
        table = pd.crosstab(films["state"], films["side"])
        side = self.films["side"].to_numpy()[self.boxes["film"].to_numpy(dtype=int)]
        boxes = pd.crosstab(self.boxes["finding"], pd.Series(side, index=self.boxes.index, name="side"))
        return pd.concat([table, boxes]).reindex(columns=list(SIDES)).fillna(0).astype(int)


def part_patients(films: Sequence[AnnotatedXRay]) -> tuple[list[AnnotatedXRay], list[Problem]]:
    """Leave out training films of patients who are on the official test side: who is reported was not learnt from."""
    tested = {film.patient for film in films if film.split == "test"}
    shared = [film for film in films if film.split != "test" and film.patient in tested]
    fault = "another film of this patient is on the test side"
    kept = [film for film in films if film.split == "test" or film.patient not in tested]
    return kept, [Problem(film.name, fault) for film in shared]


def assign_sides(films: Sequence[AnnotatedXRay], seed: int = 0, fold: int = 0) -> NDArray:
    """Give each film to ``"train"``, ``"val"`` or ``"test"``, all films of a patient to the same.

    Where the data bring a test side it stays, and a fifth of the rest validates. Else a fifth tests, a fifth
    validates: of five folds, number `fold` and the one after it. Ill and normal are spread evenly.
    """
    tests = np.array([film.split == "test" for film in films])
    # Those of an official test side take no part in the folds: else the rest would not be spread evenly.
    others = [film for film in films if film.split != "test"]
    states = ["ill" if film.ill else "normal" for film in others]
    folds = assign_folds([film.patient for film in others], states, 5, seed)
    sides = np.full(len(films), "test", dtype="U5")
    sides[~tests] = np.where(folds == (fold + 1) % 5, "val", "train")
    if not tests.any():
        sides[folds == fold] = "test"
    return sides


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
) -> Collection:
    """Read annotations and images, check them, and write a prepared folder; one that fits is loaded instead.

    Parameters
    ----------
    folder : path
        The raw data.
    out : path
        The prepared folder.
    size : int
        Side of the images, pixels; an oblong film is squeezed.
    findings : sequence of str
        What stage 2 is to find, of those that occur; NIH films have "Opacity" alone. A film with other findings
        only is ill all the same.
    seed, fold : int
        Decide the sides, see :func:`assign_sides`.
    limit : int, optional
        Use about so many films, evenly chosen: a quick trial.
    processes, progress
        See :func:`heartbox.utils.parallel.parallel_map`.
    even : bool
        Whether to even the contrast (:func:`heartbox.xray.contrast.normalize_contrast`), as the films were that the released
        heart weights learnt from.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_annotations`; and ValueError if a side is left without ill or without normal films.
    """
    out = Path(out)
    keep_apart(folder, out)
    films, problems = read_annotations(folder)
    films, missing = match_images(folder, films, problems)
    films, shared = part_patients(films)
    problems += missing + shared
    if limit and len(films) > limit:
        films = [films[i] for i in np.linspace(0, len(films) - 1, limit).astype(int)]
    if len(films) < 10:
        raise ValueError(
            f"{len(films)} films have both annotation and image; at least 10 are needed. "
            f"{_why(problems)} The images are a separate download: put their folders beside the annotations."
        )
    others = len({film.patient for film in films if film.split != "test"})
    if others < 5:
        raise ValueError(
            f"{folder}: films of {others} patients are left to learn from and to validate; at least 5 are needed. "
            f"{_why(problems)}"
        )
    checksum = _fingerprint(films, size, findings, seed, fold, even)
    if (out / "stats.json").is_file():
        with contextlib.suppress(OSError, ValueError, KeyError):  # what is damaged is made anew
            ready = Collection.load(out)
            if ready.stats["checksum"] == checksum:
                return ready
        (out / "stats.json").unlink()
    # Sides are given before images are read, so that one broken image moves no other film.
    sides = assign_sides(films, seed, fold)
    kept, boxes, images = [], [], []
    jobs = [(film, size, even) for film in films]
    read = parallel_map(read_film, jobs, "Reading", processes=processes, progress=progress)
    for film, side, result in zip(films, sides, read, strict=True):
        if isinstance(result, str):
            problems.append(Problem(film.name, result))
            continue
        image, moved = result
        boxes += [{"film": len(kept), "finding": name, **dict(zip(EDGES, box, strict=True))}
                  for name, box in zip(film.findings or (), moved, strict=True)]  # fmt: skip
        located = film.findings is not None
        kept.append(
            {"name": film.name, "patient": film.patient, "side": str(side), "ill": film.ill, "located": located}
        )
        images.append(image)
    table = pd.DataFrame(kept, columns=["name", "patient", "side", "ill", "located"])
    _refuse_empty_sides(table, problems)
    train = np.stack([image for image, row in zip(images, kept, strict=True) if row["side"] == "train"])
    wanted = list(findings) if recognise_layout(folder) != "NIH" else ["Opacity"]
    taught = {box["finding"] for box in boxes if kept[box["film"]]["side"] == "train"}
    stats = {"layout": recognise_layout(folder), "size": size, "seed": seed, "fold": fold}
    stats |= {"mean": float(train.mean() / 255), "std": float(train.std() / 255)}
    stats |= {"findings": [finding for finding in wanted if finding in taught], "checksum": checksum}
    stats |= {"contrast": NORMALIZED_CONTRAST} if even else {}
    if not stats["findings"]:
        raise ValueError(f"{folder}: no training film has one of {', '.join(wanted)}: nothing could be learnt")
    with complete_or_absent(out / "images.npy") as part:
        np.save(part, np.stack(images))
    columns = {"films": table, "boxes": pd.DataFrame(boxes, columns=["film", "finding", *EDGES]),
               "problems": pd.DataFrame(problems, columns=["file", "fault", "consequence"])}  # fmt: skip
    for name, content in columns.items():
        with complete_or_absent(out / f"{name}.csv") as part:
            content.to_csv(part, index=False, lineterminator="\n")
    with complete_or_absent(out / "stats.json") as part:  # last: with it the folder is whole
        part.write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
    return Collection.load(out)


def _refuse_empty_sides(films: pd.DataFrame, problems: list[Problem]) -> None:
    for side in SIDES:
        ill = films.loc[films["side"] == side, "ill"]
        if not ill.any() or ill.all():
            raise ValueError(
                f"the {side} side has {int(ill.sum())} ill and {int((~ill).sum())} normal films; both are needed, "
                f"and a normal film is one with an empty list of findings. {_why(problems)}"
            )


def _why(problems: list[Problem]) -> str:
    kinds = summarise([problem for problem in problems if problem.consequence == "left out"], 1)
    worst = kinds.nlargest(2, "count").itertuples()
    counted = "; ".join(f"{kind.count} x {kind.kind} ({kind.examples})" for kind in worst)
    return f"Left out: {counted}." if counted else ""


def _fingerprint(
    films: Sequence[AnnotatedXRay], size: int, findings: Sequence[str], seed: int, fold: int, even: bool
) -> str:
    """Tell one prepared folder from another: annotations, image files, and what was asked for."""
    digest = hashlib.sha256(repr((size, tuple(findings), seed, fold, even)).encode())
    for film in films:
        state = film.path.stat()
        digest.update(repr((replace(film, path=None), state.st_size, state.st_mtime_ns)).encode())
    return digest.hexdigest()


# ---------------------------------------------------------------- what the networks are served


class AbnormalityDataset(Dataset):
    """Stage 1: pairs of a z-normalised film, float32 (1, size, size), and 1.0 for an ill one, 0.0 for a normal one.

    Parameters
    ----------
    collection : Collection
        From :func:`prepare`.
    side : str
        ``"train"``, ``"val"`` or ``"test"``.
    size : int
        Side of the images served.
    augment : bool
        Whether to change each image a little, as `cardiac_dataset` does; drawn from torch's generator.
    """

    def __init__(self, collection: Collection, side: str, size: int = 128, augment: bool = False):
        self.rows = collection.rows(side)
        images = collection.images()
        self.images = np.stack([resize_xray(images[row] / np.float32(255), size) for row in self.rows])
        self.ill = collection.films["ill"].to_numpy()[self.rows].astype(np.float32)
        self.mean, self.std = collection.stats["mean"], collection.stats["std"]
        self.augmentation = make_augmentation() if augment else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the film and whether it is ill."""
        image = self.images[index]
        if self.augmentation is not None:
            image, _ = augment_image(image, self.augmentation, int(torch.randint(2**31 - 1, ())))
        x = torch.from_numpy((image - self.mean) / self.std).float()[None]
        return x, torch.tensor(self.ill[index])


class FindingsDataset(Dataset):
    """Stage 2: pairs of a film, float32 (1, size, size) in [0, 1], and ``boxes`` (n, 4) with ``labels`` (n,).

    Normal films take part, without a box: what they show is no finding. Films whose boxes nobody drew do not.

    Parameters
    ----------
    collection, side, augment
        As in :class:`AbnormalityDataset`; boxes move with their image, and one that loses three quarters of its area over
        the border is dropped.
    """

    def __init__(self, collection: Collection, side: str, augment: bool = False):
        self.rows = collection.rows(side, located=True)
        self.collection, self.files = collection, collection.folder / "images.npy"
        self.targets = [collection.boxes_of(row) for row in self.rows]
        self.augmentation = make_augmentation() if augment else None

    def __len__(self) -> int:
        return len(self.rows)

    def raw(self, index: int) -> NDArray[np.float32]:
        """Return the film, (size, size) in [0, 1]."""
        return np.load(self.files, mmap_mode="r")[self.rows[index]] / np.float32(255)

    def truth(self, index: int) -> dict[str, Tensor]:
        """Return boxes and labels as they are, not augmented."""
        boxes, labels = self.targets[index]
        return {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the film and its boxes, augmented where that was asked for."""
        image, target = self.raw(index), self.truth(index)
        if self.augmentation is not None:
            image, matrix = augment_image(image, self.augmentation, int(torch.randint(2**31 - 1, ())))
            if len(target["boxes"]):
                before = target["boxes"].numpy()
                moved = move_boxes(before, matrix, image.shape)
                whole = box_areas(before) * abs(np.linalg.det(matrix[:, :2]))
                kept = torch.from_numpy(
                    (box_areas(moved) > 0.25 * whole) & (moved[:, 2:] - moved[:, :2] > 1).all(axis=1)
                )
                target = {"boxes": torch.from_numpy(moved).float()[kept], "labels": target["labels"][kept]}
        return torch.from_numpy(np.ascontiguousarray(image))[None].float(), target
