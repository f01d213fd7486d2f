"""What several test modules share: made films, small processed folders, notebooks run as their users run them."""

import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import imagecodecs
import nbformat
import numpy as np
import pandas as pd
import pydicom
import torch
from answers import ALSO_RIGHT, NOTEBOOKS, WRONG
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cardiac_dataset import CardiacDataset
from companions.atrium.data import AtriumVolume, check_volume
from heartbox.data.store import outlines_and_coverage
from heartbox.training.loop import fit
from heartbox.training.recipes import BoxTask, Recipe, make_model

ROOT = Path(__file__).resolve().parent.parent
COMPANIONS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "companions").glob("*.ipynb"))
# A proxy that does not exist: whatever asks the network fails at once, so that nothing can depend on it unnoticed.
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def copy_project(folder: Path, notebooks=NOTEBOOKS) -> Path:
    """Copy the notebooks and what the README says belongs beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "heartbox", folder / "heartbox", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "weights", folder / "weights")
    for name in ["cardiac_dataset.py", *notebooks]:
        shutil.copy(ROOT / name, folder)
    return folder


def copy_companion(folder: Path) -> Path:
    """Copy the companions and what they need beside them."""
    copy_project(folder, [])
    shutil.copytree(ROOT / "companions", folder / "companions", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def user_environment(**variables) -> dict[str, str]:
    """Return the environment of somebody who runs a notebook in fast mode, with no way to the network.

    MPLBACKEND, which the tests set to draw without a screen, would keep a notebook's pictures from being shown.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CARDIAC_") and k != "MPLBACKEND"}
    return kept | {"CARDIAC_FAST": "1"} | OFFLINE | variables


HANGS = 3600  # s; against hangs only: four times what all notebooks together take on a busy machine


def execute(folder: Path, notebooks, **variables) -> subprocess.CompletedProcess:
    """Run notebooks in place with the README's command."""
    environment = user_environment(**variables)
    command = [sys.executable, "-m", "jupyter", "execute", "--inplace", *notebooks]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGS)


def output_of(path: Path) -> str:
    """All the text that a notebook printed."""
    outputs = [out for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", [])]
    return "\n".join(out.get("text", "") or str(out.get("data", {}).get("text/plain", "")) for out in outputs)


def exercises_of(notebook) -> dict[str, list]:
    """Return the cells of each exercise, in their order."""
    found: dict[str, list] = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if re.fullmatch(r"exercise-\d", tag):
                found.setdefault(tag, []).append(cell)
    return found


def solution_code(cell) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", cell.source, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1, cell.source
    return blocks[0].rstrip()


def solve(path: Path) -> None:
    """Put each solution in place of its answer; after it, check the answers of ``answers``, in cells tagged alike."""
    notebook = nbformat.read(path, 4)
    name = next(name for name in WRONG if path.as_posix().endswith(name))
    for exercise, (_, answer, check, solution) in exercises_of(notebook).items():
        answer.source = solution_code(solution)
        further = [
            nbformat.v4.new_code_cell(f"{code}\n{check.source}", metadata={"tags": [tag]})
            for tag, table in (("also-right", ALSO_RIGHT), ("wrong", WRONG))
            for code in table[name].get(exercise, ())
        ]
        after = notebook.cells.index(check) + 1
        notebook.cells[after:after] = further
    nbformat.write(notebook, path)


def draw_disc(size: int, centre: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
    """Return an ellipse of ones on zeros, with borders that are smooth to a part of a pixel."""
    fine = 8
    y, x = (np.mgrid[: size * fine, : size * fine] + 0.5) / fine
    inside = ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 <= 1
    return inside.reshape(size, fine, size, fine).mean(axis=(1, 3)).astype(np.float32)


def write_processed(
    folder: Path, train: int, val: int, size: int = 64, thorax: bool = True, masks: bool = False
) -> Path:
    """Write a processed folder of bright ellipses on noise, whose boxes are known."""
    rng = np.random.default_rng(0)
    images, rows, truths = [], [], []
    for i in range(train + val):
        centre = rng.uniform(0.4, 0.6, 2) * size
        half = rng.uniform(0.12, 0.28, 2) * size
        images.append(0.7 * draw_disc(size, tuple(centre), tuple(half)) + rng.uniform(0, 0.2, (size, size)))
        box = [*(centre - half), *(centre + half)]
        chest = [2.0, 3.0, size - 2.0, size - 3.0] if thorax else [np.nan] * 4
        rows.append([f"film-{i:03d}", "made", "train" if i < train else "val", *box, *chest, size, size, ""])
        whole = np.zeros((2 * size, 2 * size), dtype=bool)
        whole[6 : 2 * size - 6, 4 : 2 * size - 4] = True
        heart = draw_disc(2 * size, tuple(2 * centre), tuple(2 * half)) > 0.5
        truths.append(outlines_and_coverage([[heart], [whole]], size))
    edges = ("x_min", "y_min", "x_max", "y_max")
    columns = [f"{target}_{edge}" for target in ("heart", "thorax") for edge in edges]
    columns = ["name", "source", "split", *columns, "rows", "columns", "pixel_spacing"]
    folder.mkdir(parents=True, exist_ok=True)
    stack = np.array(images, dtype=np.float16)
    np.save(folder / "images.npy", stack)
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels.csv", index=False)
    patients = {"name": [row[0] for row in rows], "patient": range(len(rows))}
    pd.DataFrame(patients).to_csv(folder / "patients.csv", index=False)
    if masks:
        np.save(folder / "outlines.npy", np.stack([outlines for outlines, _ in truths]))
        np.save(folder / "masks.npy", np.stack([coverage for _, coverage in truths]))
    part = stack[:train].astype(np.float64)
    stats = {"mean": part.mean(), "std": part.std(), "size": size, "layout": "made", "seed": 0, "split": "made"}
    stats["counts"] = {"train": train, "val": val, "skipped": 0, "low_contrast": 0}
    (folder / "stats.json").write_text(json.dumps(stats))
    return folder


ATRIUM_SPACING = (1.37, 1.25, 1.30)  # slices, rows, columns: all different, so that a mix-up is seen


def make_atrium(seed: int = 0, shape: tuple[int, int, int] = (6, 20, 24)) -> tuple[np.ndarray, np.ndarray]:
    """Return a heart MRI without symmetry and a block as its mask."""
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(0, 200, shape).astype(np.int16), np.zeros(shape, dtype=np.uint8)
    mask[1:5, 6:12, 8 + seed % 3 : 16] = 1
    image[mask > 0] += 300
    return image, mask


def make_atrium_volumes(count: int = 6) -> list[AtriumVolume]:
    return [check_volume(f"s{i}", *make_atrium(i), ATRIUM_SPACING) for i in range(count)]


def write_npy_folder(folder: Path, shape=(40, 48), subfolders=("",), columns: str = "corners") -> Path:
    """Write eight images of noise as .npy files with a csv of boxes, as the VGG16 companion reads them."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(8):
        target = folder / "images" / subfolders[i % len(subfolders)]
        target.mkdir(parents=True, exist_ok=True)
        np.save(target / f"film{i}.npy", rng.random(shape).astype(np.float16))
        rows.append({"name": f"film{i}", "x_min": 4 + i, "y_min": 8, "x_max": 24 + i, "y_max": 32})
    table = pd.DataFrame(rows)
    if columns == "sizes":
        table = table.assign(x0=table.x_min, y0=table.y_min, w=20, h=24)[["name", "x0", "y0", "w", "h"]]
    table.to_csv(folder / "boxes.csv", index=False)
    return folder


def change_first_row(folder: Path, **columns) -> None:
    """Change values in the first row of that csv."""
    table = pd.read_csv(folder / "boxes.csv").assign(label="heart").astype(object)
    for column, value in columns.items():
        table.loc[0, column] = value
    table.to_csv(folder / "boxes.csv", index=False)


UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


BY_PYDICOM = (RLELossless, JPEGLSLossless, JPEG2000Lossless)


# What may differ in the image, in [0, 1]: nothing for what is lossless.
ENCODERS = {
    JPEGBaseline8Bit: (8, functools.partial(imagecodecs.jpeg_encode, level=95), 0.03),
    JPEGExtended12Bit: (12, functools.partial(imagecodecs.jpeg_encode, level=95, bitspersample=12), 0.03),
    JPEGLossless: (12, functools.partial(imagecodecs.jpeg_encode, lossless=True, predictor=4, bitspersample=12), 0),
    JPEGLosslessSV1: (12, functools.partial(imagecodecs.jpeg_encode, lossless=True, predictor=1, bitspersample=12), 0),
    JPEGLSNearLossless: (12, functools.partial(imagecodecs.jpegls_encode, level=4), 0.003),
    JPEG2000: (12, functools.partial(imagecodecs.jpeg2k_encode, level=60, codecformat="j2k", bitspersample=12), 0.03),
    HTJ2K: (16, functools.partial(imagecodecs.htj2k_encode, level=0.005, reversible=False), 0.03),
    HTJ2KLossless: (16, functools.partial(imagecodecs.htj2k_encode, reversible=True), 0),
    HTJ2KLosslessRPCL: (16, functools.partial(imagecodecs.htj2k_encode, reversible=True), 0),
}


def at_depth(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Return 12-bit values as values of 8, 12 or 16 bits."""
    return {8: (pixels >> 4).astype(np.uint8), 12: pixels, 16: pixels << 4}[bits]


def film_of(pixels: np.ndarray, bits: int) -> pydicom.Dataset:
    film = pydicom.Dataset()
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = film.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    film.Modality, film.PhotometricInterpretation, film.SamplesPerPixel = "DX", "MONOCHROME2", 1
    film.Rows, film.Columns = pixels.shape
    film.BitsAllocated, film.BitsStored, film.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    film.PixelRepresentation = 0
    film.PixelData = pixels.tobytes()
    film["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    # A window over the whole range, so that a lossy extreme does not stretch the others.
    film.WindowCenter, film.WindowWidth, film.VOILUTFunction = (2**bits - 1) / 2, 2**bits - 1, "LINEAR_EXACT"
    return film


def encoded(pixels: np.ndarray, syntax: pydicom.uid.UID) -> tuple[bytes, int, float]:
    """Return a file in that transfer syntax, the bits of its samples and how far the image may be off."""
    bits, encode, tolerance = ENCODERS.get(syntax, (12, None, 0))
    stored = at_depth(pixels, bits)
    film = film_of(stored, bits)
    if syntax in BY_PYDICOM:
        film.compress(syntax, generate_instance_uid=False)
    elif encode:
        film.PixelData = encapsulate([encode(stored)])
        film["PixelData"].VR = "OB"
        film.file_meta.TransferSyntaxUID = syntax
    else:
        film.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            film.PixelData = stored.astype(">u2").tobytes()
    stream = io.BytesIO()
    film.save_as(stream, enforce_file_format=True)
    return stream.getvalue(), bits, tolerance


def same_weights(first: dict, second: dict) -> bool:
    """Tell whether two state dicts are the same to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


SMALL = Recipe(epochs=3, batch_size=8)


def train_small(processed: Path, folder: Path, recipe: Recipe = SMALL, seed: int = 0, **options):
    has_masks = CardiacDataset.has_masks(processed)
    rule = recipe.rule if has_masks or recipe.rule != "mask" else "ellipse"
    masks = has_masks and bool(recipe.mask_weight)
    train = CardiacDataset(processed, "train", recipe.augment, recipe.targets, rule, masks)
    val = CardiacDataset(processed, "val", targets=recipe.targets)
    torch.manual_seed(seed)
    model = make_model(recipe, train)
    options = {"progress": False} | options
    history = fit(model, train, val, BoxTask(recipe), folder, seed, device="cpu", **options)
    return model, history
