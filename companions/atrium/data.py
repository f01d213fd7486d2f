"""Heart MRI volumes with masks of the left atrium: found, read, checked, and split by patient.

Two layouts: the Medical Segmentation Decathlon's Task02_Heart as it is downloaded, and a folder of ``.npz`` subjects.
Knows nibabel and NumPy; no torch, no drawing.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

# What reading a damaged file may raise, in the zip, the gzip and the NIfTI libraries.
DAMAGE = (
    OSError, EOFError, ValueError, KeyError, TypeError, MemoryError, zlib.error, zipfile.BadZipFile, ImageFileError,
    HeaderDataError, OrientationError,
)  # fmt: skip
TASK02_SPACING = (1.37, 1.25, 1.25)  # mm from slice to slice, row to row, column to column: the Decathlon's heart MRI
EXPECTED = (
    "imagesTr/*.nii.gz and labelsTr/*.nii.gz, as in the unpacked Task02_Heart, or subjects as *.npz files with the "
    "arrays image and mask"
)
SPACINGS = (0.1, 20.0)  # mm; what lies outside was given in another unit
LARGEST_SHARE = 0.5  # of a volume that its mask may cover; of the Decathlon's an atrium is 1 to 2 %
FIELD = 256  # pixels: 320 less 32 on each side, the crop of the published exercise


class VolumeError(ValueError):
    """A volume that cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class AtriumVolume:
    """One heart and its mask; all arrays are (slices, rows, columns).

    Attributes
    ----------
    name : str
        The file's name without its endings.
    image : ndarray of float16
        In [0, 1], see :func:`normalise`.
    mask : ndarray of bool
        The left atrium.
    spacing : tuple of float
        Millimetres from slice to slice, row to row and column to column.
    axes : tuple of str
        How the file was stored before it was turned: what the first, second and third axis pointed to, such as
        ``("R", "A", "S")`` for right, anterior, superior; nothing for a file that does not say.
    """

    name: str
    image: NDArray[np.float16]
    mask: NDArray[np.bool_]
    spacing: tuple[float, float, float]
    axes: tuple[str, ...] = ()

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres: the product of its sides in mm, and 1000 cubic mm are 1 mL."""
        return float(np.prod(self.spacing)) / 1000

    @property
    def volume_ml(self) -> float:
        """Volume of the labelled atrium in millilitres."""
        return float(self.mask.sum()) * self.voxel_ml


# ---------------------------------------------------------------- reading one file


def read_nifti(path: str | Path) -> tuple[NDArray, tuple[float, float, float], tuple[str, ...], NDArray]:
    """Read a NIfTI volume and turn it so that its axes point right, anterior and superior (RAS+), by its header.

    Parameters
    ----------
    path : path
        A ``.nii`` or ``.nii.gz`` file.

    Returns
    -------
    voxels : ndarray
        As (slices, rows, columns), which are the third, first and second axis of the turned volume.
    spacing : tuple of float
        Millimetres between them, in the same order.
    axes : tuple of str
        What the axes pointed to as they were stored.
    corners : ndarray, shape (2, 3)
        Where in the scanner, in mm, the turned volume begins and ends.

    Raises
    ------
    VolumeError
        If the file cannot be read to its end, or is no single volume.
    """
    try:
        stored = nib.load(path)
        turned = nib.as_closest_canonical(stored)
        voxels = np.asarray(turned.dataobj)
    except DAMAGE as error:
        raise _unreadable(Path(path), error) from error
    voxels = voxels[..., 0] if voxels.ndim == 4 and voxels.shape[3] == 1 else voxels
    if voxels.ndim != 3:
        raise VolumeError(f"holds an array of shape {voxels.shape}; one volume of three axes is wanted")
    x, y, z = (float(side) for side in nib.affines.voxel_sizes(turned.affine))
    corners = nib.affines.apply_affine(turned.affine, [[0, 0, 0], voxels.shape])
    return voxels.transpose(2, 0, 1), (z, x, y), nib.aff2axcodes(stored.affine), corners


def read_pair(image_path: Path, label_path: Path) -> AtriumVolume:
    """Read an image and its label, check that they belong together, and prepare them.

    Raises
    ------
    VolumeError
        If one is damaged, or they differ in shape or place, or either holds nothing to learn from.
    """
    image, spacing, axes, corners = read_nifti(image_path)
    try:
        label, _, _, label_corners = read_nifti(label_path)
    except VolumeError as error:
        raise VolumeError(f"its label {error}") from error
    away = float(np.abs(corners - label_corners).max())
    # Half a voxel: more, and the mask would lie beside the atrium. Of other shapes `prepare` tells.
    if label.shape == image.shape and away > 0.5 * min(spacing):
        raise VolumeError(f"image and label lie up to {away:.1f} mm apart by their headers: one of them is wrong")
    return prepare(_name(image_path), image, label, spacing, axes)


def read_npz(path: Path) -> AtriumVolume:
    """Read a subject from an ``.npz`` file with the arrays `image` and `mask`, both (slices, rows, columns).

    An array `spacing` (3 values, mm) is taken where there is one; else the voxels are those of Task02_Heart.

    Raises
    ------
    VolumeError
        As :func:`read_pair`.
    """
    try:
        # Opened here, so that it is closed too where NumPy gives up on a damaged file.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [key for key in ("image", "mask") if key not in file]
            parts = {key: file[key] for key in file}
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    if missing:
        raise VolumeError(f"holds no array named {' and none named '.join(missing)}: image and mask are wanted")
    spacing = np.ravel(parts.get("spacing", TASK02_SPACING))
    if spacing.dtype.kind not in "iuf":
        raise VolumeError(f"its spacing is {spacing.tolist()}: three positive numbers in mm are wanted")
    return prepare(_name(path), parts["image"], parts["mask"], spacing.tolist())


def _unreadable(path: Path, error: Exception) -> VolumeError:
    """Say of what a library raised what is wrong with the file, and what helps."""
    if path.is_dir():
        return VolumeError("is a folder: a single file of that name is wanted")
    if path.is_symlink() and not path.exists():
        return VolumeError("is a link to a file that is not there")
    if isinstance(error, HeaderDataError | OrientationError):
        return VolumeError(f"has a header without a usable orientation ({error}): export the volume again")
    if "pickle" in str(error):
        return VolumeError(
            "holds Python objects, which can run code when they are read, so it is not read: save image and mask "
            "again, as plain arrays of numbers"
        )
    return VolumeError(f"cannot be read ({type(error).__name__}): damaged or cut off, fetch it again")


# ---------------------------------------------------------------- preparing


def normalise(image: NDArray) -> NDArray[np.float32]:
    """Bring a volume's grey values to [0, 1]: z-scores over the whole volume, of which -1 to 5 are kept.

    The scanner's numbers have no unit, so each subject is measured in its own mean and standard deviation. Scaling
    the z-scores by their smallest and largest value, as is often done, would undo them: it gives what it would have
    given without them, and one bright voxel would darken a whole heart. Fixed ends keep a z-score's meaning.
    """
    image = np.asarray(image, dtype=np.float32)
    scores = (image - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)
    return ((np.clip(scores, -1, 5) + 1) / 6).astype(np.float32)


def centre(volume: NDArray, side: int = FIELD) -> NDArray:
    """Cut rows and columns down to the middle `side` pixels; a smaller volume stays as it is."""
    rows, columns = (max(0, (n - side) // 2) for n in volume.shape[1:])
    return volume[:, rows : rows + side, columns : columns + side]


def prepare(
    name: str, image: NDArray, label: NDArray, spacing: Sequence[float], axes: tuple[str, ...] = ()
) -> AtriumVolume:
    """Check a volume and its label, cut both to the middle, and normalise the image.

    Cut first, normalise afterwards: the air around the patient would weigh in the mean.

    Raises
    ------
    VolumeError
        If the two differ in shape, the voxels have no size, the image has no contrast or values that are no real
        numbers, or the label is empty, covers most of the volume, or holds anything but 0 and 1.
    """
    if len(spacing) != 3 or not all(0 < side < np.inf for side in spacing):
        raise VolumeError(f"its spacing is {tuple(spacing)}: three positive numbers in mm are wanted")
    if not SPACINGS[0] <= min(spacing) <= max(spacing) <= SPACINGS[1]:
        low, high = SPACINGS
        raise VolumeError(f"its spacing is {tuple(spacing)}: of a heart's MRI it lies between {low} and {high} mm")
    for what, array in (("image", image), ("mask", label)):
        if array.dtype.kind not in "biuf":
            raise VolumeError(f"the {what} is of the type {array.dtype}: numbers, one a voxel, are wanted")
    if image.ndim != 3 or image.shape != label.shape:
        raise VolumeError(f"the image is {image.shape} and its mask {label.shape}: two equal volumes are wanted")
    with np.errstate(over="ignore"):
        if not np.isfinite(image.astype(np.float32)).all():
            raise VolumeError("the image holds values that are no numbers (NaN, infinite or beyond 32 bits)")
    values = np.unique(label)
    if not np.isin(values, (0, 1)).all():
        raise VolumeError(f"its mask holds {', '.join(f'{v:g}' for v in values[:6])}; 0 and 1 (left atrium) are wanted")
    if not values.any():
        raise VolumeError("its mask is empty: no voxel is labelled as left atrium")
    if (covered := np.count_nonzero(label) / label.size) > LARGEST_SHARE:
        raise VolumeError(f"its mask covers {covered:.0%} of the volume, no atrium does: is it turned inside out?")
    image, inside = centre(image), centre(label).astype(bool)
    if not image.std() > 0:
        raise VolumeError("the image has the same value everywhere")
    if inside.sum() < np.count_nonzero(label):
        raise VolumeError(f"its mask reaches out of the middle {FIELD} x {FIELD} pixels: is the voxel size right?")
    return AtriumVolume(name, normalise(image).astype(np.float16), inside, tuple(map(float, spacing)), tuple(axes))


# ---------------------------------------------------------------- a folder of them


def recognise_layout(folder: str | Path) -> str | None:
    """Tell what lies in a folder, or in its Task02_Heart: ``"decathlon"``, ``"npz"``, or None."""
    try:
        return find_layout(folder)[0]
    except FileNotFoundError:
        return None


def find_layout(folder: str | Path) -> tuple[str, Path]:
    """Say what lies in a folder: ``("decathlon", folder)`` or ``("npz", folder)``.

    Raises
    ------
    FileNotFoundError
        If it is neither; says what is wanted.
    """
    folder = Path(folder)
    for place in (folder, folder / "Task02_Heart"):
        if (place / "imagesTr").is_dir() and (place / "labelsTr").is_dir():
            return "decathlon", place
    if any(folder.glob("*.npz")):
        return "npz", folder
    raise FileNotFoundError(f"{folder.as_posix()} holds no heart MRI: wanted are {EXPECTED}")


def load_subjects(folder: str | Path, limit: int | None = None) -> tuple[list[AtriumVolume], pd.DataFrame]:
    """Read every subject of a folder; what cannot be used is skipped and listed with its reason.

    Parameters
    ----------
    folder : path
        One of the two layouts, see :func:`find_layout`.
    limit : int, optional
        Read only the first so many files.

    Returns
    -------
    subjects : list of AtriumVolume
        In the order of their names.
    faults : DataFrame
        ``file`` and ``fault`` of each file that was skipped.

    Raises
    ------
    FileNotFoundError
        If the folder has no known layout.
    VolumeError
        If not one subject can be used.
    """
    layout, folder = find_layout(folder)
    faults: list[tuple[str, str]] = []
    if layout == "npz":
        jobs = [(read_npz, (path,)) for path in _visible(folder, "*.npz")]
    else:
        pairs, faults = _pairs(folder)
        if not pairs and not faults:
            raise VolumeError(f"{folder.as_posix()}: imagesTr/ and labelsTr/ hold no .nii or .nii.gz file")
        jobs = [(read_pair, pair) for pair in pairs]
    subjects = []
    for read, paths in jobs[:limit]:
        try:
            subjects.append(read(*paths))
        except VolumeError as error:
            faults.append((paths[0].relative_to(folder).as_posix(), str(error)))
    subjects = _of_one_size(subjects, faults)
    if not subjects:
        reasons = "; ".join(f"{file}: {fault}" for file, fault in faults[:3])
        raise VolumeError(f"{folder.as_posix()}: not one of {len(faults)} subjects can be used ({reasons})")
    return subjects, pd.DataFrame(faults, columns=["file", "fault"])


def _name(path: Path) -> str:
    return re.sub(r"(\.nii(\.gz)?|\.npz)$", "", path.name)


def _visible(folder: Path, pattern: str) -> list[Path]:
    # The Decathlon's archives were packed on a Mac and hold a "._" twin of every file, which is no volume.
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _pairs(folder: Path) -> tuple[list[tuple[Path, Path]], list[tuple[str, str]]]:
    """Match images and labels by name; return the pairs, and the faults of whatever has no partner."""
    sides, twice = {"imagesTr": {}, "labelsTr": {}}, []
    for side, found in sides.items():
        for path in _visible(folder / side, "*.nii*"):
            if _name(path) in found:
                twice.append(
                    (f"{side}/{path.name}", f"is a second file of that name; {found[_name(path)].name} is used")
                )
            else:
                found[_name(path)] = path
    images, labels = sides["imagesTr"], sides["labelsTr"]
    faults = twice + [
        (f"imagesTr/{images[n].name}", f"has no label labelsTr/{images[n].name}") for n in images if n not in labels
    ]
    faults += [(f"labelsTr/{labels[n].name}", "is a label without an image") for n in labels if n not in images]
    try:
        listed = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["training"]
        known = {_name(Path(one["image"])): Path(one["image"]).name for one in listed}
        faults += [
            (f"imagesTr/{file}", "is named in dataset.json and not there")
            for name, file in known.items()
            if name not in images and name not in labels
        ]
    except FileNotFoundError:
        pass  # the volumes alone are enough
    except (ValueError, KeyError, TypeError) as error:
        faults.append(
            ("dataset.json", f"cannot be read ({type(error).__name__}): whether files are missing is unknown")
        )
    return [(images[name], labels[name]) for name in images if name in labels], faults


def _of_one_size(subjects: list[AtriumVolume], faults: list[tuple[str, str]]) -> list[AtriumVolume]:
    """Leave out subjects whose voxels differ from the usual by more than a tenth: pixels would mean other lengths."""
    if not subjects:
        return []
    spacings = [subject.spacing for subject in subjects]
    usual = max(spacings, key=lambda sides: sum(np.allclose(other, sides, rtol=0.1) for other in spacings))
    fitting = []
    for subject in subjects:
        if np.allclose(subject.spacing, usual, rtol=0.1):
            fitting.append(subject)
        else:
            here, most = (" x ".join(f"{side:.2f}" for side in sides) for sides in (subject.spacing, usual))
            faults.append((subject.name, f"its voxels are {here} mm, most are {most} mm: resample it to these first"))
    return fitting


# ---------------------------------------------------------------- who trains, who validates


def find_twins(subjects: Sequence[AtriumVolume]) -> list[tuple[int, int]]:
    """Return the places of every two subjects that hold the very same image: one patient, labelled twice."""
    sums = [zlib.crc32(np.ascontiguousarray(subject.image).tobytes()) for subject in subjects]
    return [(i, j) for j in range(len(sums)) for i in range(j) if sums[i] == sums[j]]


def split_subjects(subjects: Sequence[AtriumVolume], held_back: int = 4, seed: int = 0) -> tuple[list[int], list[int]]:
    """Choose who is held back: by name and seed alone, before anything is looked at or tried.

    A patient who is there twice, with two labels, trains: both sides must not know the same heart, and a heart with
    two truths is no ruler.

    Parameters
    ----------
    subjects : sequence of AtriumVolume
        In the order of their names.
    held_back : int
        How many validate.
    seed : int
        Decides who.

    Returns
    -------
    tuple of list of int
        Places of those who train and of those who are held back, in order.

    Raises
    ------
    ValueError
        If fewer than two would be left to train.
    """
    twice = {place for pair in find_twins(subjects) for place in pair}
    once = [place for place in range(len(subjects)) if place not in twice]
    if held_back < 1 or len(once) < held_back or len(subjects) - held_back < 2:
        raise ValueError(
            f"{len(subjects)} subjects are too few to hold {held_back} back and train on the others: hold fewer back, "
            "or add subjects"
        )
    chosen = np.random.default_rng(seed).permutation(len(once))[:held_back]
    held = sorted(once[place] for place in chosen)
    return [place for place in range(len(subjects)) if place not in held], held
