"""Synthetic heart MRI: a chest of ellipsoids and tubes, in which every voxel of the left atrium is known.

The embedded sample of Atrium-Segmentation.ipynb, written in the layout of Task02_Heart: NIfTI files with a
``dataset.json``. Simpler than any patient. Knows NumPy, SciPy and nibabel; no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage

SHAPE = (44, 96, 96)  # slices from one side to the other, rows from back to front, columns from feet to head
SPACING = (2.74, 2.5, 2.5)  # mm: twice those of Task02_Heart, so that a class can train in minutes
STORED_AXES = (("R", "A", "S"), ("L", "P", "S"), ("P", "S", "R"))  # software stores volumes in different ways


def write_sample(folder: str | Path, count: int = 20, seed: int = 0) -> Path:
    """Write synthetic volumes in the layout of Task02_Heart, all of them or none; an existing folder is kept.

    As in that dataset, the header calls the axes right, anterior and superior although the slices are sagittal. Two
    of three volumes are stored with their axes turned or permuted, which a program that respects the header does not
    notice.

    Parameters
    ----------
    folder : path
        Where the volumes go.
    count : int
        Number of volumes.
    seed : int
        Seed of every heart.

    Returns
    -------
    Path
        `folder`.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped
    listed = []
    for subfolder in ("imagesTr", "labelsTr"):
        (part / subfolder).mkdir(parents=True)
    for index in range(count):
        image, mask = make_phantom(seed, index)
        name = f"la_{index:03d}.nii.gz"
        for subfolder, array in (("imagesTr", image), ("labelsTr", mask.astype(np.uint8))):
            nib.save(_as_nifti(array, STORED_AXES[index % len(STORED_AXES)]), part / subfolder / name)
        listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    about = {"name": "synthetic left atria", "labels": {"0": "background", "1": "left atrium"}}
    about |= {"modality": {"0": "MRI"}, "numTraining": count, "training": listed}
    (part / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return part.rename(folder)


def _as_nifti(volume: NDArray, axes: Sequence[str]) -> nib.Nifti1Image:
    """Return a NIfTI image of an array (slices, rows, columns), stored along `axes`."""
    affine = np.diag([SPACING[1], SPACING[2], SPACING[0], 1.0])
    affine[:3, 3] = [-120.0, -120.0, -60.0]
    image = nib.Nifti1Image(volume.transpose(1, 2, 0), affine)
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(axes)))


def make_phantom(seed: int, index: int) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Compute the image and mask of one subject.

    Parameters
    ----------
    seed, index : int
        The same pair gives the same heart.

    Returns
    -------
    image : ndarray of int16, shape (slices, rows, columns)
        In arbitrary units, which differ between subjects as a scanner's do.
    mask : ndarray of bool
        The left atrium with the beginning of its pulmonary veins.
    """
    rng = np.random.default_rng([seed, index])
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))  # mm from the centre
    size = rng.uniform(0.86, 1.16)  # of the heart
    shift = np.array([0.0, -16.0, 12.0]) + rng.normal(0, 6, 3)  # position of the heart in mm: towards back and head

    def near(point: Sequence[float], jitter: float = 3.0) -> NDArray:
        return shift + size * (np.asarray(point, dtype=float) + rng.normal(0, jitter, 3))

    def radii(*mm: float) -> NDArray:
        return size * np.array(mm) * rng.uniform(0.9, 1.1, 3)

    centre = near((0, 0, 0), 1.0)
    atrium = _ellipsoid(grid, centre, radii(31, 20, 26)) + 0.12 * _bumps(rng)
    ventricle = _ellipsoid(grid, near((16, 42, -24)), radii(30, 27, 36))
    wall = _ellipsoid(grid, near((16, 42, -24), 0), radii(39, 36, 45))
    right = _ellipsoid(grid, near((-28, 24, -14)), radii(20, 22, 28))
    aorta = _tube(grid, near((2, 22, 8)), near((-8, 30, 70)), 12 * size)
    artery = _tube(grid, near((-50, 10, 40)), near((50, 16, 42)), 9 * size)
    back = _tube(grid, shift + [10 + rng.normal(0, 4), -36, -130], shift + [6, -34, 130], rng.uniform(9, 12))
    spine = _tube(grid, np.array([0, shift[1] - 62, -130]), np.array([0, shift[1] - 62, 130]), 17)
    liver = _ellipsoid(grid, shift + [-15, 25, -95 + rng.normal(0, 5)], np.array([70, 60, 48]))
    mask, veins = atrium > 0, np.zeros(SHAPE, dtype=bool)
    for side in (-1, 1):
        for height in (-1, 1):
            away = near((58 * side, -12, 20 * height + 4), 4.0)
            vein = _tube(grid, centre, away, rng.uniform(5.0, 7.5)) > 0
            reach = np.linalg.norm(grid - centre[:, None, None, None], axis=0)
            veins |= vein
            mask |= vein & (reach < rng.uniform(36, 42) * size)  # annotators stop a little way into the vein
    mask &= ~(ventricle > 0)

    image = np.full(SHAPE, 0.02)
    body = ((grid[1] + 5) / 100) ** 2 + (grid[2] / 400) ** 2 < 1
    image[body] = 0.12
    image[body & (np.abs(grid[0] - shift[0]) > 34)] = 0.05  # lung on both sides
    for region, grey in ((liver > 0, 0.33), (spine > 0, 0.17), (wall > 0, 0.30)):
        image[region] = grey
    image[(atrium > -0.10) | (right > -0.12)] = 0.22  # their thin walls
    blood = rng.uniform(0.60, 0.75)  # bright, and nearly the same everywhere
    for region in (right > 0, ventricle > 0, aorta > 0, artery > 0, back > 0, veins | mask):
        image[region] = blood + rng.normal(0, 0.03)
    image += 0.035 * _bumps(rng, 2.0)
    image = ndimage.gaussian_filter(image, 0.6) * (1 + 0.25 * _bumps(rng, 14.0))  # shading by the coils
    noise = rng.normal(0, 0.035, (2, *SHAPE))
    image = np.hypot(image + noise[0], noise[1])  # the magnitude of a noisy complex signal (Rician)
    return np.rint(image * rng.uniform(500, 1500)).astype(np.int16), mask


def _ellipsoid(grid: NDArray, centre: NDArray, radii: NDArray) -> NDArray:
    """Positive inside, 0 on the surface, -1 at twice the radius."""
    return 1 - np.sqrt((((grid - centre[:, None, None, None]) / radii[:, None, None, None]) ** 2).sum(axis=0))


def _tube(grid: NDArray, start: NDArray, end: NDArray, radius: float) -> NDArray:
    """Positive within `radius` mm of the straight line from start to end."""
    start, end = (np.asarray(point, dtype=float)[:, None, None, None] for point in (start, end))
    along = ((grid - start) * (end - start)).sum(axis=0) / ((end - start) ** 2).sum()
    away = grid - (start + np.clip(along, 0, 1) * (end - start))
    return 1 - np.sqrt((away**2).sum(axis=0)) / radius


def _bumps(rng: np.random.Generator, width: float = 5.0) -> NDArray:
    """Draw a smooth random field of mean 0 and standard deviation 1, with structures of about `width` voxels."""
    field = ndimage.gaussian_filter(rng.standard_normal(SHAPE), width, mode="wrap")
    return (field - field.mean()) / field.std()
