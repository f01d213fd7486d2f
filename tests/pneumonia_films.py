"""Small made folders of labelled chest films, for the tests of the pneumonia companion."""

import dataclasses
import functools
from pathlib import Path

import cv2
import numpy as np

from companions.pneumonia import data, layouts
from heartbox.phantom import render, sample_subject
from heartbox.phantom.dicom import dataset

RSNA_HEAD = "patientId,x,y,width,height,Target"
NOTEBOOK = "companions/Pneumonia-Classification.ipynb"


@functools.cache
def phantom():
    return render(sample_subject(0, 0), 64)


def write_dicom(path, seed: int, view: str = "PA", photometric: str = "MONOCHROME2", bits: int = 8) -> np.ndarray:
    """Write a DICOM of 40 x 50 pixels of noise and return what it shows, in [0, 1]."""
    subject = dataclasses.replace(phantom().subject, view=view, photometric=photometric, bits=bits)
    film = dataset(dataclasses.replace(phantom(), subject=subject))
    stored = np.random.default_rng(seed).integers(0, 2**bits, (40, 50))
    film.Rows, film.Columns = stored.shape
    film.WindowCenter, film.WindowWidth = 2 ** (bits - 1), 2**bits
    film.PatientID = path.stem
    film.PixelData = stored.astype(np.uint8 if bits == 8 else "<u2").tobytes()
    film.save_as(path, enforce_file_format=True)
    shown = stored / (2**bits - 1)
    return 1 - shown if photometric == "MONOCHROME1" else shown


def make_rsna(folder: Path) -> Path:
    """Write eight films in RSNA's layout: a, b, c and d with pneumonia, b with two boxes."""
    images = folder / layouts.RSNA_IMAGES
    images.mkdir(parents=True)
    for i, name in enumerate("abcdefgh"):
        write_dicom(images / f"{name}.dcm", i, "AP" if name in "abce" else "PA")
    rows = ["a,5,4,10,20,1", "b,0,0,25,20,1", "b,30,10,20,10,1", "c,5,4,10,20,1", "d,5,4,10,20,1"]
    write_rsna(folder, rows + [f"{name},,,,,0" for name in "efgh"])
    return folder


def write_rsna(folder, rows) -> None:
    (folder / layouts.RSNA_LABELS).write_text("\n".join([RSNA_HEAD, *rows]) + "\n")


def rsna_rows(folder) -> list[str]:
    return (folder / layouts.RSNA_LABELS).read_text().splitlines()[1:]


def make_nih(folder: Path) -> Path:
    """Write six films of three patients in the layout of the NIH films."""
    films = ((1, 0, "no finding"), (1, 7, "pneumonia"), (2, 0, "pneumonia"), (2, 1, "pneumonia"),
             (3, 0, "no finding"), (3, 1, "no finding"))  # fmt: skip
    rows = []
    for patient, film, label in films:
        rows.append((f"{patient:08d}_{film:03d}.jpg", label, "Lung Opacity" if (patient, film) == (2, 0) else ""))
    write_nih(folder, rows)
    (folder / layouts.NIH_BOXES).write_text("file,x,y,width,height\n00000002_000.jpg,128,256,64,128\n")
    return folder


def write_nih(folder: Path, rows, brighter: int = 0) -> None:
    """Write films of noise and their labels: pairs or triples of name, label and RSNA's class.

    Films with pneumonia are brighter by `brighter` grey levels of 255.
    """
    (folder / layouts.NIH_IMAGES).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["file,nih_label,rsna_id,rsna_class"]
    for name, label, *reader_class in rows:
        noise = rng.integers(0, 256 - brighter, (64, 64)) + brighter * (label == "pneumonia")
        cv2.imwrite(str(folder / layouts.NIH_IMAGES / name), noise.astype(np.uint8))
        lines.append(f"{name},{label},,{reader_class[0] if reader_class else ''}")
    (folder / layouts.NIH_LABELS).write_text("\n".join(lines) + "\n")


def prepare_quietly(folder, out, **more) -> data.Prepared:
    return data.prepare(folder, out, processes=1, progress=False, **more)


def problems_of(folder, kind: str) -> list[tuple[str, str]]:
    """Return name and reason of the problems of one kind."""
    return [(problem.name, problem.reason) for problem in layouts.list_xrays(folder)[1] if problem.kind == kind]
