"""Films labelled yes or no -> one memory-mapped array and a table, and the dataset that serves them to a network.

Each film is read, resized, appended to a file and forgotten; a line in a log says that it is complete. An interrupted
run continues after the last complete film, and memory does not grow with the number of films. Knows layouts, X-ray
files and arrays; it does not know networks.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cardiac_dataset import make_augmentation
from companions.pneumonia.layouts import PneumoniaXRay, list_xrays, recognise_layout
from heartbox.augmentation import augment_image
from heartbox.boxes import EDGES, clip_boxes, scale_boxes
from heartbox.data.reading import read_each
from heartbox.data.splits import TRAIN, VAL, split_by_patient
from heartbox.data.store import write_npy_header
from heartbox.data.tables import Problem, write_problems
from heartbox.utils.atomic import complete_or_absent, keep_apart
from heartbox.xray.contrast import NORMALIZED_CONTRAST, fault_of_image, normalize_contrast
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import load_xray

# RSNA: 24,000 films to train on, 2,684 to validate. The small sets hold out a larger share: few films say little.
VALIDATION_SHARE = {"rsna": 2684 / 26684, "nih": 0.25, "sample": 0.3}
IMAGES, PART, LOG = "images.npy", "images.npy.part", "read.jsonl"


# ---------------------------------------------------------------- the prepared folder


@dataclass(frozen=True)
class Prepared:
    """A prepared folder.

    Attributes
    ----------
    folder : Path
        Holds ``images.npy``, float16 (N, size, size) in [0, 1] with bone bright, and the tables below.
    labels : DataFrame
        One row per film, in the order of the images: ``name, target, split, patient`` (a number), ``view``,
        ``reader_class``, ``follow_up``, ``rows``, ``columns``, and ``mean`` and ``mean_square`` of its pixels.
    boxes : DataFrame
        One row per opacity: ``film`` (row of `labels`), ``x_min``, ``y_min``, ``x_max``, ``y_max`` in pixels of the
        prepared image.
    problems : DataFrame
        ``name, kind, reason`` of everything that could not be used as it stands.
    stats : dict
        Layout, size, seed, rule of the split, counts.
    """

    folder: Path
    labels: pd.DataFrame
    boxes: pd.DataFrame
    problems: pd.DataFrame
    stats: dict

    @property
    def images(self) -> NDArray[np.float16]:
        """All images, memory-mapped: only what is used is read from disk."""
        return np.load(self.folder / IMAGES, mmap_mode="r")

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of one split, ``"train"`` or ``"val"``."""
        return np.flatnonzero(self.labels["split"] == split)

    def boxes_of(self, row: int) -> NDArray[np.float64]:
        """Return the boxes of one film, shape (n, 4)."""
        return self.boxes.loc[self.boxes["film"] == row, list(EDGES)].to_numpy(float)

    def summary(self) -> str:
        """Return a few lines that say what was prepared, and name and count what could not be used."""
        parts = []
        for split, films in self.labels.groupby("split", sort=True):
            parts.append(f"{len(films)} {split}, {films['target'].sum()} of them with pneumonia")
        lines = [f"{len(self.labels)} films of {self.labels['patient'].nunique()} patients: {'; '.join(parts)}"]
        for kind, group in self.problems.groupby("kind", sort=True):
            lines.append(f"{kind}: {len(group)}")
            lines += [f"    {row.name}: {row.reason}" for row in group.head(3).itertuples(index=False)]
            if len(group) > 3:
                lines.append("    ... the others are in problems.csv")
        return "\n".join(lines)


def prepare(
    folder: str | Path,
    out: str | Path,
    size: int = 224,
    seed: int = 0,
    validation_share: float | None = None,
    limit: int | None = None,
    processes: int | None = None,
    progress: bool = True,
    even: bool = True,
    log: str | Path | None = None,
) -> Prepared:
    """Turn a raw folder into ``images.npy``, ``labels.csv``, ``boxes.csv``, ``problems.csv`` and ``stats.json``.

    Memory does not grow with the number of films. An interrupted run continues when called again. A finished run
    reads no film again unless the raw files, their labels or `size` have changed.

    Parameters
    ----------
    folder, out : path
        Raw data; where the prepared files go.
    size : int
        Side of the square images, in pixels.
    seed : int
        Decides which patients go to the validation split.
    validation_share : float, optional
        Share of the films in the validation split, by patient; by default that of the layout
        (:data:`VALIDATION_SHARE`).
    limit : int, optional
        Use only that many films, spread evenly over the list: for quick trials.
    processes : int, optional
        Number of processes; one for each core by default.
    progress : bool
        Whether to show a progress bar.
    even : bool
        Whether to normalise the contrast (:func:`heartbox.xray.contrast.normalize_contrast`), as was done for the
        films that the released heart weights learnt from. Without it the network sees the greys of the files.
    log : path, optional
        A file for the tracebacks of unexpected errors.

    Returns
    -------
    Prepared
        As written.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    ValueError
        If a table cannot be used, or if either split lacks one of the two classes.
    """
    folder, out = Path(folder), Path(out)
    keep_apart(folder, out)
    layout = recognise_layout(folder)
    films, problems = list_xrays(folder)
    if limit is not None and limit < len(films):
        films = [films[i] for i in np.linspace(0, len(films) - 1, limit).astype(int)]
    identity = _identity(films, problems, size, even)
    share = VALIDATION_SHARE[layout] if validation_share is None else validation_share
    out.mkdir(parents=True, exist_ok=True)
    if not _is_finished(out, identity):
        (out / "stats.json").unlink(missing_ok=True)
        options = {"processes": processes, "progress": progress, "log": log}
        records = _read_films(films, out, identity, size, even, options)
        _write_tables(films, records, problems, out, size)
    _assign_splits(out, seed, share)
    _write_stats(out, layout, seed, size, even, identity)
    return load_prepared(out)


def load_prepared(folder: str | Path) -> Prepared:
    """Load a prepared folder.

    Raises
    ------
    FileNotFoundError
        If its preparation has not finished.
    """
    folder = Path(folder)
    if not (folder / "stats.json").is_file():
        raise FileNotFoundError(f"{folder} does not hold prepared films, or only some of them: run prepare first")
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    tables = [pd.read_csv(folder / f"{name}.csv", keep_default_na=False) for name in ("boxes", "problems")]
    return Prepared(folder, _read_labels(folder), *tables, stats)


# ---------------------------------------------------------------- reading the films


def _identity(films: Sequence[PneumoniaXRay], problems: Sequence[Problem], size: int, even: bool) -> str:
    """Return a digest that tells one set of raw data from another: labels, and size and date of each file."""
    digest = hashlib.sha256(str((size, even, [tuple(problem) for problem in problems])).encode())
    for film in films:
        status = film.path.stat()
        about = (film.name, film.target, film.boxes, film.patient, film.view, film.reader_class)
        digest.update(str((*about, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def _is_finished(out: Path, identity: str) -> bool:
    if not (out / "stats.json").is_file() or not (out / IMAGES).is_file():
        return False
    try:
        return json.loads((out / "stats.json").read_text(encoding="utf-8")).get("identity") == identity
    except ValueError:  # damaged: prepare again
        return False


def _read_film(film: PneumoniaXRay, size: int, even: bool) -> tuple[bytes, dict]:
    """Read one film: its resized pixels and its record for the log."""
    xray = load_xray(film.path)
    if fault := fault_of_image(xray.image):
        raise ValueError(f"{film.path.name}: {fault}. Download it again.")
    small = resize_xray(xray.image, size)
    small = (normalize_contrast(small) if even else small).astype(np.float16)
    pixels = small.astype(np.float64)
    record = {"name": film.name, "rows": xray.image.shape[0], "columns": xray.image.shape[1]}
    record |= {"view": film.view or xray.view, "patient": film.patient or xray.patient_id or film.name}
    return small.tobytes(), record | {"mean": pixels.mean(), "mean_square": np.square(pixels).mean()}


def _read_films(
    films: Sequence[PneumoniaXRay],
    out: Path,
    identity: str,
    size: int,
    even: bool,
    options: dict,
) -> list[dict]:
    """Append every film that is missing to ``images.npy.part``, and return the records of all films from the log.

    `options` are those of :func:`heartbox.data.reading.read_each`.
    """
    part, log = out / PART, out / LOG
    done = _resume(part, log, identity, size)
    if 0 < done < len(films):
        print(f"{done} of {len(films)} films were read before the interruption; continuing after them.")
    with part.open("ab") as images, log.open("a", encoding="utf-8", newline="\n") as lines:
        for result in read_each(_read_film, films[done:], size, even, description="Reading films", **options):
            pixels, record = (b"", result._asdict()) if isinstance(result, Problem) else result
            images.write(pixels)
            images.flush()  # the image first: a line in the log promises that the image is complete
            lines.write(json.dumps(record) + "\n")
            lines.flush()
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()[1:]]


def _resume(part: Path, log: Path, identity: str, size: int) -> int:
    """Truncate images and log to the films that are complete in both; return their number, 0 for a new start."""
    header = io.BytesIO()
    write_npy_header(header, 0, size)
    end, written = len(header.getvalue()), part.stat().st_size if part.is_file() else 0
    kept = [json.dumps({"identity": identity})]
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.is_file() else []  # a line without end is torn
    if lines[:1] == kept:
        for line in lines[1:]:
            after = end if "reason" in json.loads(line) else end + 2 * size * size
            if after > written:
                break
            kept.append(line)
            end = after
    with complete_or_absent(log) as whole:
        whole.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8", newline="\n")
    if len(kept) == 1:
        part.write_bytes(header.getvalue())
    with part.open("r+b") as images:
        images.truncate(end)
    return len(kept) - 1


# ---------------------------------------------------------------- writing the tables


def _write_tables(
    films: Sequence[PneumoniaXRay], records: Sequence[dict], problems: Sequence[Problem], out: Path, size: int
) -> None:
    """Write labels, boxes and problems, and give the finished images their final name."""
    rows, boxes, problems = [], [], list(problems)
    for film, record in zip(films, records, strict=True):
        if "reason" in record:
            problems.append(Problem(**record))
            continue
        shape = record["rows"], record["columns"]
        scaled = [scale_boxes(box, film.frame or shape, (size, size)) for box in film.boxes]
        # One per cent beyond the border is rounding; more is a mistake that clipping would hide.
        if any(np.abs(clip_boxes(box, (size, size)) - box).max() > 0.01 * size for box in scaled):
            reason = "a box reaches outside the image; the label is used, its boxes are not"
            problems.append(Problem(film.name, "box", reason))
            scaled = []
        boxes += [(len(rows), *clip_boxes(box, (size, size))) for box in scaled]
        follow_up = "" if film.follow_up is None else film.follow_up
        rows.append(record | {"target": film.target, "reader_class": film.reader_class, "follow_up": follow_up})
    if len({row["target"] for row in rows}) < 2:
        first = f"; the first problem is {problems[0]}" if problems else ""
        raise ValueError(f"{len(rows)} films can be read, and they do not hold both classes{first}")
    labels = pd.DataFrame(rows)
    labels["patient"] = pd.factorize(labels["patient"])[0]  # no patient's id leaves the raw folder
    _write_csv(out / "labels.csv", labels)
    _write_csv(out / "boxes.csv", pd.DataFrame(boxes, columns=["film", *EDGES]))
    write_problems(out / "problems.csv", problems)
    with (out / PART).open("r+b") as images:
        write_npy_header(images, len(rows), size)
    (out / PART).replace(out / IMAGES)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with complete_or_absent(path) as part:
        table.to_csv(part, index=False, float_format="%.9g", lineterminator="\n")


def _assign_splits(out: Path, seed: int, share: float) -> None:
    """Decide who validates, by patient and with both classes in both splits, and write it into ``labels.csv``."""
    labels = _read_labels(out)
    patients, classes = labels["patient"].astype(str).tolist(), labels["target"].astype(str).tolist()
    labels["split"] = split_by_patient(patients, classes, seed, share)
    for split, targets in labels.groupby("split")["target"]:
        if targets.nunique() < 2:
            raise ValueError(
                f"{int(targets.sum())} of the {len(targets)} films in the split {split!r} have pneumonia; it needs "
                f"films with and without. The split is by patient: add patients of either class, or choose another "
                f"validation share than {share:.2f}"
            )
    _write_csv(out / "labels.csv", labels)


def _write_stats(out: Path, layout: str, seed: int, size: int, even: bool, identity: str) -> None:
    """Write ``stats.json``, which marks the folder as finished."""
    labels = _read_labels(out)
    counts = {"films": len(labels), "pneumonia": int(labels["target"].sum()), **Counter(labels["split"])}
    stats = {"layout": layout, "size": size, "seed": seed, "split": f"by patient, seed {seed}", "counts": counts}
    stats |= {"contrast": NORMALIZED_CONTRAST} if even else {}
    with complete_or_absent(out / "stats.json") as part:
        part.write_text(json.dumps(stats | {"identity": identity}, indent=2) + "\n", encoding="utf-8")
    (out / LOG).unlink(missing_ok=True)


def _read_labels(folder: Path) -> pd.DataFrame:
    text = {"name": str, "view": str, "reader_class": str}
    return pd.read_csv(folder / "labels.csv", dtype=text, keep_default_na=False, na_values={"follow_up": ""})


# ---------------------------------------------------------------- serving them


def pixel_statistics(labels: pd.DataFrame) -> tuple[float, float]:
    """Return mean and standard deviation of all pixels of some films, from their rows of labels."""
    mean = float(labels["mean"].mean())
    return mean, math.sqrt(max(float(labels["mean_square"].mean()) - mean**2, 1e-12))


class PneumoniaDataset(Dataset):
    """Pairs of a z-normalised film and its label, 1 for pneumonia.

    Parameters
    ----------
    prepared : Prepared
        The folder.
    rows : array_like of int
        Which of its films, as rows of its labels.
    statistics : tuple of float
        Mean and standard deviation to normalise by: those of the training films, for every split
        (:func:`pixel_statistics`).
    augment : str
        ``""`` for none, else see :func:`cardiac_dataset.make_augmentation`.
    """

    def __init__(self, prepared: Prepared, rows: Sequence[int], statistics: tuple[float, float], augment: str = ""):
        self.path, self.rows = prepared.folder / IMAGES, np.asarray(rows)
        self.targets = prepared.labels["target"].to_numpy(np.float32)[self.rows]
        self.statistics = statistics
        self.augmentation = make_augmentation(augment) if augment else None

    def __len__(self) -> int:
        return len(self.rows)

    def raw(self, index: int) -> NDArray[np.float32]:
        """Return the film, (size, size) in [0, 1], neither augmented nor normalised."""
        # Mapping it anew costs next to nothing, and no process holds more than the film asked for.
        return np.asarray(np.load(self.path, mmap_mode="r")[self.rows[index]], dtype=np.float32)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return x, float32 (1, size, size), and the label, float32 ()."""
        image = self.raw(index)
        if self.augmentation is not None:
            image, _ = augment_image(image, self.augmentation, int(torch.randint(2**31 - 1, ())))
        mean, std = self.statistics
        return torch.from_numpy((image - mean) / std).float().unsqueeze(0), torch.tensor(self.targets[index])


def make_datasets(
    prepared: Prepared, augment: str, train: Sequence[int] | None = None, val: Sequence[int] | None = None
) -> tuple[PneumoniaDataset, PneumoniaDataset]:
    """Return the training films, augmented, and the validation films, both normalised by the training statistics.

    `train` and `val` are rows of the folder's labels; by default those of its split.
    """
    train = prepared.rows(TRAIN) if train is None else np.asarray(train)
    val = prepared.rows(VAL) if val is None else np.asarray(val)
    statistics = pixel_statistics(prepared.labels.iloc[train])
    return PneumoniaDataset(prepared, train, statistics, augment), PneumoniaDataset(prepared, val, statistics)
