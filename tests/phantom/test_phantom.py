"""The phantom's promises: the same seed gives the same bytes, truth agrees with masks, DICOM is valid."""

import shutil
import subprocess
import warnings
from functools import lru_cache

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from heartbox.phantom import boxes, dicom, render, sample_subject, write_phantoms

SMALL = 256


@lru_cache
def film(index, size=SMALL):
    return render(sample_subject(0, index), size)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    table = write_phantoms(folder, count=16, seed=0, size=SMALL, processes=1, progress=False)
    return folder, table


def files(folder):
    return sorted((folder / "stage_2_train_images").glob("*.dcm"))


def mask_box(mask):
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def shown(ds):
    """The picture that a viewer shows: modality LUT, window, inversion of MONOCHROME1."""
    stored = apply_modality_lut(ds.pixel_array, ds)
    image = apply_voi_lut(stored, ds).astype(float)
    image = image / (2**ds.BitsStored - 1)
    return 1 - image if ds.PhotometricInterpretation == "MONOCHROME1" else image


def test_a_subject_depends_on_seed_and_index_only():
    alone = sample_subject(3, 17)
    others = [sample_subject(3, index) for index in range(20)]
    assert alone == others[17]
    assert alone != sample_subject(4, 17)
    assert alone != others[16]


def test_the_same_subject_gives_the_same_picture():
    again = render(sample_subject(0, 1), SMALL)
    assert np.array_equal(again.image, film(1).image)
    assert again.heart == film(1).heart


def test_image_is_a_picture():
    for index in range(4):
        p = film(index)
        assert p.image.shape == (SMALL, SMALL)
        assert p.image.dtype == np.float32
        assert 0 <= p.image.min() < 0.1
        assert 0.7 < p.image.max() <= 1
        # Lungs are dark, the heart is bright.
        assert p.image[p.heart_mask].mean() > p.image[p.left_lung_mask | p.right_lung_mask].mean() + 0.15


@pytest.mark.parametrize("index", range(3))
def test_masks_agree_with_boxes_at_full_size(index):
    p = film(index, 1024)
    np.testing.assert_allclose(mask_box(p.heart_mask), p.heart, atol=0.75)
    np.testing.assert_allclose(
        mask_box(p.left_lung_mask | p.right_lung_mask), p.thorax, atol=5.0
    )  # the costophrenic angle ends in a tip thinner than a pixel
    np.testing.assert_allclose(mask_box(p.left_lung_mask | p.right_lung_mask)[:3], p.thorax[:3], atol=0.75)
    assert not (p.heart_mask & (p.left_lung_mask | p.right_lung_mask)).any()
    assert not (p.left_lung_mask & p.right_lung_mask).any()
    assert p.pixel_spacing == pytest.approx(p.subject.field / 1024)


@pytest.mark.parametrize("index", range(3))
def test_small_and_full_size_show_the_same(index):
    import cv2

    full, small = film(index, 1024), film(index, 224)
    scale = 1024 / 224
    np.testing.assert_allclose(small.heart, np.array(full.heart) / scale, atol=0.02)
    np.testing.assert_allclose(small.thorax, np.array(full.thorax) / scale, atol=0.02)
    shrunk = cv2.resize(full.image, (224, 224), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(shrunk.ravel(), small.image.ravel())[0, 1] > 0.98
    assert np.abs(shrunk - small.image).mean() < 0.03


def test_ratios_span_the_range_of_patients():
    subjects = [sample_subject(0, index) for index in range(200)]
    ratios = []
    for subject in subjects:
        heart, thorax = boxes(subject, 1024)
        ratios.append((heart[2] - heart[0]) / (thorax[2] - thorax[0]))
        assert ratios[-1] == pytest.approx(subject.ctr, abs=2e-3)
    assert 0.38 <= min(ratios) < 0.42
    assert 0.62 < max(ratios) <= 0.70
    assert {s.sex for s in subjects} == {"F", "M"}
    assert {s.view for s in subjects} == {"PA", "AP"}
    assert {s.bits for s in subjects} == {8, 12}
    assert {s.photometric for s in subjects} == {"MONOCHROME1", "MONOCHROME2"}
    assert any(s.has_pacemaker for s in subjects)


def test_the_heart_lies_to_the_left_of_the_patient():
    for index in range(100):
        heart, thorax = boxes(sample_subject(0, index), 1024)
        assert heart[0] + heart[2] > thorax[0] + thorax[2]
        assert thorax[0] < heart[0] < heart[2] < thorax[2]
        assert thorax[1] < heart[1] < heart[3] < thorax[3] + 40
        assert heart.min() >= 0 and heart.max() <= 1024


def test_left_lung_is_on_the_right_of_the_image():
    left, right = (np.nonzero(m)[1].mean() for m in (film(0).left_lung_mask, film(0).right_lung_mask))
    assert left > right


def test_some_patients_have_two_films():
    subjects = [sample_subject(0, index) for index in range(200)]
    ids = pd.Series([s.patient_id for s in subjects])
    pairs = ids[ids.duplicated(keep=False)]
    assert 4 <= len(pairs) <= 60
    assert len({s.film_id for s in subjects}) == 200
    first, second = (s for s in subjects if s.patient_id == pairs.iloc[0])
    assert (first.sex, first.age, first.thorax_width) == (second.sex, second.age, second.thorax_width)
    assert first.inspiration != second.inspiration


def test_table_gives_the_boxes(written):
    folder, table = written
    again = pd.read_csv(folder / "rsna_heart_detection.csv")
    assert list(again.columns[:8]) == ["label", "x0", "y0", "w", "h", "name", "img_shape_x", "img_shape_y"]
    assert list(again.columns[8:]) == ["thorax_x0", "thorax_y0", "thorax_w", "thorax_h"]
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert [f.stem for f in files(folder)] == sorted(again["name"])
    for index in range(3):
        row = again.iloc[index]
        heart = np.array([row.x0, row.y0, row.x0 + row.w, row.y0 + row.h]) * SMALL / 224
        np.testing.assert_allclose(heart, film(index).heart, atol=1e-3)
        thorax = np.array([row.thorax_x0, row.thorax_y0, row.thorax_w, row.thorax_h]) * SMALL / 224
        thorax[2:] += thorax[:2]
        np.testing.assert_allclose(thorax, film(index).thorax, atol=1e-3)
        assert row["label"] == "heart"
        assert (row.img_shape_x, row.img_shape_y) == (224, 224)


def test_dicom_shows_the_phantom_with_bone_bright(written):
    seen = set()
    for index, path in enumerate(files(written[0])):
        ds = pydicom.dcmread(path)
        kind = (ds.PhotometricInterpretation, ds.BitsStored)
        if kind in seen:
            continue
        seen.add(kind)
        image = shown(ds)
        assert np.corrcoef(image.ravel(), film(index).image.ravel())[0, 1] > 0.99
        assert np.abs(image - film(index).image).max() < 0.03
    assert len(seen) == 4


def test_dicom_says_what_it_is(written):
    for index, path in enumerate(files(written[0])):
        ds = pydicom.dcmread(path)
        subject = sample_subject(0, index)
        assert ds.PatientID == subject.patient_id
        assert ds.ViewPosition == subject.view
        assert ds.PatientSex == subject.sex
        assert "synthetic" in ds.ImageComments
        assert (ds.Rows, ds.Columns) == (SMALL, SMALL)
        assert float(ds.ImagerPixelSpacing[0]) == pytest.approx(subject.field / SMALL, abs=1e-5)


def test_pydicom_in_strict_mode_finds_nothing(written, monkeypatch, tmp_path):
    settings = pydicom.config.settings
    monkeypatch.setattr(settings, "reading_validation_mode", pydicom.config.RAISE)
    monkeypatch.setattr(settings, "writing_validation_mode", pydicom.config.RAISE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in files(written[0]):
            ds = pydicom.dcmread(path)
            for element in ds.iterall():
                assert element.value is not None or element.VM == 0
            ds.save_as(tmp_path / path.name, enforce_file_format=True)
        dicom.dataset(film(0))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
def test_dciodvfy_finds_no_error(written):
    for path in files(written[0]):
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        lines = (said.stdout + said.stderr).splitlines()
        assert any("DXImageForPresentation" in line for line in lines)
        assert not [line for line in lines if line.startswith("Error")]


def test_a_rerun_keeps_files_and_gives_the_same_bytes(written, tmp_path):
    folder, _ = written
    write_phantoms(tmp_path, count=3, seed=0, size=SMALL, processes=1, progress=False)
    fresh = files(tmp_path)
    assert [f.read_bytes() for f in fresh] == [f.read_bytes() for f in files(folder)[:3]]
    stamps = [f.stat().st_mtime_ns for f in fresh]
    fresh[1].unlink()
    write_phantoms(tmp_path, count=3, seed=0, size=SMALL, processes=1, progress=False)
    assert [f.stat().st_mtime_ns for f in (fresh[0], fresh[2])] == [stamps[0], stamps[2]]
    assert fresh[1].read_bytes() == files(folder)[1].read_bytes()
    write_phantoms(tmp_path, count=3, seed=0, size=128, processes=1, progress=False)
    assert pydicom.dcmread(fresh[0]).Rows == 128  # another size is another film


def test_processes_change_nothing(written, tmp_path):
    write_phantoms(tmp_path, count=2, seed=0, size=SMALL, processes=2, progress=False)
    assert [f.read_bytes() for f in files(tmp_path)] == [f.read_bytes() for f in files(written[0])[:2]]


def test_interrupted_writing_leaves_no_partial_file(tmp_path, monkeypatch):
    def broken(self, path, **kwargs):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(pydicom.dataset.Dataset, "save_as", broken)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path, count=2, seed=0, size=64, processes=1, progress=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "bad", [{"count": 0}, {"seed": -1}, {"size": 20}, {"processes": 0}], ids=lambda bad: next(iter(bad))
)
def test_bad_arguments_are_named(tmp_path, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        write_phantoms(tmp_path, **{"count": 1, "size": 64, "processes": 1, "progress": False, **bad})


def test_bad_subjects_and_sizes_are_named():
    with pytest.raises(ValueError, match="negative"):
        sample_subject(-1, 0)
    with pytest.raises(ValueError, match="negative"):
        sample_subject(0, -1)
    with pytest.raises(ValueError, match="at least 64"):
        render(sample_subject(0, 0), 32)
