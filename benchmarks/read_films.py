"""Films whose heart and chest borders were read by eye, joined to the films with masks.

NIH films of ill and supine patients, with the heart's left and right border and the chest's (``nih/heart_borders.csv``
says how they were read), and the Hannover films with the chest's. Only x is known: top and bottom, and borders that are
hidden, are NaN, which every loss leaves out. Knows processed folders; no networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from heartbox.data.splits import TRAIN, UNUSED, assign_folds
from heartbox.data.store import BOX_COLUMNS, ProcessedXRay, Statistics, films_of, load_labels, write_processed
from heartbox.xray.contrast import normalize_contrast
from heartbox.xray.image import resize_xray
from heartbox.xray.reader import load_xray

NIH, HANNOVER, UNREAD = "nih", "hannover", "nih-unread"
READ_SIZE = 224  # px; the frame in which the NIH films were read
SIDES = [0, 2, 4, 6]  # the places of the heart's and the chest's left and right border among the eight edges
SECOND = [f"second_{name}" for name in ("heart_left", "heart_right", "thorax_left", "thorax_right")]


def read_borders(data: Path) -> pd.DataFrame:
    """Return what is known of each read film.

    Parameters
    ----------
    data : Path
        Holds ``nih/heart_borders.csv``, ``nih/images``, ``hannover/labels.csv`` and ``hannover/images``; a part that
        is missing is left out. The NIH films of patients none of whose films was read are there too, without borders.

    Returns
    -------
    DataFrame
        ``name, source, patient, path``; ``x0`` to ``x3``, the heart's left and right border and the chest's, as shares
        of the film's width, NaN where unknown; and ``quality`` and ``second0`` to ``second3``, where there are any.
    """
    tables = []
    if (data / "nih" / "heart_borders.csv").is_file():
        films = pd.read_csv(data / "nih" / "heart_borders.csv")
        first = films[["heart_left", "heart_right", "thorax_left", "thorax_right"]].to_numpy(float) / READ_SIZE
        second = films[SECOND].to_numpy(float) / READ_SIZE
        tables.append(
            pd.DataFrame(
                {
                    "name": films["file"],
                    "source": NIH,
                    "patient": "nih " + films["file"].str[:8],
                    "path": [data / "nih" / "images" / name for name in films["file"]],
                    **{f"x{i}": first[:, i] for i in range(4)},
                    "quality": films["quality"],
                    **{f"second{i}": second[:, i] for i in range(4)},
                }
            )
        )
        others = sorted((data / "nih" / "images").glob("*.jpg"))
        others = [path for path in others if path.name[:8] not in set(films["file"].str[:8])]
        unread = pd.DataFrame({"path": others, "name": [path.name for path in others], "source": UNREAD})
        unread["patient"] = "nih " + unread["name"].str[:8]
        tables.append(unread.assign(**{f"x{i}": np.nan for i in range(4)}))
    if (data / "hannover" / "labels.csv").is_file():
        films = pd.read_csv(data / "hannover" / "labels.csv").dropna(subset="thorax_x_min")
        chest = films[["thorax_x_min", "thorax_x_max"]].to_numpy(float) / films[["width"]].to_numpy(float)
        # A chest that reaches the film's edge goes on beyond it: nobody can say where it ends.
        chest[(chest < 0.004) | (chest > 0.996)] = np.nan
        tables.append(
            pd.DataFrame(
                {
                    "name": films["file"],
                    "source": HANNOVER,
                    "patient": "hannover " + films["patient"].astype(str),
                    "path": [data / "hannover" / "images" / name for name in films["file"]],
                    "x0": np.nan,
                    "x1": np.nan,
                    "x2": chest[:, 0],
                    "x3": chest[:, 1],
                }
            )
        )
    if not tables:
        raise SystemExit(f"{data}: neither nih/heart_borders.csv nor hannover/labels.csv is there")
    return pd.concat(tables, ignore_index=True)


def join_read_films(labelled: Path, data: Path, out: Path) -> pd.DataFrame:
    """Write a processed folder that holds the films of `labelled`, and after them those of :func:`read_borders`.

    A read film has no mask. It borrows the outlines of the labelled film whose known edges are most similar, stretched
    to fit, which augmentation needs; its masks are zeros, which :func:`heartbox.training.losses.mask_loss` takes to
    mean unknown.

    Parameters
    ----------
    labelled : Path
        Processed folder with masks.
    data : Path
        See :func:`read_borders`.
    out : Path
        The folder to write, if it is not there.

    Returns
    -------
    DataFrame
        ``labels.csv`` of the new folder, with the columns of :func:`read_borders` for the read films.

    Raises
    ------
    SystemExit
        If the folder is there and was made from other films or other borders.
    """
    films = read_borders(data)
    stats, labels = Statistics.load(labelled), load_labels(labelled)
    origin, known = out / "origin.txt", fingerprint_of(films, labelled)
    if (out / "stats.json").is_file() and (not origin.is_file() or origin.read_text(encoding="utf-8") != known):
        raise SystemExit(f"{out} was made from other films or other borders: name another --work")
    if not (out / "stats.json").is_file():
        usable = (labels["split"] != UNUSED).to_numpy()
        boxes = labels.loc[usable, BOX_COLUMNS].to_numpy()
        outlines = np.load(labelled / "outlines.npy")[usable]

        def everything() -> Iterator[ProcessedXRay]:
            yield from films_of(labelled)
            for film in films.to_dict("records"):
                yield read_one(film, stats.size, stats.contrast is not None, boxes, outlines)

        read = films["source"] != UNREAD
        splits = labels["split"].tolist() + [TRAIN if one else UNUSED for one in read]
        rule = f"{stats.split}; {read.sum()} films read by eye are added"
        write_processed(out, everything(), lambda: (splits, rule), stats.size, stats.layout, stats.seed, stats.contrast)
        origin.write_text(known, encoding="utf-8")
    known = films.set_index("name").drop(columns=["source", "path"])
    return load_labels(out).join(known, on="name")


def fingerprint_of(films: pd.DataFrame, labelled: Path) -> str:
    """Identify what a joined folder is made from: the read films with their borders, and the films with masks."""
    own = films.drop(columns="path").to_csv(index=False).encode() + (labelled / "labels.csv").read_bytes()
    return hashlib.sha256(own).hexdigest()


def read_one(film: dict, size: int, normalize: bool, others: NDArray, outlines: NDArray) -> ProcessedXRay:
    """Read one film as :func:`heartbox.data.prepare.read_film` does, with the borders that are known."""
    xray = load_xray(film["path"])
    columns = xray.image.shape[1]
    edges = np.full(8, np.nan)
    for place, share in zip(SIDES, (film[f"x{i}"] for i in range(4)), strict=True):
        edges[place] = (share * columns - xray.window.left) / xray.window.shape[1] * size
    small = resize_xray(xray.content, size)
    rows, columns = xray.window.shape
    record = {"name": film["name"], "source": film["source"], "rows": rows, "columns": columns}
    record |= dict(zip(BOX_COLUMNS, edges, strict=True))
    borrowed = borrow_outlines(edges.reshape(2, 4), others.reshape(-1, 2, 4), outlines)
    unknown = np.zeros((2, size // 2, size // 2), np.uint8)
    image = (normalize_contrast(small) if normalize else small).astype(np.float16)
    cropped = xray.window.unless_whole(xray.image.shape)
    return ProcessedXRay(image, record, film["patient"], np.float32(borrowed), unknown, cropped=cropped)


def borrow_outlines(boxes: NDArray, others: NDArray, outlines: NDArray) -> NDArray[np.float64]:
    """Return outlines for boxes without masks: those of the film with the most similar boxes, stretched to fit.

    Parameters
    ----------
    boxes : ndarray, shape (targets, 4)
        Boxes of the film without masks; an edge that is unknown, NaN, is taken from the other film.
    others : ndarray, shape (N, targets, 4)
        Boxes of the films with masks.
    outlines : ndarray, shape (N, targets, points, 2)
        Outlines of the films with masks.

    Returns
    -------
    ndarray, shape (targets, points, 2)
        Each lies within its box and touches all four sides.
    """
    nearest = np.nansum(np.abs(others - boxes), axis=(1, 2)).argmin()
    boxes = np.where(np.isnan(boxes), others[nearest], boxes)
    low, high = others[nearest, :, None, :2], others[nearest, :, None, 2:]
    relative = (outlines[nearest] - low) / (high - low)
    return boxes[:, None, :2] + relative * (boxes[:, None, 2:] - boxes[:, None, :2])


def fold_of_read_films(labels: pd.DataFrame, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Give each read film the fold in which it is held out, by patient; -1 for all other films."""
    found = np.full(len(labels), -1)
    read = labels["source"].isin([NIH, HANNOVER]).to_numpy()
    found[read] = assign_folds(labels.loc[read, "patient"], labels.loc[read, "source"], folds, seed)
    return found
