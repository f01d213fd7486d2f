"""A folder of ``.npy`` images and boxes -> the processed folder that CardiacDataset serves; and the way back.

An image that cannot be used becomes a problem with its reason. Knows files, boxes and processed folders; no networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from companions.vgg16.layouts import NpyImage, describe, list_images
from heartbox.boxes import EDGES, HEART, clip_boxes, scale_boxes
from heartbox.data.layouts import fault_of_box
from heartbox.data.reading import unexpected_problem
from heartbox.data.splits import TRAIN, UNUSED, VAL, split_by_patient
from heartbox.data.store import BOX_COLUMNS, Prepared, ProcessedXRay, write_processed
from heartbox.data.tables import ItemError
from heartbox.utils.atomic import complete_or_absent, keep_apart
from heartbox.utils.parallel import failure_of
from heartbox.xray.contrast import MIN_SIDE, fault_of_image, has_low_contrast
from heartbox.xray.image import MAX_PIXELS, resize_xray
from heartbox.xray.reader import as_xray

SPLIT_FOLDERS = {"train": TRAIN, "training": TRAIN} | dict.fromkeys(("val", "valid", "validate", "validation"), VAL)


# ---------------------------------------------------------------- one image


def read_npy(path: str | Path) -> np.ndarray:
    """Read one image.

    Parameters
    ----------
    path : path
        A ``.npy`` file with one grey image, (rows, columns), bone bright: floats in [0, 1] or unsigned integers over
        their full range. A first or last axis of length 1 is dropped.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        In [0, 1].

    Raises
    ------
    ItemError
        If the file is damaged, holds anything else, or holds pickled Python objects. Unpickling can run code, so such
        a file is never read.
    """
    path = Path(path)
    try:
        # Mapped, not loaded: a header that claims more than the file holds is detected before memory is allocated.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy passes on whatever its header parser runs into
        raise _unreadable(path, error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ItemError("unreadable", "is a .npz archive named .npy; save the image alone with np.save")
    shape = array.shape
    if array.ndim == 3 and 1 in (shape[0], shape[2]):
        array = array[0] if shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or min(array.shape) < MIN_SIDE or array.size > MAX_PIXELS:
        reason = f"has the shape {shape}: expected one grey image (rows, columns) of at least {MIN_SIDE} px a side"
        raise ItemError("pixels", reason)
    try:
        return as_xray(np.asarray(array)).image
    except ValueError as error:
        raise ItemError("pixels", str(error).removeprefix("array: ")) from error


def _unreadable(path: Path, error: Exception) -> ItemError:
    """Say what is wrong with a file that NumPy refuses: objects in it, or damage."""
    try:
        with path.open("rb") as stream:
            start = stream.read(256)
    except OSError as reason:
        return ItemError("unreadable", f"cannot be opened ({reason.strerror})")
    if b"|O" in start or start[:1] == b"\x80" or b"'O'" in start:
        return ItemError(
            "pickled",
            "holds pickled Python objects, which can run code when they are read, so it is not read; save the image "
            "again with np.save(path, image.astype('float32'))",
        )
    return ItemError("unreadable", f"is not a .npy file, or is damaged ({error}); save or download it again")


def _process(image: NpyImage, size: int) -> ProcessedXRay:
    pixels = read_npy(image.path)
    if fault := fault_of_image(pixels):
        raise ItemError("pixels", f"{fault}; save the X-ray itself")
    frame = image.frame or pixels.shape
    if fault := fault_of_box(image.box, frame):
        raise ItemError("box", f"{fault}: {describe(image.box)} in {frame[1]} x {frame[0]} px")
    box = clip_boxes(image.box, frame)
    record = {"name": image.name, "source": "npy", "rows": pixels.shape[0], "columns": pixels.shape[1]}
    record |= dict(zip(BOX_COLUMNS[HEART], scale_boxes(box, frame, (size, size)), strict=True))
    small = resize_xray(pixels, size)
    return ProcessedXRay(small.astype(np.float16), record, image.patient, low_contrast=has_low_contrast(small))


# ---------------------------------------------------------------- a folder of them


def prepare_npy(
    folder: str | Path,
    out: str | Path,
    size: int,
    seed: int = 0,
    validation_share: float = 0.2,
    log: str | Path | None = None,
) -> Prepared:
    """Turn a folder of ``.npy`` images into the processed folder that :class:`cardiac_dataset.CardiacDataset` serves.

    Images in ``train/`` and ``val/`` keep that split; otherwise the split is by patient. Images of any size are
    resized to a square, together with their boxes.

    Parameters
    ----------
    folder, out : path
        The images; where the processed files go, ``skipped.csv`` among them.
    size : int
        Side of the square image, in pixels.
    seed, validation_share
        See :func:`heartbox.data.splits.split_by_patient`; without effect if the folders give the split.
    log : path, optional
        A file for the tracebacks of unexpected errors.

    Returns
    -------
    Prepared
        Labels, statistics and what was skipped, as written.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`companions.vgg16.layouts.list_images`, and if no image can be used or one split is empty.
    """
    folder = Path(folder)
    keep_apart(folder, out)
    images, problems = list_images(folder)
    used: list[NpyImage] = []

    def process_all() -> Iterator[ProcessedXRay]:
        for image in images:
            try:
                processed = _process(image, size)
            except ItemError as error:
                problems.append(error.problem(image.name))
                continue
            except Exception as error:  # one image's fault stays that image's
                problems.append(unexpected_problem(image.name, image.path, failure_of(error), log))
                continue
            used.append(image)
            yield processed

    try:
        return write_processed(
            out,
            process_all(),
            lambda: _split(used, folder, seed, validation_share),
            size,
            "npy",
            seed,
            problems=problems,
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _split(images: list[NpyImage], folder: Path, seed: int, share: float) -> tuple[list[str], str]:
    """Return the split of each image, and the name of the rule that decided."""
    given = [_split_of_folder(image.path, folder) for image in images]
    if not {TRAIN, VAL} <= set(given):
        if set(given) != {UNUSED}:
            raise ValueError("only one of train/ and val/ holds a usable image; fill the other one, or use neither")
        split = split_by_patient([image.patient for image in images], ["npy"] * len(images), seed, share)
        return split, f"by patient, seed {seed}"
    validating = {image.patient for image, split in zip(images, given, strict=True) if split == VAL}
    # A patient in both splits would make the figures too good, so their training images are left out.
    pairs = zip(images, given, strict=True)
    splits = [UNUSED if split == TRAIN and image.patient in validating else split for image, split in pairs]
    if TRAIN not in splits:
        raise ValueError("every patient of train/ is in val/ too: no image is left to train on")
    return splits, "given: the folders train/ and val/"


def _split_of_folder(path: Path, folder: Path) -> str:
    """Return the split that a folder between `folder` and the file names, or UNUSED."""
    parts = (part.lower() for part in path.relative_to(folder).parent.parts)
    named = [SPLIT_FOLDERS[part] for part in parts if part in SPLIT_FOLDERS]
    return named[-1] if named else UNUSED


# ---------------------------------------------------------------- the way back


def export_npy(processed: str | Path, folder: str | Path) -> Path:
    """Write a processed folder out as ``train/*.npy``, ``val/*.npy`` and ``labels.csv``, without its unused images.

    Images stay float16 in [0, 1] at the processed size, as in the published exercise. Masks are lost: the layout has
    no place for them.
    """
    processed, folder = Path(processed), Path(folder)
    labels = pd.read_csv(processed / "labels.csv", dtype={"name": str})
    labels["patient"] = pd.read_csv(processed / "patients.csv")["patient"]
    images = np.load(processed / "images.npy", mmap_mode="r")
    used = labels[labels["split"].isin([TRAIN, VAL])]
    (folder / "labels.csv").unlink(missing_ok=True)
    for path in [*folder.glob("train/*.npy"), *folder.glob("val/*.npy")]:
        path.unlink()  # of an earlier split
    for i, row in used.iterrows():
        with complete_or_absent(folder / row["split"] / f"{row['source']}-{row['name']}.npy") as part:
            np.save(part, images[i])
    table = used[[f"heart_{edge}" for edge in EDGES]].set_axis(EDGES, axis=1)
    table.insert(0, "name", used["source"] + "-" + used["name"])
    return write_labels(folder, table.assign(patient=used["patient"]))


def write_labels(folder: Path, table: pd.DataFrame) -> Path:
    """Write ``labels.csv`` of a folder of ``.npy`` images, and return the folder."""
    with complete_or_absent(folder / "labels.csv") as part:
        table.to_csv(part, index=False, float_format="%.4f", lineterminator="\n")
    return folder
