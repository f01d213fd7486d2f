"""Raw films with a yes or no -> one memory-mapped array and a table, in constant memory, to be stopped at any moment.

Each film is read, shrunk, appended and forgotten; a line in a log says that it is there. A run that was stopped goes
on behind the last film that is whole. Knows layouts, X-ray files and arrays; no networks.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from companions.pneumonia.layouts import PneumoniaXRay, Problem, list_films, recognise_layout
from heartbox.boxes import clip_boxes, scale_boxes
from heartbox.data.splits import split_by_patient
from heartbox.data.store import write_npy_header
from heartbox.utils.atomic import complete_or_absent, keep_apart
from heartbox.utils.parallel import parallel_map
from heartbox.xray.contrast import NORMALIZED_CONTRAST, normalize_contrast, shows_nothing
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import load_xray

# RSNA: 24,000 films to train on and 2,684 held out. The small sets hold out more, for fewer would say nothing.
HELD_OUT = {"rsna": 2684 / 26684, "nih": 0.25, "sample": 0.3}
IMAGES, PART, LOG = "images.npy", "images.npy.part", "read.jsonl"


@dataclass(frozen=True)
class Prepared:
    """A prepared folder: what :func:`prepare` did, or found done.

    Attributes
    ----------
    folder : Path
        Holds ``images.npy``, float16 (N, size, size) in [0, 1], bone bright, beside the tables below.
    labels : DataFrame
        A row a film in the order of the images: ``name, target, split, patient`` (a number), ``view``,
        ``reader_class``, ``follow_up``, ``rows``, ``columns``, and the ``mean`` and ``mean_square`` of its pixels.
    boxes : DataFrame
        A row an opacity: ``film`` (row of `labels`), ``x_min``, ``y_min``, ``x_max``, ``y_max`` in pixels of the
        prepared image.
    problems : DataFrame
        ``name, kind, reason`` of whatever could not be used as it stood.
    stats : dict
        Layout, size, seed, rule of the split, counts.
    """

    folder: Path
    labels: pd.DataFrame
    boxes: pd.DataFrame
    problems: pd.DataFrame
    stats: dict

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of ``"train"`` or ``"held out"``."""
        return np.flatnonzero(self.labels["split"] == split)

    def boxes_of(self, row: int) -> NDArray[np.float64]:
        """Return the boxes of one film, shape (n, 4)."""
        mine = self.boxes[self.boxes["film"] == row]
        return mine[["x_min", "y_min", "x_max", "y_max"]].to_numpy(float)

    def summary(self) -> str:
        """Say in a few lines what was prepared, and name and count what did not fit."""
        parts = []
        for split, films in self.labels.groupby("split", sort=False):
            parts.append(f"{len(films)} {split}, {films['target'].sum()} of them with pneumonia")
        lines = [f"{len(self.labels)} films of {self.labels['patient'].nunique()} patients: {'; '.join(sorted(parts))}"]
        for kind, group in self.problems.groupby("kind", sort=True):
            lines.append(f"{kind}: {len(group)}")
            lines += [f"    {one.name}: {one.reason}" for one in group.head(3).itertuples(index=False)]
            if len(group) > 3:
                lines.append("    ... and the others in problems.csv")
        return "\n".join(lines)


# ---------------------------------------------------------------- all of it


def prepare(
    folder: str | Path,
    out: str | Path,
    size: int = 224,
    seed: int = 0,
    held_out: float | None = None,
    limit: int | None = None,
    processes: int | None = None,
    progress: bool = True,
    even: bool = True,
) -> Prepared:
    """Turn a raw folder into ``images.npy``, ``labels.csv``, ``boxes.csv``, ``problems.csv`` and ``stats.json``.

    Memory does not grow with the number of films. Stopped at any moment, it goes on where it was when called again;
    finished, it reads no film again unless the raw files, their labels or `size` have changed.

    Parameters
    ----------
    folder, out : path
        Raw data; where the prepared files go.
    size : int
        Side of the square images, in pixels.
    seed : int
        Decides who is held out.
    held_out : float, optional
        Share of the films that is held out, by patient; by default that of the layout (:data:`HELD_OUT`).
    limit : int, optional
        Use only that many films, spread evenly over the list: for quick trials.
    processes : int, optional
        How many to run; one for each core by default.
    progress : bool
        Whether to show a bar.
    even : bool
        Whether to even the contrast (:func:`heartbox.xray.contrast.normalize_contrast`), as the films were that the released
        heart weights learnt from; without it the network sees each film's greys as the file has them.

    Returns
    -------
    Prepared
        As written.

    Raises
    ------
    FileNotFoundError
        If the folder has none of the layouts.
    ValueError
        If a table cannot be used, or if the readable films have not both answers on both sides of the split.
    """
    folder, out = Path(folder), Path(out)
    keep_apart(folder, out)
    layout = recognise_layout(folder)
    films, problems = list_films(folder)
    if limit is not None and limit < len(films):
        films = [films[i] for i in np.linspace(0, len(films) - 1, limit).astype(int)]
    identity = _identity(films, problems, size, even)
    share = HELD_OUT[layout] if held_out is None else held_out
    out.mkdir(parents=True, exist_ok=True)
    if not _is_finished(out, identity):
        (out / "stats.json").unlink(missing_ok=True)
        read = _read_films(films, out, identity, size, even, processes, progress)
        _write_tables(films, read, problems, out, size)
    return _split(out, layout, seed, share, size, even, identity)


def load_prepared(folder: str | Path) -> Prepared:
    """Load a prepared folder.

    Raises
    ------
    FileNotFoundError
        If it has not been prepared to the end.
    """
    folder = Path(folder)
    if not (folder / "stats.json").is_file():
        raise FileNotFoundError(f"{folder} holds no prepared films, or not all of them: run prepare first")
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    tables = [pd.read_csv(folder / f"{name}.csv", keep_default_na=False) for name in ("boxes", "problems")]
    return Prepared(folder, _read_labels(folder), *tables, stats)


def pixel_statistics(labels: pd.DataFrame) -> tuple[float, float]:
    """Return mean and standard deviation of all pixels of some films, from the rows of their labels."""
    mean = float(labels["mean"].mean())
    return mean, math.sqrt(max(float(labels["mean_square"].mean()) - mean**2, 1e-12))


# ---------------------------------------------------------------- the images


def _identity(films: Sequence[PneumoniaXRay], problems: Sequence[Problem], size: int, even: bool) -> str:
    """Tell one set of raw data from another: labels, and size and date of each file."""
    digest = hashlib.sha256(str((size, even, [tuple(one) for one in problems])).encode())
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
    except ValueError:  # damaged: made anew
        return False


def _read_film(task: tuple[PneumoniaXRay, int, bool]) -> tuple[bytes, dict]:
    """Read one film: its shrunk pixels and a line for the log; no pixels, and why, where it cannot be read."""
    film, size, even = task
    try:
        xray = load_xray(film.path)
    except ValueError as error:
        return b"", {"name": film.name, "error": str(error).replace(f"{film.path.parent}{os.sep}", "")}
    if fault := shows_nothing(xray.image):
        return b"", {"name": film.name, "error": f"{film.path.name}: {fault}. Fetch it again."}
    small = resize_xray(xray.image, size)
    small = (normalize_contrast(small) if even else small).astype(np.float16)
    seen = small.astype(np.float64)
    about = {"name": film.name, "rows": xray.image.shape[0], "columns": xray.image.shape[1]}
    about |= {"view": film.view or xray.view, "patient": film.patient or xray.patient_id or film.name}
    return small.tobytes(), about | {"mean": seen.mean(), "mean_square": np.square(seen).mean()}


def _read_films(
    films: Sequence[PneumoniaXRay],
    out: Path,
    identity: str,
    size: int,
    even: bool,
    processes: int | None,
    progress: bool,
) -> list[dict]:
    """Append every film that is not there yet to ``images.npy.part``, and return what the log says of all of them."""
    part, log = out / PART, out / LOG
    done = _resume(part, log, identity, size)
    if 0 < done < len(films):
        print(f"{done} of {len(films)} films were read before the last stop; going on behind them.")
    with part.open("ab") as images, log.open("a", encoding="utf-8", newline="\n") as lines:
        tasks = [(film, size, even) for film in films[done:]]
        for pixels, about in parallel_map(_read_film, tasks, "Reading films", processes=processes, progress=progress):
            images.write(pixels)
            images.flush()  # the image first: a line in the log is a promise that it is whole
            lines.write(json.dumps(about) + "\n")
            lines.flush()
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()[1:]]


def _resume(part: Path, log: Path, identity: str, size: int) -> int:
    """Cut images and log back to the films that are whole in both; return how many those are, 0 for a new start."""
    header = io.BytesIO()
    write_npy_header(header, 0, size)
    end, written = len(header.getvalue()), part.stat().st_size if part.is_file() else 0
    kept = [json.dumps({"identity": identity})]
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.is_file() else []  # a line without end is torn
    if lines[:1] == kept:
        for line in lines[1:]:
            after = end if "error" in json.loads(line) else end + 2 * size * size
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


# ---------------------------------------------------------------- the tables


def _write_tables(
    films: Sequence[PneumoniaXRay], read: Sequence[dict], problems: Sequence[Problem], out: Path, size: int
) -> None:
    """Write labels, boxes and problems, and give the images their name."""
    records, boxes, problems = [], [], list(problems)
    for film, about in zip(films, read, strict=True):
        if "error" in about:
            problems.append(Problem(film.name, "unreadable image", about["error"]))
            continue
        shape = about["rows"], about["columns"]
        mine = [scale_boxes(box, film.frame or shape, (size, size)) for box in film.boxes]
        # A per cent over the border is rounding; more is a mistake that clipping would hide.
        if any(np.abs(clip_boxes(box, (size, size)) - box).max() > 0.01 * size for box in mine):
            reason = "a box reaches outside the image; the label is used, its boxes are not"
            problems.append(Problem(film.name, "box", reason))
            mine = []
        boxes += [(len(records), *clip_boxes(box, (size, size))) for box in mine]
        follow_up = "" if film.follow_up is None else film.follow_up
        records.append(about | {"target": film.target, "reader_class": film.reader_class, "follow_up": follow_up})
    if len({record["target"] for record in records}) < 2:
        first = f"; the first problem: {problems[0].name}: {problems[0].reason}" if problems else ""
        raise ValueError(f"{len(records)} films can be read, and not both answers are among them{first}")
    labels = pd.DataFrame(records)
    labels["patient"] = pd.factorize(labels["patient"])[0]  # no id of a person leaves the raw folder
    tables = {"labels": labels, "problems": pd.DataFrame(problems, columns=Problem._fields)}
    tables["boxes"] = pd.DataFrame(boxes, columns=["film", "x_min", "y_min", "x_max", "y_max"])
    for name, table in tables.items():
        _write(out / f"{name}.csv", table)
    with (out / PART).open("r+b") as images:
        write_npy_header(images, len(records), size)
    (out / PART).replace(out / IMAGES)


def _write(path: Path, table: pd.DataFrame) -> None:
    with complete_or_absent(path) as part:
        table.to_csv(part, index=False, float_format="%.9g", lineterminator="\n")


def _split(out: Path, layout: str, seed: int, share: float, size: int, even: bool, identity: str) -> Prepared:
    """Decide who is held out, by patient and with both answers on both sides; write what is still missing."""
    labels = _read_labels(out)
    sides = split_by_patient(labels["patient"].astype(str).tolist(), labels["target"].astype(str).tolist(), seed, share)
    labels["split"] = ["train" if side == "train" else "held out" for side in sides]
    for side, targets in labels.groupby("split")["target"]:
        if targets.nunique() < 2:
            raise ValueError(
                f"{int(targets.sum())} of the {len(targets)} films on the {side!r} side have pneumonia; both answers "
                f"are needed there. The split is by patient: add patients of either answer, or hold out another share "
                f"than {share:.2f}"
            )
    _write(out / "labels.csv", labels)
    counts = {"films": len(labels), "pneumonia": int(labels["target"].sum()), **Counter(labels["split"])}
    stats = {"layout": layout, "size": size, "seed": seed, "split": f"by patient, seed {seed}", "counts": counts}
    stats |= {"contrast": NORMALIZED_CONTRAST} if even else {}
    with complete_or_absent(out / "stats.json") as part:
        part.write_text(json.dumps(stats | {"identity": identity}, indent=2) + "\n", encoding="utf-8")
    (out / LOG).unlink(missing_ok=True)
    return load_prepared(out)


def _read_labels(folder: Path) -> pd.DataFrame:
    text = {"name": str, "view": str, "reader_class": str}
    return pd.read_csv(folder / "labels.csv", dtype=text, keep_default_na=False, na_values={"follow_up": ""})
