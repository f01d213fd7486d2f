"""Answers as DICOM: read back, they say what the detector said, of the same patient and study."""

import dataclasses
import warnings
import zipfile

import highdicom
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch

from heartbox.cli import main
from heartbox.inference.detector import HeartDetector
from heartbox.inference.quality_checks import QualityFlag
from heartbox.phantom import write_phantoms
from heartbox.reporting.detection_plots import draw_detection
from heartbox.reporting.dicom_sr import write_measurement_report, write_secondary_capture
from heartbox.xray.errors import XRayError


@pytest.fixture
def weights(weights):
    """Return weights that say that they are for phantoms, so that a phantom's answer has no warnings."""
    saved = torch.load(weights, weights_only=True)
    saved["config"]["layout"] = "phantom"
    torch.save(saved, weights)
    return weights


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    write_phantoms(folder, 1, size=256, progress=False)
    return next((folder / "stage_2_train_images").glob("*.dcm"))


def test_the_report_says_what_was_found(weights, film, tmp_path):
    found = HeartDetector.from_weights(weights).detect(film)
    report = highdicom.sr.srread(write_measurement_report(tmp_path / "sr.dcm", film, found))
    source = pydicom.dcmread(film)
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"
    assert (report.PatientID, report.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    (group,) = report.content.get_image_measurement_groups()
    measured = {one.name.meaning: (one.value, one.unit.value) for one in group.get_measurements()}
    assert measured["Cardiothoracic ratio"] == (pytest.approx(found.ctr, abs=5e-5), "{ratio}")
    width, unit = measured["Greatest transverse diameter of heart"]
    spacing = found.xray.pixel_spacing[1] if found.heart_mm else 1.0
    assert width == pytest.approx((found.heart[2] - found.heart[0]) * spacing, abs=5e-3)
    assert unit == ("mm" if found.heart_mm else "{pixels}")
    (box,) = report.content.get_planar_roi_measurement_groups()
    corners = box.roi.value
    assert [*corners.min(axis=0), *corners.max(axis=0)] == pytest.approx(found.heart, abs=1e-3)
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert evidence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert report.VerificationFlag == "UNVERIFIED"


def test_the_overlay_is_a_picture_in_the_same_study(weights, film, tmp_path):
    found = HeartDetector.from_weights(weights).detect(film)
    capture = pydicom.dcmread(write_secondary_capture(tmp_path / "sc.dcm", film, draw_detection(found)))
    source = pydicom.dcmread(film)
    assert capture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert capture.SeriesInstanceUID != source.SeriesInstanceUID
    assert capture.pixel_array.ndim == 3
    assert np.ptp(capture.pixel_array) > 200


def test_an_answer_with_warnings_is_not_reported(weights, film, tmp_path):
    flag = QualityFlag("other-body-part", "It is a dog.")
    found = dataclasses.replace(HeartDetector.from_weights(weights).detect(film), warnings=(flag,))
    with pytest.raises(XRayError, match="warnings .other-body-part."):
        write_measurement_report(tmp_path / "sr.dcm", film, found)
    assert not (tmp_path / "sr.dcm").exists()


def test_what_cannot_be_referred_to(weights, film, tmp_path):
    found = HeartDetector.from_weights(weights).detect(film)
    (tmp_path / "text.dcm").write_text("no film")
    with pytest.raises(XRayError, match="text.dcm: not a DICOM image"):
        write_measurement_report(tmp_path / "sr.dcm", tmp_path / "text.dcm", found)
    with pytest.raises(XRayError, match="nowhere.dcm: cannot be read"):
        write_secondary_capture(tmp_path / "sc.dcm", tmp_path / "nowhere.dcm", draw_detection(found))
    assert not list(tmp_path.glob("s?.dcm"))


def test_from_the_command_line(weights, film, tmp_path):
    out = tmp_path / "out"
    arguments = [str(film), "--weights", str(weights), "--dicom-sr", str(out / "sr"), "--dicom-sc", str(out / "sc")]
    assert main(arguments) == 0
    assert len(list((out / "sr").glob("*.dcm"))) == len(list((out / "sc").glob("*.dcm"))) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", "U"),
        ("StudyDate", "19.01.2020"),
        ("StudyTime", "10:22"),
        ("PatientBirthDate", "unknown"),
        ("PatientBirthDate", "19991399"),
        ("PatientID", "x" * 65),
    ],
)
def test_what_dicom_forbids_is_left_out(weights, film, tmp_path, keyword, value, monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
    source = pydicom.dcmread(film)
    setattr(source, keyword, value)
    source.save_as(tmp_path / "film.dcm")
    found = HeartDetector.from_weights(weights).detect(film)
    report = write_measurement_report(tmp_path / "sr.dcm", tmp_path / "film.dcm", found)
    capture = write_secondary_capture(tmp_path / "sc.dcm", tmp_path / "film.dcm", draw_detection(found))
    for path in (report, capture):
        written = pydicom.dcmread(path)
        assert not written[keyword].value
        assert written.StudyInstanceUID == source.StudyInstanceUID


def test_a_report_written_again_has_the_same_uids_and_other_weights_give_others(weights, film, tmp_path):
    found = HeartDetector.from_weights(weights).detect(film)

    def uids(answer) -> list[str]:
        report = pydicom.dcmread(write_measurement_report(tmp_path / "sr.dcm", film, answer))
        capture = pydicom.dcmread(write_secondary_capture(tmp_path / "sc.dcm", film, plt.figure(), answer.weights))
        return [getattr(one, key) for one in (report, capture) for key in ("SOPInstanceUID", "SeriesInstanceUID")]

    first = uids(found)
    assert uids(found) == first
    assert len(set(first)) == 4
    assert not set(uids(dataclasses.replace(found, weights="others"))) & set(first)
    plt.close("all")


def test_caveats_stand_in_the_report(weights, film, tmp_path):
    notes = ("View AP: the heart appears too wide.", "PixelSpacing is measured at the detector.")
    found = dataclasses.replace(HeartDetector.from_weights(weights).detect(film), notes=notes)
    report = pydicom.dcmread(write_measurement_report(tmp_path / "sr.dcm", film, found))
    texts = [element.value for element in report.iterall() if element.keyword == "TextValue"]
    assert set(notes) <= set(texts)
    assert any(found.weights in text for text in texts)


def test_the_overlay_refers_to_its_source_and_says_whether_words_are_burned_in(weights, film, tmp_path):
    source = pydicom.dcmread(film)
    for said, expected in (("NO", "NO"), ("YES", "YES"), (None, "YES")):
        source.BurnedInAnnotation = said
        source.save_as(tmp_path / "film.dcm")
        capture = pydicom.dcmread(write_secondary_capture(tmp_path / "sc.dcm", tmp_path / "film.dcm", plt.figure()))
        assert capture.BurnedInAnnotation == expected
    (reference,) = capture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    plt.close("all")


@pytest.mark.parametrize(
    ("charset", "name", "kept"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 100", "Müller^Jörg", "Müller^Jörg"),
        ("ISO_IR 192", "Иванов^Иван", "Иванов^Иван"),
        ("nonsense", "Doe^Jane", "Doe^Jane"),
        ("ISO_IR 192", "Doe\x07^Jane", "Doe^Jane"),
        ("ISO_IR 192", ["Doe^Jane", "Roe^Jane"], "Doe^Jane"),
        ("ISO_IR 192", "x" * 90, ""),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_in_any_character_set_are_copied_as_unicode(weights, film, tmp_path, charset, name, kept):
    source = pydicom.dcmread(film)
    source.SpecificCharacterSet, source.PatientName = charset, name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.save_as(tmp_path / "film.dcm")
    found = HeartDetector.from_weights(weights).detect(film)
    report = pydicom.dcmread(write_measurement_report(tmp_path / "sr.dcm", tmp_path / "film.dcm", found))
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert str(report.PatientName) == kept


@pytest.mark.parametrize("uid", ["1.02.3", "1.2.abc", "1." + "2" * 70])
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_identifiers_that_no_archive_takes_are_replaced(weights, film, tmp_path, keyword, uid, monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    source = pydicom.dcmread(film)
    setattr(source, keyword, uid)
    source.save_as(tmp_path / "film.dcm")
    found = HeartDetector.from_weights(weights).detect(film)
    reports = [
        pydicom.dcmread(write_measurement_report(tmp_path / f"{i}.dcm", tmp_path / "film.dcm", found)) for i in (0, 1)
    ]
    assert reports[0].StudyInstanceUID == reports[1].StudyInstanceUID  # films of one study stay together
    assert (reports[0].StudyInstanceUID == source.StudyInstanceUID) == (keyword != "StudyInstanceUID")
    capture = pydicom.dcmread(
        write_secondary_capture(tmp_path / "sc.dcm", tmp_path / "film.dcm", draw_detection(found))
    )
    assert capture.StudyInstanceUID == reports[0].StudyInstanceUID
    assert capture.ImageComments.startswith("Not valid in the source, and replaced")
    assert f"another UID: {keyword}. " in capture.ImageComments
    for written in (*reports, capture):
        uids = [one.value for one in written.iterall() if one.VR == "UI"]
        assert uid not in uids
        assert all(value.is_valid for value in uids)
    assert capture.ImageComments in [one.value for one in reports[0].iterall() if one.keyword == "TextValue"]


@pytest.mark.parametrize("kind", ["1.2.840.10008.5.1.4.1.1.7.3", "1.2.840.10008.5.1.4.1.1.12.2", None])
def test_a_report_about_a_film_of_several_frames_means_the_first(weights, film, tmp_path, kind):
    source = pydicom.dcmread(film)
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = kind or source.SOPClassUID
    source.NumberOfFrames, source.PixelData = 3, source.PixelData * 3
    source.save_as(tmp_path / "film.dcm")
    found = HeartDetector.from_weights(weights).detect(tmp_path / "film.dcm")
    assert any("First frame of 3 read. To have the others answered" in note for note in found.notes)
    report = pydicom.dcmread(write_measurement_report(tmp_path / "sr.dcm", tmp_path / "film.dcm", found))
    frames = [one.value for one in report.iterall() if one.keyword == "ReferencedFrameNumber"]
    # Validators object to a frame's number where the kind of image has no frames.
    assert set(frames) == ({1} if kind else set())
    capture = pydicom.dcmread(
        write_secondary_capture(tmp_path / "sc.dcm", tmp_path / "film.dcm", draw_detection(found))
    )
    assert capture.SourceImageSequence[0].get("ReferencedFrameNumber") == (1 if kind else None)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_header_that_cannot_be_copied_costs_its_report_alone(weights, film, tmp_path, capsys):
    folder = tmp_path / "films"
    folder.mkdir()
    source = pydicom.dcmread(film)
    for name, kind in (("a", "1.2.840.10008.1.1"), ("b", source.SOPClassUID)):
        source.SOPClassUID = kind
        source.save_as(folder / f"{name}.dcm")
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        archive.write(folder / "a.dcm", "inside.dcm")
    arguments = [str(folder), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]
    plt.close("all")
    assert (
        main([*arguments, "--workers", "0", "--dicom-sr", str(tmp_path / "sr"), "--dicom-sc", str(tmp_path / "sc")])
        == 0
    )
    notes = pd.read_csv(tmp_path / "t.csv")["notes"].fillna("")
    assert notes.str.contains("No DICOM report: .*header cannot be copied").tolist() == [True, False, True]
    assert "No DICOM report: its header" in notes[2]  # the film is named in the same row, the temporary file nowhere
    assert "c.zip/inside.dcm: its header" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "sr").iterdir()] == ["00002-b.dcm"]
    assert not plt.get_fignums()  # hundreds of films would fill the memory
