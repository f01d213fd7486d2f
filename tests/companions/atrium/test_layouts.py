"""Files with the left atrium: read in every form, and with every fault."""

import functools
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import ATRIUM_SPACING, make_atrium
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from companions.atrium import layouts
from companions.atrium.data import find_duplicates, normalise, split_volumes
from companions.atrium.layouts import EXPECTED, load_volumes, read_nifti, recognise_layout
from companions.atrium.sample import write_sample
from heartbox.data.layouts import find_source
from heartbox.data.tables import Problem


def as_nifti(volume, axes="RAS", spacing=ATRIUM_SPACING, origin=(0, 0, 0)):
    """Make a NIfTI image of (slices, rows, columns) that is stored along other axes and lies in the same place."""
    affine = np.diag([spacing[1], spacing[2], spacing[0], 1.0])
    affine[:3, 3] = origin
    image = nib.Nifti1Image(volume.transpose(1, 2, 0), affine)
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(tuple(axes))))


def write_decathlon(folder, count=4, axes=("RAS", "LPS", "PSR", "IAL")):
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for i in range(count):
        image, mask = make_atrium(i)
        nib.save(as_nifti(image, axes[i % len(axes)]), folder / "imagesTr" / f"la_{i:03d}.nii.gz")
        nib.save(as_nifti(mask, axes[i % len(axes)]), folder / "labelsTr" / f"la_{i:03d}.nii.gz")
    listed = [
        {"image": f"./imagesTr/la_{i:03d}.nii.gz", "label": f"./labelsTr/la_{i:03d}.nii.gz"} for i in range(count)
    ]
    (folder / "dataset.json").write_text(json.dumps({"training": listed}))
    return folder


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "IAL", "SRA"])
def test_any_orientation_reads_alike(tmp_path, axes):
    image, _ = make_atrium()
    nib.save(as_nifti(image, axes), tmp_path / "one.nii.gz")
    volume = read_nifti(tmp_path / "one.nii.gz")
    assert volume.axes == tuple(axes)
    np.testing.assert_allclose(volume.corners, [[0, 0, 0], [20 * 1.25, 24 * 1.30, 6 * 1.37]], atol=1e-4)
    np.testing.assert_array_equal(volume.voxels, image)
    np.testing.assert_allclose(volume.spacing, ATRIUM_SPACING, rtol=1e-6)


def test_the_decathlon_layout(tmp_path):
    folder = write_decathlon(tmp_path / "Task02_Heart")
    (folder / "imagesTr" / "._la_000.nii.gz").write_bytes(b"left by a Mac")
    volumes, problems = load_volumes(tmp_path)  # one folder too high is understood too
    assert [volume.name for volume in volumes] == ["la_000", "la_001", "la_002", "la_003"]
    assert problems == []
    for i, volume in enumerate(volumes):
        image, mask = make_atrium(i)
        np.testing.assert_array_equal(volume.mask, mask > 0)
        np.testing.assert_array_equal(volume.image, normalise(image).astype(np.float16))
    assert ["".join(volume.axes) for volume in volumes] == ["RAS", "LPS", "PSR", "IAL"]


def test_image_and_label_may_be_stored_differently(tmp_path):
    folder = write_decathlon(tmp_path, 2)
    nib.save(as_nifti(make_atrium(0)[1], "PIL"), folder / "labelsTr" / "la_000.nii.gz")
    volumes, problems = load_volumes(folder)
    assert problems == []
    np.testing.assert_array_equal(volumes[0].mask, make_atrium(0)[1] > 0)


def test_npz_volumes(tmp_path):
    image, mask = make_atrium()
    np.savez(tmp_path / "a.npz", image=image.astype(np.uint8), mask=mask)
    np.savez(tmp_path / "b.npz", image=image, mask=mask, spacing=[2.0, 1.0, 1.5])
    np.savez(tmp_path / "c.npz", image=image[::-1], mask=mask[::-1], spacing=[2.0, 1.0, 1.5])
    volumes, problems = load_volumes(tmp_path)
    assert [s.name for s in volumes] == ["b", "c"]  # most are of 2 x 1 x 1.5 mm
    assert volumes[0].spacing == (2.0, 1.0, 1.5)
    assert [(problem.name, problem.kind) for problem in problems] == [("a", "spacing")]
    assert load_volumes(tmp_path, limit=1)[0][0].spacing == (1.37, 1.25, 1.25)  # those of Task02_Heart


def _cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


def _patch(offset, *values, dtype="<f4"):
    """Return a change of a stored header: values at a byte of it (NIfTI-1 places)."""

    def change(path):
        raw = bytearray(gzip.decompress(path.read_bytes()))
        new = np.array(values, dtype).tobytes()
        raw[offset : offset + len(new)] = new
        path.write_bytes(gzip.compress(bytes(raw)))

    return change


def _replace(volume, **about):
    return lambda path: nib.save(as_nifti(volume, **about), path)


IMAGE, MASK = make_atrium(1)


FIRST = "imagesTr/la_001.nii.gz"
# Which of the two files is damaged and how; the file, the kind and a key word of the problem that is reported.
FAULTS = {
    "image without label": ("labelsTr", Path.unlink, FIRST, "no label", "labelsTr/la_001.nii.gz"),
    "label without image": ("imagesTr", Path.unlink, "labelsTr/la_001.nii.gz", "no image", "without an image"),
    "empty mask": ("labelsTr", _replace(MASK * 0), FIRST, "mask", "empty"),
    "shapes": ("labelsTr", _replace(MASK[:5]), FIRST, "mask", "(5, 20, 24)"),
    "cut off": ("imagesTr", _cut_off, FIRST, "unreadable", "cut off"),
    "label cut off": ("labelsTr", _cut_off, FIRST, "unreadable", "its label cannot be read"),
    "not NIfTI": ("imagesTr", lambda path: path.write_bytes(b"hello"), FIRST, "unreadable", "ImageFileError"),
    "no contrast": ("imagesTr", _replace(IMAGE * 0 + 7), FIRST, "pixels", "same value"),
    "NaN": ("imagesTr", _replace(np.where(MASK, np.nan, 1.0)), FIRST, "pixels", "NaN"),
    "other labels": ("labelsTr", _replace(MASK * 3), FIRST, "mask", "holds 0, 3"),
    "elsewhere": ("labelsTr", _replace(MASK, origin=(0, 9, 0)), FIRST, "contradiction", "9.0 mm apart"),
    "no direction": ("imagesTr", _patch(280, 0), FIRST, "unreadable", "orientation"),
    "inverted": ("labelsTr", _replace(1 - MASK), FIRST, "mask", "inverted"),
    "larger than memory": ("imagesTr", _patch(42, 32000, 32000, 32000, dtype="<i2"), FIRST, "unreadable", "read"),
    "colours": (
        "imagesTr",
        lambda path: nib.save(
            nib.Nifti1Image(np.zeros((20, 24, 6), [(c, "u1") for c in "RGB"]), np.diag([1.25, 1.30, 1.37, 1])), path
        ),
        FIRST,
        "pixels",
        "one number per voxel",
    ),
    "four axes": (
        "imagesTr",
        lambda path: nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)), path),
        FIRST,
        "pixels",
        "three axes",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_the_others_are_read(tmp_path, fault):
    part, damage, file, kind, words = FAULTS[fault]
    folder = write_decathlon(tmp_path, axes=("RAS",))
    damage(folder / part / "la_001.nii.gz")
    volumes, problems = load_volumes(folder)
    assert [volume.name for volume in volumes] == ["la_000", "la_002", "la_003"]
    assert [(problem.name, problem.kind) for problem in problems] == [(file, kind)]
    assert words in problems[0].reason


def test_an_exception_nobody_expected_costs_one_volume(tmp_path, monkeypatch):
    folder = write_decathlon(tmp_path)

    def read(path, _):
        if "la_001" in path.name:
            raise ZeroDivisionError("a bug of a library")
        return read_pair(path, _)

    read_pair = layouts.read_pair
    monkeypatch.setattr(layouts, "read_pair", read)
    volumes, problems = load_volumes(folder, log=tmp_path / "logs" / "log.txt")
    assert [volume.name for volume in volumes] == ["la_000", "la_002", "la_003"]
    assert [(problem.name, problem.kind) for problem in problems] == [(FIRST, "error")]
    assert problems[0].reason == "ZeroDivisionError: a bug of a library; see log.txt"
    logged = (tmp_path / "logs" / "log.txt").read_text()
    assert logged.startswith(f"{FIRST}: ZeroDivisionError")
    assert "Traceback" in logged
    assert load_volumes(folder)[1][0].reason == "ZeroDivisionError: a bug of a library"


def test_what_dataset_json_names_must_be_there(tmp_path):
    folder = write_decathlon(tmp_path)
    for part in ("imagesTr", "labelsTr"):
        (folder / part / "la_002.nii.gz").unlink()
    volumes, problems = load_volumes(folder)
    assert len(volumes) == 3
    assert problems == [Problem("imagesTr/la_002.nii.gz", "no image", "is listed in dataset.json but missing")]
    (folder / "dataset.json").write_text("{")
    assert [(problem.name, problem.kind) for problem in load_volumes(folder)[1]] == [("dataset.json", "unreadable")]
    (folder / "dataset.json").unlink()
    assert load_volumes(folder)[1] == []


@pytest.mark.parametrize(
    ("parts", "kind", "words"),
    [
        ({"image": IMAGE}, "unreadable", "no array named mask"),
        ({"image": IMAGE, "mask": MASK[:, :9]}, "mask", "two equal volumes"),
        ({"image": IMAGE, "mask": MASK * 0}, "mask", "empty"),
        ({"image": IMAGE, "mask": MASK, "spacing": [1.0, -1.0, 1.0]}, "spacing", "-1.0"),
        ({"image": IMAGE, "mask": MASK, "spacing": [1.0, np.nan, 1.0]}, "spacing", "nan"),
        ({"image": IMAGE, "mask": MASK, "spacing": ["a", "b", "c"]}, "spacing", "['a', 'b', 'c']"),
        ({"image": IMAGE, "mask": MASK, "spacing": [0.00137, 0.00125, 0.00125]}, "spacing", "0.1 to 20.0 mm"),
        ({"image": IMAGE.astype(float) * 1e300, "mask": MASK}, "pixels", "beyond 32 bits"),
        ({"image": IMAGE * 1j, "mask": MASK}, "pixels", "complex128"),
        ({"image": IMAGE.astype(str), "mask": MASK}, "pixels", "one number per voxel"),
        ({"image": IMAGE[0], "mask": MASK[0]}, "mask", "two equal volumes"),
        ({"image": np.array([{}], dtype=object), "mask": MASK}, "pickled", "can run code"),
        (None, "unreadable", "damaged or cut off"),
    ],
)
def test_faults_of_npz_files(tmp_path, parts, kind, words):
    np.savez(tmp_path / "good.npz", image=IMAGE, mask=MASK)
    if parts is None:
        (tmp_path / "bad.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:900])
    else:
        np.savez(tmp_path / "bad.npz", **parts)
    volumes, problems = load_volumes(tmp_path)
    assert [volume.name for volume in volumes] == ["good"]
    assert [(problem.name, problem.kind) for problem in problems] == [("bad.npz", kind)]
    assert words in problems[0].reason


def test_two_files_of_one_volume_are_named(tmp_path):
    folder = write_decathlon(tmp_path, axes=("RAS",))
    nib.save(nib.load(folder / "imagesTr" / "la_001.nii.gz"), folder / "imagesTr" / "la_001.nii")
    volumes, problems = load_volumes(folder)
    assert len(volumes) == 4
    assert [(problem.name, problem.kind) for problem in problems] == [(FIRST, "duplicate")]
    assert "la_001.nii is used" in problems[0].reason


def test_a_point_in_a_name_is_part_of_it(tmp_path):
    for k in range(3):
        np.savez(tmp_path / f"la.00{k}.npz", image=IMAGE + k, mask=MASK)
    assert [volume.name for volume in load_volumes(tmp_path)[0]] == ["la.000", "la.001", "la.002"]


def test_what_is_no_file(tmp_path):
    np.savez(tmp_path / "good.npz", image=IMAGE, mask=MASK)
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "gone.npz").symlink_to(tmp_path / "nowhere.npz")
    problems = {problem.name: problem.reason for problem in load_volumes(tmp_path)[1]}
    assert "folder" in problems["folder.npz"]
    assert "link" in problems["gone.npz"]
    empty = tmp_path / "empty"
    for part in ("imagesTr", "labelsTr"):
        (empty / part).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="empty: .*no .nii or .nii.gz"):
        load_volumes(empty)


def test_the_usual_voxel_is_the_commonest(tmp_path):
    for k, side in enumerate([1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0]):
        np.savez(tmp_path / f"la_{k}.npz", image=IMAGE + k, mask=MASK, spacing=[side] * 3)
    volumes, problems = load_volumes(tmp_path)
    assert len(volumes) == 3
    assert {problem.kind for problem in problems} == {"spacing"}
    assert all("most are 1.00 x 1.00 x 1.00" in problem.reason for problem in problems)


def test_an_array_alone_under_the_name_of_a_volume(tmp_path):
    np.savez(tmp_path / "good.npz", image=IMAGE, mask=MASK)
    np.save(tmp_path / "bad.npy", IMAGE)
    (tmp_path / "bad.npy").rename(tmp_path / "bad.npz")
    volumes, problems = load_volumes(tmp_path)
    assert [volume.name for volume in volumes] == ["good"]
    assert [(problem.name, problem.kind) for problem in problems] == [("bad.npz", "unreadable")]


def test_a_folder_without_volumes_says_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"imagesTr/\*\.nii\.gz.*\.npz"):
        load_volumes(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 1 volumes can be used \(a\.npz: cannot be read"):
        load_volumes(tmp_path)


def test_where_the_data_is(tmp_path, monkeypatch):
    """A wrong path is an error that says what is expected, and never silently the sample."""
    make_sample = functools.partial(write_sample, count=2)
    arguments = recognise_layout, EXPECTED, tmp_path / "data" / "atrium", make_sample
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"nowhere.*imagesTr.*\.npz"):
        find_source(*arguments)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="imagesTr"):
        find_source(*arguments)
    (tmp_path / "Task02_Heart" / "imagesTr").mkdir(parents=True)
    (tmp_path / "Task02_Heart" / "labelsTr").mkdir()
    source = find_source(*arguments)
    assert (source.folder, source.layout, source.is_synthetic) == (tmp_path, "decathlon", False)
    monkeypatch.delenv("CARDIAC_DATA")
    source = find_source(*arguments)
    assert (source.folder, source.is_synthetic) == (tmp_path / "data" / "atrium-sample", True)
    assert find_source(*arguments).folder == source.folder  # the sample that is there is kept


def test_real_volumes(real_data):
    if not (real_data / "atrium").is_dir():
        pytest.skip("no real atria here")
    volumes, problems = load_volumes(real_data / "atrium")
    assert len(volumes) == 16
    assert problems == []
    assert all(50 < volume.volume_ml < 200 for volume in volumes)
    assert [tuple(volumes[i].name for i in pair) for pair in find_duplicates(volumes)] == [("subject_02", "subject_17")]
    training, validation = split_volumes(volumes)
    assert (len(training), len(validation)) == (12, 4)
