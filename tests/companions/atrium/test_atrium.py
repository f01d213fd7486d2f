"""The left atrium: volumes read in every form and with every fault, figures against numbers worked by hand."""

import dataclasses
import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

nib = pytest.importorskip("nibabel")
pytest.importorskip("monai")

from helpers import ROOT, execute, output_of  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform  # noqa: E402

from companions.atrium.data import (  # noqa: E402
    AtriumVolume,
    VolumeError,
    find_layout,
    find_twins,
    load_subjects,
    normalise,
    prepare,
    read_nifti,
    split_subjects,
)
from companions.atrium.metrics import bland_altman, dice, measure, slice_dice, surface_distances  # noqa: E402
from companions.atrium.model import (  # noqa: E402
    SCHEDULES,
    AtriumSlices,
    AtriumTask,
    UNet,
    as_mask,
    augment_slice,
    crop,
    dice_loss,
    largest_part,
    learn_window,
    load_unet,
    make_augmentation,
    mean_mask,
    save_unet,
    segment,
    uncrop,
)
from companions.atrium.plots import draw_agreement, draw_planes, gif_through, page_of_slices  # noqa: E402
from companions.atrium.sample import find_data, make_phantom, write_phantoms  # noqa: E402
from heartbox.reporting.plots import LABEL, PREDICTION  # noqa: E402
from heartbox.training.loop import fit  # noqa: E402

NOTEBOOK = "Atrium-Segmentation.ipynb"
SPACING = (1.37, 1.25, 1.30)  # slices, rows, columns: all different, so that no two can be mixed up unseen


def made_volume(seed=0, shape=(6, 20, 24)):
    """Return an image with no symmetry and a block as its mask."""
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(0, 200, shape).astype(np.int16), np.zeros(shape, dtype=np.uint8)
    mask[1:5, 6:12, 8 + seed % 3 : 16] = 1
    image[mask > 0] += 300
    return image, mask


def as_nifti(volume, axes="RAS", spacing=SPACING, origin=(0, 0, 0)):
    """Make a NIfTI image of (slices, rows, columns) that is stored along other axes and lies in the same place."""
    affine = np.diag([spacing[1], spacing[2], spacing[0], 1.0])
    affine[:3, 3] = origin
    image = nib.Nifti1Image(volume.transpose(1, 2, 0), affine)
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(tuple(axes))))


def write_decathlon(folder, count=4, axes=("RAS", "LPS", "PSR", "IAL")):
    for side in ("imagesTr", "labelsTr"):
        (folder / side).mkdir(parents=True)
    for i in range(count):
        image, mask = made_volume(i)
        nib.save(as_nifti(image, axes[i % len(axes)]), folder / "imagesTr" / f"la_{i:03d}.nii.gz")
        nib.save(as_nifti(mask, axes[i % len(axes)]), folder / "labelsTr" / f"la_{i:03d}.nii.gz")
    listed = [
        {"image": f"./imagesTr/la_{i:03d}.nii.gz", "label": f"./labelsTr/la_{i:03d}.nii.gz"} for i in range(count)
    ]
    (folder / "dataset.json").write_text(json.dumps({"training": listed}))
    return folder


def made_subjects(count=6, shape=(6, 20, 24)):
    return [prepare(f"s{i}", *made_volume(i, shape), SPACING) for i in range(count)]


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "IAL", "SRA"])
def test_any_orientation_reads_alike(tmp_path, axes):
    image, _ = made_volume()
    nib.save(as_nifti(image, axes), tmp_path / "one.nii.gz")
    voxels, spacing, stored_axes, corners = read_nifti(tmp_path / "one.nii.gz")
    assert stored_axes == tuple(axes)
    np.testing.assert_allclose(corners, [[0, 0, 0], [20 * 1.25, 24 * 1.30, 6 * 1.37]], atol=1e-4)
    np.testing.assert_array_equal(voxels, image)
    np.testing.assert_allclose(spacing, SPACING, rtol=1e-6)


def test_the_decathlon_layout(tmp_path):
    folder = write_decathlon(tmp_path / "Task02_Heart")
    (folder / "imagesTr" / "._la_000.nii.gz").write_bytes(b"left by a Mac")
    subjects, faults = load_subjects(tmp_path)  # one folder too high is understood too
    assert [subject.name for subject in subjects] == ["la_000", "la_001", "la_002", "la_003"]
    assert faults.empty
    for i, subject in enumerate(subjects):
        image, mask = made_volume(i)
        np.testing.assert_array_equal(subject.mask, mask > 0)
        np.testing.assert_array_equal(subject.image, normalise(image).astype(np.float16))
    assert ["".join(subject.axes) for subject in subjects] == ["RAS", "LPS", "PSR", "IAL"]


def test_image_and_label_may_be_stored_differently(tmp_path):
    folder = write_decathlon(tmp_path, 2)
    nib.save(as_nifti(made_volume(0)[1], "PIL"), folder / "labelsTr" / "la_000.nii.gz")
    subjects, faults = load_subjects(folder)
    assert faults.empty
    np.testing.assert_array_equal(subjects[0].mask, made_volume(0)[1] > 0)


def test_npz_subjects(tmp_path):
    image, mask = made_volume()
    np.savez(tmp_path / "a.npz", image=image.astype(np.uint8), mask=mask)
    np.savez(tmp_path / "b.npz", image=image, mask=mask, spacing=[2.0, 1.0, 1.5])
    np.savez(tmp_path / "c.npz", image=image[::-1], mask=mask[::-1], spacing=[2.0, 1.0, 1.5])
    subjects, faults = load_subjects(tmp_path)
    assert [s.name for s in subjects] == ["b", "c"]  # most are of 2 x 1 x 1.5 mm
    assert subjects[0].spacing == (2.0, 1.0, 1.5)
    assert "resample" in faults.set_index("file").loc["a", "fault"]
    assert load_subjects(tmp_path, limit=1)[0][0].spacing == (1.37, 1.25, 1.25)  # those of Task02_Heart


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


IMAGE, MASK = made_volume(1)
FAULTS = {
    "image without label": ("labelsTr", Path.unlink, "imagesTr/la_001.nii.gz", "has no label labelsTr/la_001.nii.gz"),
    "label without image": ("imagesTr", Path.unlink, "labelsTr/la_001.nii.gz", "label without an image"),
    "empty mask": ("labelsTr", _replace(MASK * 0), "imagesTr/la_001.nii.gz", "mask is empty"),
    "shapes": ("labelsTr", _replace(MASK[:5]), "imagesTr/la_001.nii.gz", r"\(6, 20, 24\) and its mask \(5, 20, 24\)"),
    "cut off": ("imagesTr", _cut_off, "imagesTr/la_001.nii.gz", "damaged or cut off"),
    "label cut off": ("labelsTr", _cut_off, "imagesTr/la_001.nii.gz", "its label cannot be read.*damaged or cut off"),
    "no NIfTI": ("imagesTr", lambda path: path.write_bytes(b"hello"), "imagesTr/la_001.nii.gz", "cannot be read"),
    "no contrast": ("imagesTr", _replace(IMAGE * 0 + 7), "imagesTr/la_001.nii.gz", "same value everywhere"),
    "NaN": ("imagesTr", _replace(np.where(MASK, np.nan, 1.0)), "imagesTr/la_001.nii.gz", "no numbers"),
    "other labels": ("labelsTr", _replace(MASK * 3), "imagesTr/la_001.nii.gz", "holds 0, 3; 0 and 1"),
    "elsewhere": ("labelsTr", _replace(MASK, origin=(0, 9, 0)), "imagesTr/la_001.nii.gz", "9.0 mm apart"),
    "no direction": ("imagesTr", _patch(280, 0), "imagesTr/la_001.nii.gz", "without a usable orientation"),
    "inside out": ("labelsTr", _replace(1 - MASK), "imagesTr/la_001.nii.gz", r"covers \d+% of the volume.*inside out"),
    "larger than memory": (
        "imagesTr",
        _patch(42, 32000, 32000, 32000, dtype="<i2"),
        "imagesTr/la_001.nii.gz",
        "cannot be read",
    ),
    "colours": (
        "imagesTr",
        lambda path: nib.save(
            nib.Nifti1Image(np.zeros((20, 24, 6), [(c, "u1") for c in "RGB"]), np.diag([1.25, 1.30, 1.37, 1])), path
        ),
        "imagesTr/la_001.nii.gz",
        "one a voxel, are wanted",
    ),
    "four axes": (
        "imagesTr",
        lambda path: nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)), path),
        "imagesTr/la_001.nii.gz",
        "one volume of three axes",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_is_named_and_the_others_are_read(tmp_path, kind):
    side, damage, file, message = FAULTS[kind]
    folder = write_decathlon(tmp_path, axes=("RAS",))
    damage(folder / side / "la_001.nii.gz")
    subjects, faults = load_subjects(folder)
    assert [subject.name for subject in subjects] == ["la_000", "la_002", "la_003"]
    assert list(faults["file"]) == [file]
    assert re.search(message, faults["fault"][0]), faults["fault"][0]


def test_what_dataset_json_names_must_be_there(tmp_path):
    folder = write_decathlon(tmp_path)
    for side in ("imagesTr", "labelsTr"):
        (folder / side / "la_002.nii.gz").unlink()
    subjects, faults = load_subjects(folder)
    assert len(subjects) == 3
    assert faults.to_dict("records") == [
        {"file": "imagesTr/la_002.nii.gz", "fault": "is named in dataset.json and not there"}
    ]
    (folder / "dataset.json").write_text("{")
    assert load_subjects(folder)[1]["file"].tolist() == ["dataset.json"]
    (folder / "dataset.json").unlink()
    assert load_subjects(folder)[1].empty


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"image": IMAGE}, "no array named mask"),
        ({"image": IMAGE, "mask": MASK[:, :9]}, "two equal volumes"),
        ({"image": IMAGE, "mask": MASK * 0}, "empty"),
        ({"image": IMAGE, "mask": MASK, "spacing": [1.0, -1.0, 1.0]}, "three positive numbers"),
        ({"image": IMAGE, "mask": MASK, "spacing": [1.0, np.nan, 1.0]}, "three positive numbers"),
        ({"image": IMAGE, "mask": MASK, "spacing": ["a", "b", "c"]}, "spacing is ['a', 'b', 'c']: three positive"),
        ({"image": IMAGE, "mask": MASK, "spacing": [0.00137, 0.00125, 0.00125]}, "between 0.1 and 20.0 mm"),
        ({"image": IMAGE.astype(float) * 1e300, "mask": MASK}, "beyond 32 bits"),
        ({"image": IMAGE * 1j, "mask": MASK}, "complex128: numbers, one a voxel"),
        ({"image": IMAGE.astype(str), "mask": MASK}, "numbers, one a voxel"),
        ({"image": IMAGE[0], "mask": MASK[0]}, "two equal volumes"),
        ({"image": np.array([{}], dtype=object), "mask": MASK}, "Python objects"),
        (None, "damaged or cut off"),
    ],
)
def test_faults_of_npz_files(tmp_path, parts, message):
    np.savez(tmp_path / "good.npz", image=IMAGE, mask=MASK)
    if parts is None:
        (tmp_path / "bad.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:900])
    else:
        np.savez(tmp_path / "bad.npz", **parts)
    subjects, faults = load_subjects(tmp_path)
    assert [subject.name for subject in subjects] == ["good"]
    assert list(faults["file"]) == ["bad.npz"]
    assert message in faults["fault"][0]


def test_two_files_of_one_subject_are_named(tmp_path):
    folder = write_decathlon(tmp_path, axes=("RAS",))
    nib.save(nib.load(folder / "imagesTr" / "la_001.nii.gz"), folder / "imagesTr" / "la_001.nii")
    subjects, faults = load_subjects(folder)
    assert len(subjects) == 4
    assert faults["fault"].tolist() == ["is a second file of that name; la_001.nii is used"]


def test_a_point_in_a_name_is_part_of_it(tmp_path):
    for k in range(3):
        np.savez(tmp_path / f"la.00{k}.npz", image=IMAGE + k, mask=MASK)
    assert [subject.name for subject in load_subjects(tmp_path)[0]] == ["la.000", "la.001", "la.002"]


def test_what_is_no_file(tmp_path):
    np.savez(tmp_path / "good.npz", image=IMAGE, mask=MASK)
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "gone.npz").symlink_to(tmp_path / "nowhere.npz")
    faults = load_subjects(tmp_path)[1].set_index("file")["fault"]
    assert "is a folder" in faults["folder.npz"]
    assert "link to a file that is not there" in faults["gone.npz"]
    empty = tmp_path / "empty"
    for side in ("imagesTr", "labelsTr"):
        (empty / side).mkdir(parents=True)
    with pytest.raises(VolumeError, match="hold no .nii or .nii.gz"):
        load_subjects(empty)


def test_the_usual_voxel_is_the_commonest(tmp_path):
    for k, side in enumerate([1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0]):
        np.savez(tmp_path / f"la_{k}.npz", image=IMAGE + k, mask=MASK, spacing=[side] * 3)
    subjects, faults = load_subjects(tmp_path)
    assert len(subjects) == 3
    assert all("most are 1.00 x 1.00 x 1.00" in fault for fault in faults["fault"])


def test_an_array_alone_under_the_name_of_a_subject(tmp_path):
    np.savez(tmp_path / "good.npz", image=IMAGE, mask=MASK)
    np.save(tmp_path / "bad.npy", IMAGE)
    (tmp_path / "bad.npy").rename(tmp_path / "bad.npz")
    subjects, faults = load_subjects(tmp_path)
    assert [subject.name for subject in subjects] == ["good"]
    assert list(faults["file"]) == ["bad.npz"]


def test_a_folder_without_volumes_says_what_is_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"wanted are imagesTr/\*\.nii\.gz.*\.npz"):
        find_layout(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(VolumeError, match=r"not one of 1 subjects can be used \(a\.npz: cannot be read"):
        load_subjects(tmp_path)


def test_where_the_data_is(tmp_path, monkeypatch):
    """A wrong path is an error that says what is wanted, and never quietly the sample."""
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist.*imagesTr.*\.npz"):
        find_data(tmp_path)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds none of the layouts"):
        find_data(tmp_path)
    (tmp_path / "Task02_Heart" / "imagesTr").mkdir(parents=True)
    (tmp_path / "Task02_Heart" / "labelsTr").mkdir()
    assert find_data(tmp_path) == (tmp_path, False)
    monkeypatch.delenv("CARDIAC_DATA")
    assert find_data(tmp_path)[1]


def test_real_subjects(real_data):
    if not (real_data / "atrium").is_dir():
        pytest.skip("no real atria here")
    subjects, faults = load_subjects(real_data / "atrium")
    assert len(subjects) == 16
    assert faults.empty
    assert all(50 < subject.volume_ml < 200 for subject in subjects)
    assert [tuple(subjects[i].name for i in pair) for pair in find_twins(subjects)] == [("subject_02", "subject_17")]
    training, held = split_subjects(subjects)
    assert (len(training), len(held)) == (12, 4)


# ---------------------------------------------------------------- preparing and splitting


def test_normalising_takes_the_scanner_out():
    image, _ = made_volume()
    np.testing.assert_allclose(normalise(image), normalise(image * 7.5 + 40), atol=1e-6)
    evenly = np.linspace(0, 1, 480).reshape(6, 8, 10)
    z = normalise(evenly) * 6 - 1
    assert z.min() == -1  # of -1.73
    assert z[evenly > 0.3] == pytest.approx((evenly[evenly > 0.3] - evenly.mean()) / evenly.std(), abs=1e-5)
    evenly[0, 0, 0] = 50
    assert normalise(evenly).max() == 1


def test_a_large_image_is_cut_to_its_middle_first():
    image, mask = np.zeros((3, 320, 320)), np.zeros((3, 320, 320))
    image[:, 140:180, 150:190], mask[:, 150:170, 160:180] = 5.0, 1
    subject = prepare("one", image, mask, SPACING)
    assert subject.mask.shape == (3, 256, 256)
    np.testing.assert_array_equal(subject.mask, mask[:, 32:-32, 32:-32] > 0)
    np.testing.assert_array_equal(subject.image, normalise(image[:, 32:-32, 32:-32]).astype(np.float16))
    mask[:, :4] = 1
    with pytest.raises(VolumeError, match="reaches out of the middle 256"):
        prepare("one", image, mask, SPACING)


@pytest.mark.parametrize(("count", "training"), [(16, 12), (20, 16)])
def test_four_are_held_back_and_twins_train(count, training):
    subjects = made_subjects(count)
    subjects[7] = AtriumVolume("s7", subjects[3].image, np.roll(subjects[3].mask, 1, axis=2), SPACING)
    assert find_twins(subjects) == [(3, 7)]
    for seed in range(5):
        train, held = split_subjects(subjects, 4, seed)
        assert (len(train), len(held)) == (training, 4)
        assert sorted(train + held) == list(range(count))
        assert {3, 7} <= set(train)
        assert split_subjects(subjects, 4, seed) == (train, held)
    assert len({tuple(split_subjects(subjects, 4, seed)[1]) for seed in range(5)}) > 1
    with pytest.raises(ValueError, match="too few to hold 4 back"):
        split_subjects(subjects[:5], 4)


def test_the_window_holds_the_training_masks_and_the_margin():
    image, mask = np.random.default_rng(0).random((3, 100, 120)), np.zeros((3, 100, 120))
    mask[1, 40:60, 70:90] = 1
    subject = prepare("one", image, mask, (1.37, 1.25, 2.5))
    top, bottom, left, right = learn_window([subject], margin_mm=10.0)
    assert (bottom - top) % 16 == 0
    assert (right - left) % 16 == 0
    assert top <= 40 - 50 - 8 < 60 - 50 + 8 <= bottom  # 10 mm are 8 rows
    assert left <= 70 - 60 - 4 < 90 - 60 + 4 <= right  # and 4 columns
    assert bottom - top == 48
    assert right - left == 32


def test_crop_goes_there_and_back_and_over_the_border():
    volume = np.random.default_rng(0).random((2, 9, 12))
    window = (-6, 3, -2, 8)  # rows from 2 above the border on, columns to 2 beyond the right one
    cut = crop(volume, window)
    assert cut.shape == (2, 9, 10)
    np.testing.assert_array_equal(cut[:, 2:, :8], volume[:, :7, 4:])
    assert not cut[:, :2].any()
    assert not cut[:, :, 8:].any()
    back = uncrop(cut, window, volume.shape)
    np.testing.assert_array_equal(back[:, :7, 4:], volume[:, :7, 4:])
    assert not back[:, 7:].any()


# ---------------------------------------------------------------- slices


def test_image_and_mask_move_together():
    y, x = np.mgrid[:64, :80]
    mask = ((y - 30) / 14) ** 2 + ((x - 45) / 20) ** 2 < 1
    image = np.repeat(0.2 + 0.6 * mask[..., None].astype(np.float32), 3, axis=2)
    moved = []
    for seed in range(8):
        changed, changed_mask = augment_slice(image, mask, make_augmentation(), seed)
        assert changed.shape == image.shape
        assert changed_mask.dtype == bool
        assert dice(changed[..., 1] > 0.5, changed_mask) > 0.9  # also where the contrast has changed
        moved.append(dice(changed_mask, mask))
        again = augment_slice(image, mask, make_augmentation(), seed)
        np.testing.assert_array_equal(again[0], changed)
        np.testing.assert_array_equal(again[1], changed_mask)
    assert min(moved) < 0.9
    assert len(set(moved)) == 8


def test_slices_come_with_their_neighbours():
    subjects = made_subjects(2)
    window = learn_window(subjects)
    slices = AtriumSlices(subjects, window, offsets=(-1, 0, 1))
    assert len(slices) == 12
    images = crop(subjects[1].image, window).astype(np.float32)
    x, mask = slices[6 + 2]  # the third slice of the second subject
    np.testing.assert_array_equal(x.numpy(), images[[1, 2, 3]])
    np.testing.assert_array_equal(mask[0].numpy(), crop(subjects[1].mask, window)[2])
    np.testing.assert_array_equal(slices[6][0].numpy(), images[[0, 0, 1]])  # nothing of the subject before
    np.testing.assert_array_equal(slices[11][0].numpy(), images[[4, 5, 5]])
    assert AtriumSlices(subjects, window, offsets=(0,))[0][0].shape[0] == 1
    augmented = AtriumSlices(subjects, window, augment=True)
    torch.manual_seed(3)
    first, second = augmented[2][0], augmented[2][0]
    torch.manual_seed(3)
    assert torch.equal(augmented[2][0], first)
    assert not torch.equal(first, second)


# ---------------------------------------------------------------- network and loss


def test_the_unet_answers_each_pixel_and_learns():
    torch.manual_seed(0)
    model = UNet(channels=1, width=4, levels=3)
    x = torch.zeros(2, 1, 16, 32)
    x[0, 0, 4:9, 10:20], x[1, 0, 8:15, 2:9] = 1, 1
    assert model(x).shape == (2, 1, 16, 32)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        loss = dice_loss(model(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    # A place that is far away is seen too: what a U-Net goes down for.
    seen = torch.zeros(1, 1, 16, 32, requires_grad=True)
    model.eval()(seen)[0, 0, 0, 0].backward()
    assert seen.grad[0, 0, 6:, 6:].abs().sum() > 0


def test_dice_loss_by_hand():
    truth = torch.tensor([0.0, 1, 1, 1])
    probabilities = torch.tensor([0.5, 0.5, 0.75, 0.25])
    # shared 0.5 + 0.75 + 0.25 = 1.5; held 2 and 3; (2 x 1.5 + 1) / (2 + 3 + 1)
    assert dice_loss(probabilities.logit(), truth).item() == pytest.approx(1 - 4 / 6, abs=1e-6)
    assert dice_loss(torch.full((4,), -20.0), torch.zeros(4)).item() == pytest.approx(0, abs=1e-6)
    logits = torch.zeros(4, requires_grad=True)
    dice_loss(logits, truth).backward()
    assert (logits.grad[1:] < 0).all()
    assert logits.grad[0] > 0


def test_a_trained_network_is_kept_with_its_window(tmp_path):
    model = UNet(channels=1, width=4, levels=2).eval()
    save_unet(tmp_path / "model.pt", model, (-8, 8, -16, 16))
    loaded, window = load_unet(tmp_path / "model.pt")
    x = torch.rand(1, 1, 16, 32)
    assert torch.equal(loaded(x), model(x))
    assert window == (-8, 8, -16, 16)


def test_the_task_measures_in_three_dimensions():
    subjects = made_subjects(2)
    val = AtriumSlices(subjects, learn_window(subjects))
    answers, figures = AtriumTask(SCHEDULES["quick"], {}).validate(BrightIsAtrium(), val, torch.device("cpu"))
    assert [one.shape for one in answers] == [masks.shape for masks in val.masks]
    assert figures["val_dice"] > 0.99
    assert figures["val_loss"] < 0.05


class BrightIsAtrium(torch.nn.Module):
    """A network that needs no training: the made atria are brighter than all else."""

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.33))

    def forward(self, x):
        return 400 * (x[:, 2:3] - self.level)


def test_another_network_starts_anew(tmp_path):
    subjects = made_subjects(3)
    window = learn_window(subjects[:2])
    train, val = AtriumSlices(subjects[:2], window, augment=True), AtriumSlices(subjects[2:], window)
    schedule, trained, lengths = dataclasses.replace(SCHEDULES["quick"], epochs=1), [], []
    for width in (4, 4, 6):
        model = UNet(width=width, levels=3)
        fit(model, train, val, AtriumTask(schedule, model.config), tmp_path, on_epoch=lambda *_: trained.append(1))
        lengths.append(len(trained))
    assert lengths == [1, 1, 2]


def test_answers_lie_in_the_whole_volume():
    subjects = made_subjects(3)
    slices = AtriumSlices(subjects, learn_window(subjects, margin_mm=2.0, multiple=4))
    for subject, answer in zip(subjects, segment(BrightIsAtrium(), slices, smooth_mm=0), strict=True):
        assert answer.shape == subject.mask.shape
        assert dice(answer, subject.mask) > 0.99


def test_only_the_largest_part_is_kept():
    mask = np.zeros((4, 8, 8), dtype=bool)
    mask[0:2, 1:4, 1:4] = True
    mask[3, 6, 6] = True
    kept = largest_part(mask)
    assert kept.sum() == 18
    assert not kept[3].any()
    assert not largest_part(mask & False).any()


def test_a_flicker_from_slice_to_slice_is_smoothed_away():
    found = np.zeros((20, 4, 4))
    found[5:15, 1:3, 1:3] = 0.9
    found[9, 1, 1] = 0.1  # a hole one slice deep
    found[17, 1:3, 1:3] = 0.9  # and a slice of its own
    assert not as_mask(found, keep_largest=False)[9, 1, 1]
    assert as_mask(found, keep_largest=False)[17, 1, 1]
    smooth = as_mask(found, keep_largest=False, smooth=1.5)
    assert smooth[6:14, 1:3, 1:3].all()
    assert not smooth[17:].any()
    assert not as_mask(found)[17].any()


def test_the_mean_atrium_is_what_most_share():
    subjects = made_subjects(3)
    slices = AtriumSlices(subjects, learn_window(subjects))
    answer = mean_mask(slices, depth=8)
    assert answer.shape == (8, *slices.masks[0].shape[1:])
    assert not answer[[0, -1]].any()  # the two slices more than there were
    assert dice(answer[1:7], slices.masks[1]) > 0.85


# ---------------------------------------------------------------- figures


def test_dice_by_hand():
    found, truth = np.zeros((2, 2, 4), dtype=bool), np.zeros((2, 2, 4), dtype=bool)
    found[0, 0], truth[0, 0, 1:], truth[1, 1, 0] = True, True, True
    assert dice(found, truth) == pytest.approx(2 * 3 / (4 + 4))
    np.testing.assert_allclose(slice_dice(found, truth), [6 / 7, 0])
    assert np.isnan(slice_dice(found & False, truth & False)).all()
    assert dice(found & False, truth & False) == 1
    assert dice(found, truth & False) == 0


@pytest.mark.parametrize(("axis", "side"), [(0, 1.37), (1, 1.25), (2, 1.30)])
def test_distances_are_in_mm_along_each_axis(axis, side):
    """Two planes, one voxel thick, three voxels apart: every distance is three sides of a voxel."""
    found, truth = np.zeros((12, 12, 12), dtype=bool), np.zeros((12, 12, 12), dtype=bool)
    np.moveaxis(found, axis, 0)[3, 2:10, 2:10] = True
    np.moveaxis(truth, axis, 0)[6, 2:10, 2:10] = True
    hausdorff95, mean = surface_distances(found, truth, SPACING)
    assert hausdorff95 == pytest.approx(3 * side, rel=1e-5)
    assert mean == pytest.approx(3 * side, rel=1e-5)


def test_one_far_voxel_moves_the_mean_and_not_the_95th_percentile():
    found, truth = np.zeros((30, 12, 12), dtype=bool), np.zeros((30, 12, 12), dtype=bool)
    found[2, 1:11, 1:11], truth[2, 1:11, 1:11] = True, True
    found[22, 5, 5] = True  # 20 slices off, one of 101 voxels
    hausdorff95, mean = surface_distances(found, truth, SPACING)
    assert hausdorff95 == 0
    assert mean == pytest.approx(20 * 1.37 / 201, rel=1e-5)  # one distance among 101 + 100
    assert surface_distances(truth, truth, SPACING) == (0, 0)
    assert surface_distances(found & False, truth, SPACING) == (np.inf, np.inf)
    assert surface_distances(found & False, truth & False, SPACING) == (0, 0)


def test_volume_in_millilitres():
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[1:11, 1:11, 1:11] = True
    subject = AtriumVolume("one", mask.astype(np.float16), mask, SPACING)
    assert subject.volume_ml == pytest.approx(1000 * 1.37 * 1.25 * 1.30 / 1000)
    half = mask.copy()
    half[6:] = False
    measured = measure(subject, half)
    assert measured["volume_ml"] == pytest.approx(subject.volume_ml / 2)
    assert measured["true_ml"] == pytest.approx(subject.volume_ml)
    assert measured["dice"] == pytest.approx(2 * 500 / 1500)
    assert measured["dice_slices"] == pytest.approx(0.5)


def test_bland_altman_by_hand():
    limits = bland_altman([101, 82, 93], [100, 80, 90])  # differences 1, 2, 3: mean 2, standard deviation 1
    assert limits == {"bias": 2.0, "low": pytest.approx(0.04), "high": pytest.approx(3.96)}
    assert np.isnan(bland_altman([1.0], [2.0])["low"])


# ---------------------------------------------------------------- phantoms and pictures


def test_phantoms_are_the_same_again_however_stored(tmp_path):
    one, other = (write_phantoms(tmp_path / name, count=3, seed=5) for name in ("one", "other"))
    for path in sorted(one.rglob("*.*")):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes(), path.name
    subjects, faults = load_subjects(one)
    assert faults.empty
    assert ["".join(subject.axes) for subject in subjects] == ["RAS", "LPS", "PSR"]
    for i, subject in enumerate(subjects):
        np.testing.assert_array_equal(subject.mask, make_phantom(5, i)[1])
        assert 35 < subject.volume_ml < 180
        inside, outside = subject.image[subject.mask].mean(), subject.image[~subject.mask].mean()
        assert inside > 2 * outside
    assert not (tmp_path / "one.part").exists()


def test_pictures(tmp_path):
    subjects = made_subjects(3)
    answers = [np.roll(subject.mask, 1, axis=2) for subject in subjects]
    path = gif_through(tmp_path / "through.gif", subjects[0], answers[0], (-8, 8, -8, 8), around=1)
    assert path.read_bytes()[:6] == b"GIF89a"
    from PIL import Image

    with Image.open(path) as gif:
        assert gif.n_frames == 6  # four slices of atrium, one around on each side
        assert gif.size == (16 * 12, 16 * 12)
        gif.seek(2)
        seen = {tuple(colour) for colour in np.asarray(gif.convert("RGB")).reshape(-1, 3).tolist()}
    for colour in (LABEL, PREDICTION):  # exactly, and nothing else that has a colour
        assert tuple(np.rint(255 * np.array(to_rgb(colour))).astype(int).tolist()) in seen
    assert len({colour for colour in seen if max(colour) - min(colour) > 8}) == 2
    import pandas as pd

    table = pd.DataFrame([measure(*pair) for pair in zip(subjects, answers, strict=True)])
    assert len(draw_agreement(table).axes) == 2
    assert len(draw_planes(subjects[0], answers[0]).axes) == 3
    images = [subject.image[2] for subject in subjects]
    assert len(page_of_slices(images, [s.mask[2] for s in subjects], titles=["a", "b", "c"], columns=2).axes) == 4


# ---------------------------------------------------------------- the notebook


def copy_companion(folder):
    for name in ("heartbox", "companions"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.slow
def test_the_notebook_on_its_sample(tmp_path):
    folder = copy_companion(tmp_path / "copy")
    run = execute(folder, [f"companions/{NOTEBOOK}"])
    assert run.returncode == 0, run.stderr[-3000:]
    output = output_of(folder / "companions" / NOTEBOOK)
    assert "synthetic hearts" in output
    assert str(tmp_path) not in output
    made = folder / "artifacts" / "atrium"
    metrics = json.loads((made / "metrics.json").read_text())
    assert [len(metrics["subjects"]), metrics["train"], metrics["epochs"]] == [2, 6, 2]
    assert 0 < metrics["mean_atrium"]["dice"] < 1
    assert (made / "through-a-heart.gif").read_bytes()[:6] == b"GIF89a"
    assert load_unet(made / "model.pt")[0].config["width"] == 16
    assert len(list((folder / "data" / "atrium-sample" / "imagesTr").iterdir())) == 20


@pytest.mark.slow
def test_the_notebook_on_npz_subjects_with_faults(tmp_path):
    folder, data = copy_companion(tmp_path / "copy"), tmp_path / "mine"
    data.mkdir()
    for i in range(5):
        image, mask = made_volume(i, (12, 64, 64))
        np.savez(data / f"subject_{i:02d}.npz", image=image, mask=mask)
    (data / "subject_05.npz").write_bytes(b"cut off")
    run = execute(folder, [f"companions/{NOTEBOOK}"], CARDIAC_DATA=str(data), CARDIAC_ARTIFACTS=str(tmp_path / "out"))
    assert run.returncode == 0, run.stderr[-3000:]
    output = output_of(folder / "companions" / NOTEBOOK)
    assert "5 subjects read, 1 faults" in output
    assert "subject_05.npz" in output
    assert not (folder / "data").exists()
    assert not json.loads((tmp_path / "out" / "atrium" / "metrics.json").read_text())["sample"]
