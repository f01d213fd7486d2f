"""A folder of ``.npy`` images with a csv of heart boxes -> the processed folder that CardiacDataset serves.

Whatever cannot be used is named, counted and left out. Knows files, boxes and processed folders; no networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from heartbox.boxes import EDGES, as_boxes, box_from_xywh, clip_boxes, scale_boxes
from heartbox.data import layouts
from heartbox.data.prepare import Prepared, prepare
from heartbox.data.splits import split_by_patient
from heartbox.data.store import BOX_COLUMNS, ProcessedXRay, write_processed
from heartbox.data.tables import Problem
from heartbox.phantom import render, sample_subject
from heartbox.utils.atomic import complete_or_absent, keep_apart
from heartbox.xray.contrast import SMALLEST, has_low_contrast, shows_nothing
from heartbox.xray.image import MAX_PIXELS, resize_xray
from heartbox.xray.reader import as_xray

CORNERS = ("name", *EDGES)
SIZES = ("name", "x0", "y0", "w", "h")  # as the published exercise writes its boxes
FRAME = ("img_shape_x", "img_shape_y")  # of the image that its boxes were drawn in
SIDES = {"train": "train", "training": "train"}
SIDES |= dict.fromkeys(("val", "valid", "validate", "validation"), "val")
PATIENT = ("patient", "patientid", "patient_id")
NPY = (
    "images as .npy files, at will in train/ and val/, and beside them one csv with the columns "
    f"{','.join(CORNERS)} (or {','.join(SIZES)})"
)
EXPECTED = f"{NPY}; or the X-rays of notebook 01: {layouts.EXPECTED}"
ROUNDING = 0.01  # of the image's side: what a box may reach over its border


@dataclass(frozen=True)
class NpyImage:
    """One labelled image as it lies in the folder.

    Attributes
    ----------
    name, patient : str
        File name without its ending; who it is of (the name again, where the csv has no column ``patient``).
    path : Path
        The ``.npy`` file.
    box : tuple of float
        Heart box in pixels of `frame`.
    frame : tuple of int or None
        ``(rows, columns)`` that the box was drawn in; None for those of the image itself.
    """

    name: str
    patient: str
    path: Path
    box: tuple[float, ...]
    frame: tuple[int, int] | None = None


# ---------------------------------------------------------------- where the data is


def is_npy_folder(folder: str | Path) -> bool:
    """Tell whether a folder holds ``.npy`` images beside a csv; whether that one is of boxes, the reader tells."""
    return any(Path(folder).glob("*.csv")) and bool(_images(Path(folder)))


def recognise(folder: Path) -> str | None:
    """Tell which layout lies in a folder: ``"npy"``, one of notebook 01's, or None."""
    return "npy" if is_npy_folder(folder) else layouts.recognise_layout(folder)


def find_npy_folder(default: str | Path, artifacts: str | Path, count: int = 200, size: int = 224, seed: int = 0):
    """Find the folder of images, or make one: of X-rays in another layout, or of the embedded sample.

    Looks at the folder that the environment variable ``CARDIAC_DATA`` names; where that is unset, at `default`.
    The layouts of notebook 01 (RSNA, CTR) are prepared by :func:`heartbox.data.prepare.prepare` and written out as
    ``.npy`` files, so that all that follows sees one form only.

    Parameters
    ----------
    default : path
        Where to look without ``CARDIAC_DATA``; the sample goes into a folder of this name and ``-sample``.
    artifacts : path
        Where the X-rays of another layout are prepared and written out.
    count, size, seed : int
        How many phantoms the sample has, their side in pixels, and which they are.

    Returns
    -------
    tuple of Path and str
        The folder, and one line that says what it is.

    Raises
    ------
    FileNotFoundError
        See :func:`heartbox.data.layouts.look_for_data`.
    """
    default, artifacts = Path(default), Path(artifacts)
    found = layouts.look_for_data(recognise, EXPECTED, default)
    if found:
        folder, layout = found
        where = f"{default.name}/" if folder == default else "the folder that CARDIAC_DATA names"
        if layout == "npy":
            return folder, f"Data: the .npy images in {where}."
        prepared = prepare(folder, artifacts / "prepared", seed=seed)
        export_npy(artifacts / "prepared", artifacts / "npy")
        said = f"Data: the {layout.upper()} layout in {where}, written out as .npy.\n{prepared.summary()}"
        return artifacts / "npy", said
    sample = default.with_name(f"{default.name}-sample")
    write_sample(sample, count, size, seed)
    return sample, f"Data: nothing in {default.name}/, so {count} synthetic films were made in {sample.name}/."


def write_sample(folder: str | Path, count: int, size: int = 224, seed: int = 0) -> Path:
    """Write the embedded sample: phantoms as float16 ``.npy`` images with ``labels.csv``; one there is kept."""
    folder = Path(folder)
    wanted = [folder / "images" / f"{sample_subject(seed, i).film_id}.npy" for i in range(count)]
    there = sorted((folder / "images").glob("*.npy"))
    if (folder / "labels.csv").is_file() and there == sorted(wanted) and _all_of_size(there, size):
        return folder
    (folder / "labels.csv").unlink(missing_ok=True)  # first and last: without it the folder holds no data
    for path in there:
        path.unlink()
    rows = []
    for i in range(count):
        film = render(sample_subject(seed, i), size)
        with complete_or_absent(folder / "images" / f"{film.subject.film_id}.npy") as part:
            np.save(part, film.image.astype(np.float16))
        rows.append([film.subject.film_id, *film.heart, film.subject.patient_id])
    return _write_labels(folder, pd.DataFrame(rows, columns=[*CORNERS, "patient"]))


def _all_of_size(images: list[Path], size: int) -> bool:
    try:
        return all(read_npy(path).shape == (size, size) for path in images)
    except ValueError:
        return False


def export_npy(processed: str | Path, folder: str | Path) -> Path:
    """Write a processed folder out as ``train/*.npy``, ``val/*.npy`` and ``labels.csv``; unused films are left out.

    Images stay float16 in [0, 1] at the processed size, as the published exercise keeps them; masks are lost, since
    this form has no place for them.
    """
    processed, folder = Path(processed), Path(folder)
    labels = pd.read_csv(processed / "labels.csv", dtype={"name": str})
    labels["patient"] = pd.read_csv(processed / "patients.csv")["patient"]
    images = np.load(processed / "images.npy", mmap_mode="r")
    used = labels[labels["split"].isin(["train", "val"])]
    (folder / "labels.csv").unlink(missing_ok=True)
    for path in [*folder.glob("train/*.npy"), *folder.glob("val/*.npy")]:
        path.unlink()  # of an earlier split
    for i, row in used.iterrows():
        with complete_or_absent(folder / row["split"] / f"{row['source']}-{row['name']}.npy") as part:
            np.save(part, images[i])
    table = used[[f"heart_{edge}" for edge in EDGES]].set_axis(EDGES, axis=1)
    table.insert(0, "name", used["source"] + "-" + used["name"])
    return _write_labels(folder, table.assign(patient=used["patient"]))


def _write_labels(folder: Path, table: pd.DataFrame) -> Path:
    with complete_or_absent(folder / "labels.csv") as part:
        table.to_csv(part, index=False, float_format="%.4f", lineterminator="\n")
    return folder


# ---------------------------------------------------------------- what lies in it


def read_npy(path: str | Path) -> np.ndarray:
    """Read one image.

    Parameters
    ----------
    path : path
        A ``.npy`` file of one grey image, (rows, columns), with bone bright: floats in [0, 1] or unsigned integers
        over their full range. An axis of length 1 before or after is dropped.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        In [0, 1].

    Raises
    ------
    ValueError
        If the file is broken, holds anything else, or holds pickled Python objects: those may run code when they
        are read, so they never are.
    """
    path = Path(path)
    try:
        # Mapped and not loaded: a header that claims more than the file holds is found before memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises whatever its header parser stumbles over
        with path.open("rb") as stream:
            start = stream.read(256)
        if b"|O" in start or start[:1] == b"\x80" or b"'O'" in start:
            raise ValueError(
                "pickled: it holds Python objects, which can run code when they are read, so it is not read; "
                "save the image again with np.save(path, image.astype('float32'))"
            ) from error
        raise ValueError(f"broken: not a .npy file, or cut off ({error}); save or fetch it again") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("broken: a .npz archive under the name of a .npy file; save its image alone with np.save")
    shape = array.shape
    if array.ndim == 3 and 1 in (shape[0], shape[2]):
        array = array[0] if shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or min(array.shape) < SMALLEST or array.size > MAX_PIXELS:
        raise ValueError(f"shape: {shape}, where one grey image (rows, columns) of {SMALLEST} px and more is wanted")
    try:
        return as_xray(np.asarray(array)).image
    except ValueError as error:
        raise ValueError(str(error).replace("array:", "pixels:")) from error


def list_npy_films(folder: str | Path) -> tuple[list[NpyImage], list[tuple[str, str]]]:
    """List the labelled images of a folder, in the order of its csv.

    Returns
    -------
    tuple of list
        The films; and ``(name, reason)`` for each label or image that cannot be used. A reason begins with its
        kind and a colon.

    Raises
    ------
    FileNotFoundError
        If there are no images or no csv of boxes.
    ValueError
        If there is more than one such csv, or it cannot be read.
    """
    folder = Path(folder)
    tables, images = _tables(folder), _images(folder)
    if not tables or not images:
        state = "no .npy image" if tables else "no csv of boxes"
        others = [f"{path.name} begins with {_first_line(path)[:80]!r}" for path in sorted(folder.glob("*.csv"))[:3]]
        seen = f" ({'; '.join(others)})" if others and not tables else ""
        raise FileNotFoundError(f"{folder}: {state} lies here{seen}. Expected: {NPY}, separated by commas")
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise ValueError(f"{folder}: {names} all hold boxes; leave the one that is meant and move the others away")
    try:
        table = pd.read_csv(
            tables[0], dtype=str, skipinitialspace=True, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        ).fillna("")  # of a row that is too short
    except (ValueError, OSError) as error:  # torn quotes, binary, another encoding: pandas has an exception for each
        raise ValueError(
            f"{tables[0]}: cannot be read as a csv ({' '.join(str(error).split())}); mend that line, or save it again "
            "as comma-separated UTF-8"
        ) from error
    table.columns = table.columns.str.strip().str.lower()
    at: dict[str, list[Path]] = {}
    for path in images:
        at.setdefault(path.stem, []).append(path)
    films, problems, seen = [], [], set()
    keys = [key for key in (*EDGES, *SIZES[1:], *FRAME) if key in table]
    names = table["name"].map(_image_name)
    differ = table[keys].groupby(names).nunique().max(axis=1) > 1
    for row, record in enumerate(table.to_dict("records")):
        name = names[row]
        where = f"row {row + 2} of {tables[0].name}"
        if not name:
            problems.append((where, "label: it names no image"))
            continue
        if differ[name]:
            if name not in seen:
                problems.append((name, f"label: {where} is one of several for this image, and their boxes differ"))
            seen.add(name)
            continue
        if name in seen:
            problems.append((name, f"label: {where} is a second one for the same image; the first is used"))
            continue
        seen.add(name)
        found = at.get(name, [])
        if len(found) != 1:
            several = ", ".join(path.relative_to(folder).as_posix() for path in found)
            reason = f"several images: {several}; rename one" if found else f"no image: {where} has none in the folder"
            problems.append((name, reason))
            continue
        try:
            box, frame = _read_box(record)
        except ValueError as error:
            problems.append((name, f"box: {where}: {error}"))
            continue
        patient = next((record[key].strip() for key in PATIENT if record.get(key)), name)
        films.append(NpyImage(name, patient, found[0], box, frame))
    labelled = seen  # also those whose label cannot be used: they are named already
    unlabelled = [path.stem for path in images if path.stem not in labelled]
    problems += [(name, f"no label: {tables[0].name} has no row for it") for name in unlabelled]
    return films, problems


def _image_name(written: str) -> str:
    """Return the file name, without folder and ending, of what a csv calls an image."""
    return PurePosixPath(written.strip().replace("\\", "/")).name.removesuffix(".npy")


def _tables(folder: Path) -> list[Path]:
    """Return the csv files of a folder whose first line names the columns of boxes."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        header = {column.strip().strip('"').lower() for column in _first_line(path).split(",")}
        if set(CORNERS) <= header or set(SIZES) <= header:
            found.append(path)
    return found


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.readline(1000).strip()
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"


def _images(folder: Path) -> list[Path]:
    """Return the ``.npy`` files of a folder and of the folders in it, three deep."""
    found = (path for depth in range(4) for path in folder.glob("*/" * depth + "*.npy"))
    # "._x.npy" is macOS's shadow of x.npy; a link may lead nowhere.
    return sorted(path for path in found if not path.name.startswith("._") and path.is_file())


def _read_box(record: dict) -> tuple[tuple[float, ...], tuple[int, int] | None]:
    """Return box and frame of a row of the csv, or say what is wrong with them."""
    if str(record.get("label", "heart")).strip().lower() != "heart":
        raise ValueError(f"it is labelled {record['label']!r}, not 'heart'")
    try:
        forms = []
        for keys, make in ((EDGES, as_boxes), (SIZES[1:], box_from_xywh)):
            if any(record.get(key) for key in keys):
                forms.append(make([float(record[key] or "nan") for key in keys]))
        frame = None
        if set(FRAME) <= record.keys():
            columns, rows = (float(record[key] or "nan") for key in FRAME)
            frame = (int(rows), int(columns))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not all of it are numbers ({error})") from error
    if not forms or not np.abs(forms).max() < MAX_PIXELS or (frame and not 1 <= min(frame) <= max(frame) < MAX_PIXELS):
        raise ValueError("an edge or the frame is missing, not finite or beyond every image")
    box = forms[0]
    if not (box[2] > box[0] and box[3] > box[1]):
        raise ValueError(f"it is empty or turned inside out: {_words(box)}")
    if min(box[2] - box[0], box[3] - box[1]) < 1:
        raise ValueError(f"it is less than a pixel wide or high: {_words(box)}; edges are given in pixels, no shares")
    if np.abs(forms[-1] - box).max() > 1:
        raise ValueError(f"its corners ({_words(box)}) and its size say different things; leave one of them out")
    return tuple(box), frame


def _words(box) -> str:
    return ", ".join(f"{edge} {value:g}" for edge, value in zip(EDGES, box, strict=True))


# ---------------------------------------------------------------- all of it


def prepare_npy(
    folder: str | Path, out: str | Path, size: int, seed: int = 0, validation_share: float = 0.2
) -> Prepared:
    """Turn a folder of ``.npy`` images into the processed folder that :class:`cardiac_dataset.CardiacDataset` serves.

    Images in ``train/`` and ``val/`` keep to their sides; otherwise the split is by patient. Images of any size are
    resized to a square with their boxes.

    Parameters
    ----------
    folder, out : path
        The images; where the processed files go, ``skipped.csv`` among them.
    size : int
        Side of the square image, in pixels.
    seed, validation_share
        See :func:`heartbox.data.splits.split_by_patient`; without effect where the folders say the split.

    Returns
    -------
    Prepared
        Labels, statistics and what was skipped, as written.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`list_npy_films`, and if no image can be used or one side of the split is empty.
    """
    folder = Path(folder)
    keep_apart(folder, out)
    films, found = list_npy_films(folder)
    problems = [Problem(name, reason.partition(":")[0], reason) for name, reason in found]
    used: list[NpyImage] = []

    def read() -> Iterator[ProcessedXRay]:
        for film in films:
            try:
                ready = _prepare_film(film, size)
            except (ValueError, OSError) as error:
                problems.append(Problem(film.name, str(error).partition(":")[0], str(error)))
                continue
            used.append(film)
            yield ready

    try:
        labels, stats, pale = write_processed(
            out,
            read(),
            lambda _: _split(used, Path(folder), seed, validation_share),
            size,
            {"layout": "npy", "seed": seed},
            problems,
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return Prepared(Path(out), labels, stats, pd.DataFrame(problems, columns=Problem._fields), pale)


def _prepare_film(film: NpyImage, size: int) -> ProcessedXRay:
    image = read_npy(film.path)
    if fault := shows_nothing(image):
        raise ValueError(f"pixels: {fault}; save the film itself")
    frame = film.frame or image.shape
    box = clip_boxes(film.box, frame)
    over = np.abs(box - film.box).max()
    # A per cent over the border is rounding; more is a mistake that clipping would hide.
    if over > ROUNDING * max(frame):
        shape = f"{frame[1]} x {frame[0]}"
        raise ValueError(f"box: it reaches {math.ceil(over)} px over the border of {shape}: {_words(film.box)}")
    record = {"name": film.name, "source": "npy", "rows": image.shape[0], "columns": image.shape[1]}
    record |= dict(zip(BOX_COLUMNS[:4], scale_boxes(box, frame, (size, size)), strict=True))
    small = resize_xray(image, size)
    return ProcessedXRay(small.astype(np.float16), record, film.patient, low_contrast=has_low_contrast(small))


def _side(path: Path, folder: Path) -> str:
    """Return the side that a folder on the way from `folder` to the file names, or "unused"."""
    named = [SIDES[part.lower()] for part in path.relative_to(folder).parent.parts if part.lower() in SIDES]
    return named[-1] if named else "unused"


def _split(films: list[NpyImage], folder: Path, seed: int, share: float) -> tuple[list[str], str]:
    """Return the side of each film ("unused" to leave it out) and the name of the rule that decided."""
    sides = [_side(film.path, folder) for film in films]
    if not {"train", "val"} <= set(sides):
        if set(sides) != {"unused"}:
            raise ValueError("only one of train/ and val/ holds an image that can be used; fill the other, or neither")
        split = split_by_patient([film.patient for film in films], ["npy"] * len(films), seed, share)
        return split, f"by patient, seed {seed}"
    validating = {film.patient for film, side in zip(films, sides, strict=True) if side == "val"}
    # A patient on both sides would make the measurement too good; training gives way.
    pairs = zip(films, sides, strict=True)
    sides = ["unused" if side == "train" and film.patient in validating else side for film, side in pairs]
    if "train" not in sides:
        raise ValueError("every patient of train/ is in val/ too: no film is left to train on")
    return sides, "given: the folders train/ and val/"
