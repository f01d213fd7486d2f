"""Files of heart MRI: the layout of a folder is recognised, its volumes are read, and every fault is named.

Two layouts: the Medical Segmentation Decathlon's Task02_Heart as downloaded, and a folder of ``.npz`` files. Knows
nibabel and NumPy's files; what makes a volume usable is in :mod:`companions.atrium.data`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from companions.atrium.data import AtriumVolume, check_volume
from heartbox.data.reading import unexpected_problem
from heartbox.data.tables import ItemError, Problem
from heartbox.utils.parallel import failure_of

TASK02_SPACING = (1.37, 1.25, 1.25)  # mm between slices, rows and columns in the Decathlon's heart MRI
EXPECTED = (
    "imagesTr/*.nii.gz and labelsTr/*.nii.gz, as in the unpacked Task02_Heart, or *.npz files with the arrays image "
    "and mask"
)


# ---------------------------------------------------------------- one file


class NiftiVolume(NamedTuple):
    """What a NIfTI file holds, with its axes turned to right, anterior, superior.

    Attributes
    ----------
    voxels : ndarray, shape (slices, rows, columns)
        The third, first and second axis of the turned volume.
    spacing : tuple of float
        Millimetres between slices, rows and columns.
    axes : tuple of str
        The directions of the axes as stored in the file.
    corners : ndarray, shape (2, 3)
        Where the turned volume begins and ends in the scanner's coordinates, in mm.
    """

    voxels: NDArray
    spacing: tuple[float, float, float]
    axes: tuple[str, ...]
    corners: NDArray


def read_nifti(path: str | Path) -> NiftiVolume:
    """Read a ``.nii`` or ``.nii.gz`` volume and turn its axes to right, anterior and superior (RAS+) by its header.

    Raises
    ------
    ItemError
        If the file cannot be read to its end, or does not hold a single 3-D volume.
    """
    try:
        stored = nib.load(path)
        turned = nib.as_closest_canonical(stored)
        voxels = np.asarray(turned.dataobj)
    except Exception as error:  # nibabel, gzip and NumPy have an exception for each kind of damage
        raise _unreadable(Path(path), error) from error
    voxels = voxels[..., 0] if voxels.ndim == 4 and voxels.shape[3] == 1 else voxels
    if voxels.ndim != 3:
        raise ItemError("pixels", f"holds an array of shape {voxels.shape}: expected one volume with three axes")
    x, y, z = (float(mm) for mm in nib.affines.voxel_sizes(turned.affine))
    corners = nib.affines.apply_affine(turned.affine, [[0, 0, 0], voxels.shape])
    return NiftiVolume(voxels.transpose(2, 0, 1), (z, x, y), nib.aff2axcodes(stored.affine), corners)


def read_pair(image_path: Path, label_path: Path) -> AtriumVolume:
    """Read an image and its label, and check that they belong together.

    Raises
    ------
    ItemError
        If one of them is damaged, if they differ in shape or position, or if they are not usable
        (:func:`companions.atrium.data.check_volume`).
    """
    image = read_nifti(image_path)
    try:
        label = read_nifti(label_path)
    except ItemError as error:
        raise ItemError(error.kind, f"its label {error}") from error
    distance = float(np.abs(image.corners - label.corners).max())
    # Beyond half a voxel the mask lies beside the atrium. Different shapes are reported by check_volume.
    if label.voxels.shape == image.voxels.shape and distance > 0.5 * min(image.spacing):
        raise ItemError(
            "contradiction",
            f"the headers of image and label place them up to {distance:.1f} mm apart: one of the two is wrong",
        )
    return check_volume(_stem(image_path), image.voxels, label.voxels, image.spacing, image.axes)


def read_npz(path: Path) -> AtriumVolume:
    """Read a volume from an ``.npz`` file with the arrays `image` and `mask`, both (slices, rows, columns).

    An array `spacing` (3 values in mm) is used if present; otherwise the voxel size of Task02_Heart is assumed.

    Raises
    ------
    ItemError
        As :func:`read_pair`.
    """
    try:
        # Opened here, so that the file is closed even if NumPy gives up on it.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [key for key in ("image", "mask") if key not in file]
            arrays = {key: file[key] for key in file}
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    if missing:
        raise ItemError("unreadable", f"has no array named {' or '.join(missing)}: expected image and mask")
    spacing = np.ravel(arrays.get("spacing", TASK02_SPACING))
    if spacing.dtype.kind not in "iuf":
        raise ItemError("spacing", f"the spacing is {spacing.tolist()}: expected three numbers in mm")
    return check_volume(_stem(path), arrays["image"], arrays["mask"], spacing.tolist())


def _unreadable(path: Path, error: Exception) -> ItemError:
    """Translate what a library raised into what is wrong with the file and what to do."""
    if path.is_dir():
        return ItemError("unreadable", "is a folder: expected a single file of this name")
    if path.is_symlink() and not path.exists():
        return ItemError("unreadable", "is a link to a missing file")
    if isinstance(error, HeaderDataError | OrientationError):
        return ItemError("unreadable", f"has a header without a usable orientation ({error}): export it again")
    if "pickle" in str(error):
        return ItemError(
            "pickled",
            "holds pickled Python objects, which can run code when they are read, so it is not read: save image and "
            "mask again as plain numeric arrays",
        )
    reason = f"cannot be read ({type(error).__name__}): the file is damaged or cut off, download it again"
    return ItemError("unreadable", reason)


def _stem(path: Path) -> str:
    return re.sub(r"(\.nii(\.gz)?|\.npz)$", "", path.name)


# ---------------------------------------------------------------- a folder of them


def recognise_layout(folder: str | Path) -> str | None:
    """Return the layout of a folder, or of the Task02_Heart in it: ``"decathlon"``, ``"npz"``, or None."""
    folder = Path(folder)
    if _decathlon_folder(folder):
        return "decathlon"
    return "npz" if any(folder.glob("*.npz")) else None


def _decathlon_folder(folder: Path) -> Path | None:
    for candidate in (folder, folder / "Task02_Heart"):
        if (candidate / "imagesTr").is_dir() and (candidate / "labelsTr").is_dir():
            return candidate
    return None


def load_volumes(
    folder: str | Path, limit: int | None = None, log: str | Path | None = None
) -> tuple[list[AtriumVolume], list[Problem]]:
    """Read every volume of a folder; a volume that cannot be used is skipped and reported.

    Parameters
    ----------
    folder : path
        In one of the two layouts, see :func:`recognise_layout`.
    limit : int, optional
        Read only this many, the first ones.
    log : path, optional
        A file for the tracebacks of unexpected errors.

    Returns
    -------
    tuple of list
        The volumes in the order of their names, and the problems.

    Raises
    ------
    FileNotFoundError
        If the folder has neither layout, or holds no file.
    ValueError
        If no volume can be used.
    """
    folder = Path(folder)
    layout = recognise_layout(folder)
    if layout is None:
        raise FileNotFoundError(f"{folder.as_posix()} holds no heart MRI. Expected there: {EXPECTED}")
    problems: list[Problem] = []
    if layout == "npz":
        readers = {path.name: functools.partial(read_npz, path) for path in _visible(folder, "*.npz")}
    else:
        readers, problems = _pairs(_decathlon_folder(folder))
    if not readers and not problems:
        raise FileNotFoundError(f"{folder.as_posix()}: imagesTr/ and labelsTr/ hold no .nii or .nii.gz file")
    volumes = []
    for name, read in list(readers.items())[:limit]:
        try:
            volumes.append(read())
        except ItemError as error:
            problems.append(error.problem(name))
        except Exception as error:  # of a library, for a kind of damage not met before: the other volumes are read
            problems.append(unexpected_problem(name, folder / name, failure_of(error), log))
    volumes = _of_one_spacing(volumes, problems)
    if not volumes:
        first = "; ".join(map(str, problems[:3]))
        raise ValueError(f"{folder.as_posix()}: none of {len(problems)} volumes can be used ({first})")
    return volumes, problems


def _visible(folder: Path, pattern: str) -> list[Path]:
    # The Decathlon's archives were packed on a Mac and hold a "._" companion of every file, which is not a volume.
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _pairs(folder: Path) -> tuple[dict[str, Callable[[], AtriumVolume]], list[Problem]]:
    """Match images and labels by name; return a reader for each pair, and a problem for each file without partner."""
    images, problems = _by_stem(folder, "imagesTr")
    labels, duplicates = _by_stem(folder, "labelsTr")
    problems += duplicates
    for stem in images.keys() - labels.keys():
        file = images[stem].name
        problems.append(Problem(f"imagesTr/{file}", "no label", f"has no label labelsTr/{file}"))
    for stem in labels.keys() - images.keys():
        problems.append(Problem(f"labelsTr/{labels[stem].name}", "no image", "is a label without an image"))
    problems += _listed_but_missing(folder, images.keys() | labels.keys())
    readers = {
        f"imagesTr/{path.name}": functools.partial(read_pair, path, labels[stem])
        for stem, path in images.items()
        if stem in labels
    }
    return readers, sorted(problems)


def _by_stem(folder: Path, part: str) -> tuple[dict[str, Path], list[Problem]]:
    """Return the NIfTI files of one folder by their name without extensions; a second file of a name is a problem."""
    files, problems = {}, []
    for path in _visible(folder / part, "*.nii*"):
        used = files.setdefault(_stem(path), path)
        if used != path:
            reason = f"is a second file with this name; {used.name} is used"
            problems.append(Problem(f"{part}/{path.name}", "duplicate", reason))
    return files, problems


def _listed_but_missing(folder: Path, stems: set[str]) -> list[Problem]:
    """Return a problem for each image that dataset.json lists and that is not there, neither image nor label."""
    try:
        listed = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["training"]
        names = [Path(entry["image"]).name for entry in listed]
    except FileNotFoundError:
        return []  # the volumes alone are enough
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = f"cannot be read ({type(error).__name__}): missing files cannot be detected"
        return [Problem("dataset.json", "unreadable", reason)]
    absent = (name for name in names if _stem(Path(name)) not in stems)
    return [Problem(f"imagesTr/{name}", "no image", "is listed in dataset.json but missing") for name in absent]


def _of_one_spacing(volumes: list[AtriumVolume], problems: list[Problem]) -> list[AtriumVolume]:
    """Leave out volumes whose voxel size differs from the commonest by over a tenth: a pixel means another length."""
    if not volumes:
        return []
    spacings = [volume.spacing for volume in volumes]
    usual = max(spacings, key=lambda spacing: sum(np.allclose(other, spacing, rtol=0.1) for other in spacings))
    fitting = []
    for volume in volumes:
        if np.allclose(volume.spacing, usual, rtol=0.1):
            fitting.append(volume)
        else:
            here, most = (" x ".join(f"{mm:.2f}" for mm in spacing) for spacing in (volume.spacing, usual))
            reason = f"its voxels are {here} mm, most are {most} mm: resample it to that size first"
            problems.append(Problem(volume.name, "spacing", reason))
    return fitting
