"""Raw folders -> processed folder: layouts, boxes, splits, statistics, and what is skipped with which reason."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from heartbox.boxes import box_from_mask, scale_boxes
from heartbox.data.layouts import RSNA_COLUMNS, RSNA_CSV, LabelledXRay, find_data, list_xrays, recognise_layout
from heartbox.data.prepare import prepare
from heartbox.data.splits import choose_split, split_by_patient
from heartbox.phantom import write_phantoms


def write_dicom(path: Path, pixels: np.ndarray, patient: str = "", **elements) -> None:
    """Write an 8-bit MONOCHROME2 film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    header.PatientID, header.Rows, header.Columns = patient, *pixels.shape
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation, header.SamplesPerPixel = 7, 0, 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.WindowCenter, header.WindowWidth = 128, 256
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    header.PixelData = pixels.astype(np.uint8).tobytes()
    header.save_as(path, enforce_file_format=True)


def write_rsna(folder: Path, count: int = 10, shape: tuple = (64, 64), patients: int | None = None) -> pd.DataFrame:
    """Write the RSNA layout; film i is flat grey of value 10 + i."""
    rows = []
    for i in range(count):
        patient = f"patient-{i % patients}" if patients else f"film-{i}"
        write_dicom(folder / "stage_2_train_images" / f"film-{i}.dcm", np.full(shape, 10 + i), patient)
        rows.append(["heart", 60 + i, 70, 80, 90, f"film-{i}", 224, 224])
    table = pd.DataFrame(rows, columns=RSNA_COLUMNS)
    table.to_csv(folder / "rsna_heart_detection.csv", index=False)
    return table


def write_ctr(folder: Path, count: int = 6, shape: tuple[int, int] = (100, 50)) -> None:
    """Write the CTR layout: hearts over rows 40..69 and columns 20..34, lungs around them."""
    for source in ("jsrt", "wingspan"):
        for part in ("heart", "left_lung", "right_lung"):
            (folder / source / "mask" / part).mkdir(parents=True)
        (folder / source / "png").mkdir()
        for i in range(count):
            name = f"{source}-{i}.png"
            cv2.imwrite(str(folder / source / "png" / name), np.full(shape, 100, np.uint8))
            masks = {part: np.zeros(shape, np.uint8) for part in ("heart", "left_lung", "right_lung")}
            masks["heart"][40:70, 20:35] = 255
            masks["left_lung"][10:80, 30:45] = 255
            masks["right_lung"][12:75, 5:15] = 255
            for part, mask in masks.items():
                cv2.imwrite(str(folder / source / "mask" / part / name), mask)


def run(folder: Path, out: Path, **options):
    return prepare(folder, out, processes=1, progress=False, **options)


# ---------------------------------------------------------------- layouts


def test_layouts_are_recognised(tmp_path):
    assert recognise_layout(tmp_path) is None
    write_rsna(tmp_path / "rsna", 2)
    write_ctr(tmp_path / "ctr", 2)
    write_phantoms(tmp_path / "phantom", count=2, size=128, progress=False)
    assert [recognise_layout(tmp_path / kind) for kind in ("rsna", "ctr", "phantom")] == ["rsna", "ctr", "phantom"]


def test_real_films_with_chest_boxes_are_no_phantoms(tmp_path):
    write_rsna(tmp_path, 2)
    table = pd.read_csv(tmp_path / RSNA_CSV).assign(thorax_x0=1.0, thorax_y0=2.0, thorax_w=90.0, thorax_h=80.0)
    table.to_csv(tmp_path / RSNA_CSV, index=False)
    assert recognise_layout(tmp_path) == "rsna"
    films, _ = list_xrays(tmp_path)
    assert [film.thorax for film in films] == [(1, 2, 91, 82)] * 2


def test_without_data_phantoms_are_made(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    source = find_data(count=2)
    assert (source.folder, source.layout, source.is_synthetic) == (Path("data/phantom"), "phantom", True)
    assert "2 synthetic" in source.message
    assert recognise_layout(source.folder) == "phantom"


def test_real_data_goes_before_phantoms(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write_phantoms("data/a-phantom", count=1, size=128, progress=False)
    write_ctr(Path("data/ctr"), 2)
    source = find_data(count=1)
    assert (source.folder, source.layout, source.is_synthetic) == (Path("data/ctr"), "ctr", False)


def test_a_wrong_path_is_no_reason_for_phantoms(tmp_path, monkeypatch):
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_data()
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="none of the"):
        find_data()
    with pytest.raises(FileNotFoundError, match="none of the"):
        list_xrays(tmp_path)


def test_the_message_names_no_folder_of_the_machine(tmp_path, monkeypatch):
    write_ctr(tmp_path, 2)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    assert str(tmp_path) not in find_data().message


# ---------------------------------------------------------------- boxes


def test_rsna_boxes(tmp_path):
    write_rsna(tmp_path / "raw", shape=(80, 40))
    prepared = run(tmp_path / "raw", tmp_path / "out")
    first = prepared.labels.iloc[0]
    assert first[["heart_x_min", "heart_y_min", "heart_x_max", "heart_y_max"]].tolist() == [60, 70, 140, 160]
    assert first[[c for c in prepared.labels if c.startswith("thorax")]].isna().all()
    assert (first["rows"], first["columns"], first["source"]) == (80, 40, "rsna")


def test_rsna_boxes_scale_with_the_size(tmp_path):
    write_rsna(tmp_path / "raw")
    labels = run(tmp_path / "raw", tmp_path / "out", size=112).labels
    assert labels.loc[0, "heart_x_max"] == 70


def test_ctr_boxes_come_from_the_masks_by_hand(tmp_path):
    # 100 rows x 50 columns -> 224: y by 2.24, x by 4.48
    write_ctr(tmp_path / "raw")
    labels = run(tmp_path / "raw", tmp_path / "out").labels
    heart = labels.loc[0, ["heart_x_min", "heart_y_min", "heart_x_max", "heart_y_max"]].tolist()
    thorax = labels.loc[0, ["thorax_x_min", "thorax_y_min", "thorax_x_max", "thorax_y_max"]].tolist()
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["split"].startswith("by film")  # PNG: no patient
    assert heart == pytest.approx([89.6, 89.6, 156.8, 156.8])
    assert thorax == pytest.approx([22.4, 22.4, 201.6, 179.2])


def test_phantom_boxes_are_the_exact_ones(tmp_path):
    table = write_phantoms(tmp_path / "raw", count=6, size=256, progress=False)
    labels = run(tmp_path / "raw", tmp_path / "out").labels.set_index("name")
    for row in table.itertuples():
        heart = labels.loc[row.name, ["heart_x_min", "heart_y_min", "heart_x_max", "heart_y_max"]].tolist()
        assert heart == pytest.approx([row.x0, row.y0, row.x0 + row.w, row.y0 + row.h], abs=1e-3)
    assert labels["thorax_x_min"].notna().all()


def test_images_are_as_read_and_resized(tmp_path):
    write_rsna(tmp_path / "raw", 3)
    prepared = run(tmp_path / "raw", tmp_path / "out", size=32)
    images = np.load(tmp_path / "out" / "images.npy", mmap_mode="r")
    assert (images.shape, images.dtype) == ((3, 32, 32), np.float16)
    # the window 128 / 256 maps 10 to about 10 / 255
    assert images[0, 5, 5] == pytest.approx(10 / 255, abs=2e-3)
    assert prepared.labels["name"].tolist() == ["film-0", "film-1", "film-2"]


def test_pixel_spacing_is_kept(tmp_path):
    write_rsna(tmp_path / "raw", 3)
    write_dicom(tmp_path / "raw/stage_2_train_images/film-1.dcm", np.full((64, 64), 9), PixelSpacing=[0.143, 0.2])
    labels = run(tmp_path / "raw", tmp_path / "out").labels
    assert labels.loc[1, "pixel_spacing"] == "0.143\\0.2"
    assert pd.isna(labels.loc[0, "pixel_spacing"])


# ---------------------------------------------------------------- splits


def test_no_patient_on_both_sides(tmp_path):
    write_rsna(tmp_path / "raw", 40, patients=13)
    labels = run(tmp_path / "raw", tmp_path / "out").labels
    patient = labels["name"].str.removeprefix("film-").astype(int) % 13
    assert labels.groupby(patient)["split"].nunique().max() == 1
    assert 4 <= (labels["split"] == "val").sum() <= 12


def test_the_seed_decides_the_split():
    patients, sources = [str(i) for i in range(100)], ["here"] * 100
    first = split_by_patient(patients, sources, seed=1)
    assert first == split_by_patient(patients, sources, seed=1)
    assert first != split_by_patient(patients, sources, seed=2)
    assert first.count("val") == 20


def test_each_collection_is_on_both_sides():
    sources = ["a"] * 50 + ["b"] * 10
    split = split_by_patient([str(i) for i in range(60)], sources, seed=0)
    assert [split[:50].count("val"), split[50:].count("val")] == [10, 2]


def test_one_patient_cannot_be_split():
    with pytest.raises(ValueError, match="one patient"):
        split_by_patient(["a", "a"], ["here", "here"])
    assert sorted(split_by_patient(["a", "b"], ["here", "there"])) == ["train", "val"]


def films(count: int) -> list[LabelledXRay]:
    return [LabelledXRay(str(row), "rsna", Path("x"), row) for row in range(count)]


def test_the_published_split():
    split, rule = choose_split(films(496), [str(i) for i in range(496)], "rsna", 0, 0.2)
    assert split == ["train"] * 400 + ["val"] * 96
    assert rule.startswith("published")


def test_the_published_split_never_cuts_through_a_patient():
    patients = [str(i) for i in range(496)]
    patients[3] = patients[450]
    split, _ = choose_split(films(496), patients, "rsna", 0, 0.2)
    assert split[3] == "unused"
    assert split[450] == "val"


def test_a_short_csv_of_one_s_own_is_split_by_patient():
    split, rule = choose_split(films(10), [str(i) for i in range(10)], "rsna", 0, 0.2)
    assert (split.count("val"), rule) == (2, "by patient, seed 0")


# ---------------------------------------------------------------- statistics


def test_statistics_are_of_the_training_split_alone(tmp_path):
    write_rsna(tmp_path / "raw", 20)
    prepared = run(tmp_path / "raw", tmp_path / "out")
    images = np.load(tmp_path / "out" / "images.npy").astype(np.float64)
    train = images[(prepared.labels["split"] == "train").to_numpy()]
    assert prepared.stats["mean"] == pytest.approx(train.mean(), abs=1e-12)
    assert prepared.stats["std"] == pytest.approx(train.std(), abs=1e-9)
    assert prepared.stats["mean"] != pytest.approx(images.mean(), abs=1e-6)
    assert prepared.stats["counts"] == {"train": 16, "val": 4, "skipped": 0, "low_contrast": 20}


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    write_rsna(tmp_path / "raw", 40)
    for out, processes in (("one", 1), ("two", 2)):
        prepare(tmp_path / "raw", tmp_path / out, size=32, processes=processes, progress=False)
    for name in ("images.npy", "labels.csv", "stats.json", "skipped.csv", "patients.csv"):
        digests = [hashlib.sha256((tmp_path / out / name).read_bytes()).hexdigest() for out in ("one", "two")]
        assert digests[0] == digests[1], name
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "images.npy", "labels.csv", "patients.csv", "skipped.csv", "stats.json"
    ]  # fmt: skip
    assert json.loads((tmp_path / "one" / "stats.json").read_text())["layout"] == "rsna"


# ---------------------------------------------------------------- what is wrong is said


def test_bad_films_are_skipped_with_their_reason(tmp_path):
    table = write_rsna(tmp_path / "raw", 14)
    folder = tmp_path / "raw" / "stage_2_train_images"
    (folder / "film-1.dcm").write_bytes((folder / "film-1.dcm").read_bytes()[:600])  # cut off
    (folder / "film-2.dcm").write_text("not a film")
    (folder / "film-3.dcm").unlink()
    table.loc[4, ["x0", "y0", "w", "h"]] = [300, 10, 20, 20]
    table.loc[5, "w"] = 0
    table = table.astype(dict.fromkeys(("x0", "y0", "w", "h"), float))
    table.loc[0, ["x0", "y0", "w", "h"]] = [0.1, 0.2, 0.3, 0.4]
    table.loc[6, "x0"] = np.nan
    table.loc[7, "label"] = "lung"
    table = table.astype({"img_shape_x": object})
    table.loc[8, "img_shape_x"] = "wide"
    table.loc[9, "w"] = 900
    table.loc[10, "name"] = "film-10.dcm"  # a name with its ending is understood
    table = pd.concat([table, table[11:12], table[10:11].assign(w=33)])
    table.to_csv(tmp_path / "raw" / "rsna_heart_detection.csv", index=False)
    prepared = run(tmp_path / "raw", tmp_path / "out")
    reasons = dict(zip(prepared.skipped["name"], prepared.skipped["reason"], strict=True))
    assert set(reasons) == {f"film-{i}" for i in range(12)}
    assert reasons["film-1"].startswith("film-1.dcm")  # named without the folders of this machine
    assert "row 9 of the csv: the label is 'lung'" in reasons["film-7"]
    assert "row 10 of the csv: a box is four numbers" in reasons["film-8"]
    assert "reaches outside the image" in reasons["film-9"]
    assert "no stage_2_train_images/film-3.dcm" in reasons["film-3"]
    assert "outside the image" in reasons["film-4"]
    assert "empty" in reasons["film-5"]
    assert reasons["film-11"] == "a second row for the same image; the first is used"
    assert reasons["film-10"].endswith("a second row for the same image, with another box; neither is used")
    assert "less than a pixel" in reasons["film-0"]
    assert prepared.stats["counts"]["skipped"] == 12
    assert "12 skipped" in prepared.summary()
    assert len(np.load(tmp_path / "out" / "images.npy")) == len(prepared.labels) == 3
    assert pd.read_csv(tmp_path / "out" / "skipped.csv")["name"].tolist() == prepared.skipped["name"].tolist()


def test_bad_masks_are_skipped_with_their_reason(tmp_path):
    write_ctr(tmp_path / "raw")
    masks = tmp_path / "raw" / "jsrt" / "mask"
    (masks / "left_lung" / "jsrt-0.png").unlink()
    cv2.imwrite(str(masks / "heart" / "jsrt-1.png"), np.zeros((100, 50), np.uint8))
    cv2.imwrite(str(masks / "heart" / "jsrt-2.png"), np.full((50, 50), 255, np.uint8))
    skipped = run(tmp_path / "raw", tmp_path / "out").skipped.set_index("name")["reason"]
    assert "no mask of left_lung" in skipped["jsrt-0"]
    assert "heart is empty" in skipped["jsrt-1"]
    assert "(50, 50)" in skipped["jsrt-2"]


def test_nothing_readable_leaves_nothing_behind(tmp_path):
    write_rsna(tmp_path / "raw", 3)
    for path in (tmp_path / "raw" / "stage_2_train_images").iterdir():
        path.write_text("not a film")
    with pytest.raises(ValueError, match="not one X-ray"):
        run(tmp_path / "raw", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_csv_without_its_columns(tmp_path):
    write_rsna(tmp_path, 2).drop(columns="w").to_csv(tmp_path / "rsna_heart_detection.csv", index=False)
    with pytest.raises(ValueError, match="column w is missing"):
        list_xrays(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b"label;x0;y0;w;h\nheart;1;2;3;4\n"])
def test_a_csv_that_is_none_is_named(tmp_path, content):
    write_rsna(tmp_path, 2)
    (tmp_path / "rsna_heart_detection.csv").write_bytes(content)
    with pytest.raises(ValueError, match="rsna_heart_detection.csv: .*(csv|commas)"):
        list_xrays(tmp_path)


def test_masks_of_zeros_and_ones(tmp_path):
    write_ctr(tmp_path / "raw", 2)
    for path in (tmp_path / "raw").rglob("mask/*/*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255)
    labels = run(tmp_path / "raw", tmp_path / "out").labels
    assert labels["heart_x_min"].tolist() == pytest.approx([89.6] * 4)


def test_a_stopped_run_leaves_no_mixture(tmp_path, monkeypatch):
    write_rsna(tmp_path / "raw", 8)
    run(tmp_path / "raw", tmp_path / "out")
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *_, **__: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception):
        run(tmp_path / "raw", tmp_path / "out", size=32)
    assert not (tmp_path / "out" / "stats.json").exists()


def test_films_without_contrast_are_counted(tmp_path):
    write_rsna(tmp_path / "raw", 4)  # flat grey, all of them
    with pytest.raises(ValueError, match="where the raw files lie"):
        prepare(tmp_path / "raw", tmp_path / "raw")
    prepared = run(tmp_path / "raw", tmp_path / "out")
    assert prepared.stats["counts"]["low_contrast"] == 4
    assert "4 of them have hardly any contrast" in prepared.summary()


def test_limit_takes_films_from_the_whole_list(tmp_path):
    write_rsna(tmp_path / "raw", 20)
    assert run(tmp_path / "raw", tmp_path / "out", limit=3).labels["name"].tolist() == ["film-0", "film-9", "film-19"]


# ---------------------------------------------------------------- real data


def test_real_ctr_films(real_data, tmp_path):
    prepared = run(real_data / "ctr", tmp_path, limit=24)
    assert prepared.stats["layout"] == "ctr"
    assert len(prepared.skipped) == 0
    assert set(prepared.labels["source"]) == {"jsrt", "wingspan"}
    name = prepared.labels.loc[0, "name"]
    mask = cv2.imread(str(real_data / "ctr/jsrt/mask/heart" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) > 127
    expected = scale_boxes(box_from_mask(mask), mask.shape, (224, 224))
    found = prepared.labels.loc[0, ["heart_x_min", "heart_y_min", "heart_x_max", "heart_y_max"]].tolist()
    assert found == pytest.approx(expected.tolist(), abs=1e-3)


def test_real_rsna_files(real_data, tmp_path):
    """Any ten of the real files in the RSNA layout, with made-up rows."""
    (tmp_path / "raw" / "stage_2_train_images").mkdir(parents=True)
    rows = []
    for path in sorted((real_data / "dicom").glob("0*.dcm"))[:10]:
        copy = tmp_path / "raw" / "stage_2_train_images" / path.name
        copy.write_bytes(path.read_bytes())
        rows.append(["heart", 91, 71, 77, 102, path.stem, 224, 224])
    pd.DataFrame(rows, columns=RSNA_COLUMNS).to_csv(tmp_path / "raw" / "rsna_heart_detection.csv", index=False)
    prepared = run(tmp_path / "raw", tmp_path / "out")
    assert prepared.stats["counts"] == {"train": 8, "val": 2, "skipped": 0, "low_contrast": 0}
    assert prepared.labels["pixel_spacing"].notna().all()
    assert pydicom.dcmread(copy, stop_before_pixels=True).Rows == prepared.labels["rows"].iloc[-1]
    images = np.load(tmp_path / "out" / "images.npy").astype(float)
    assert (images.std(axis=(1, 2)) > 0.1).all()  # each has contrast


def test_the_real_csv_without_its_images(real_data, tmp_path):
    (tmp_path / "stage_2_train_images").mkdir()
    shutil.copy(real_data / "rsna" / "rsna_heart_detection.csv", tmp_path)
    with pytest.raises(ValueError, match="no labelled X-ray can be used.*there is no stage_2_train_images/"):
        list_xrays(tmp_path)


def test_films_that_are_left_out_contradict_themselves(real_data):
    """Every film of the list that is here has a lung's mask over a good part of its heart's, and no other film has."""
    films, _ = list_xrays(real_data / "ctr")
    overlaps = {}
    for film in films:
        heart, *lungs = (cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) > 127 for mask in film.masks)
        overlaps[film.name] = (heart & (lungs[0] | lungs[1])).sum() / heart.sum(), bool(film.excluded)
    assert all((share > 0.15) == excluded for share, excluded in overlaps.values())
    assert sum(excluded for _, excluded in overlaps.values()) == 12


def test_left_out_films_are_used_for_nothing(real_data, tmp_path):
    films, _ = list_xrays(real_data / "ctr")
    names = [film.name for film in films if film.excluded][:2] + [f.name for f in films if not f.excluded][:4]
    for film in films:
        if film.name in names:
            for path in (film.path, *film.masks):
                target = tmp_path / "ctr" / path.relative_to(real_data / "ctr")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    prepared = prepare(tmp_path / "ctr", tmp_path / "out", progress=False)
    unused = prepared.labels["split"] == "unused"
    assert set(prepared.labels["name"][unused]) == set(names[:2])
    assert "2 are prepared but used for nothing" in prepared.summary()


def test_patients_are_numbers(tmp_path):
    """Whose film each is can be told apart, and nobody can be told."""
    write_rsna(tmp_path / "raw", 9, patients=3)
    prepared = prepare(tmp_path / "raw", tmp_path / "out", size=64, progress=False)
    patients = pd.read_csv(tmp_path / "out" / "patients.csv")
    assert patients["name"].tolist() == prepared.labels["name"].tolist()
    assert patients["patient"].tolist() == [0, 1, 2] * 3
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"patient-" not in written
