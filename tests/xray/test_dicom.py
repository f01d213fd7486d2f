"""What a header says of a film: view, spacing, age, orientation."""

import subprocess
import sys
import warnings

import pytest
from films import RAMP, make
from helpers import ROOT
from pydicom.dataset import Dataset


def test_header_facts(load):
    film = load(make(RAMP, PatientID=" p7 ", ViewPosition="AP ", PixelSpacing=[0.14, 0.14]))
    assert (film.patient_id, film.view) == ("p7", "AP")
    assert film.pixel_spacing == (0.14, 0.14) and film.spacing_kind == "PixelSpacing"
    assert film.notes == ()
    bare = load(make(RAMP))
    assert (bare.patient_id, bare.view, bare.pixel_spacing, bare.spacing_kind) == ("", "", None, None)


def test_view_from_its_code(load):
    code = Dataset()
    code.CodeMeaning = "postero-anterior"
    assert load(make(RAMP, ViewCodeSequence=[code])).view == "PA"


@pytest.mark.parametrize(
    ("meaning", "view"),
    [
        ("postero-anterior", "PA"),
        ("Antero-posterior projection", "AP"),
        ("left lateral", "LEFT LATERAL"),
        ("antero-posterior oblique", "ANTERO-POSTERIOR OBLIQUE"),
    ],
)
def test_the_view_may_stand_in_a_code(load, meaning, view):
    code = Dataset()
    code.CodeMeaning = meaning
    assert load(make(RAMP, ViewCodeSequence=[code])).view == view


def test_detector_spacing_is_noted(load):
    film = load(make(RAMP, ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.0, 0.0]))
    assert film.pixel_spacing == (0.2, 0.2) and film.spacing_kind == "ImagerPixelSpacing"
    assert any("measured at the detector" in note for note in film.notes)
    corrected = load(make(RAMP, ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.18, 0.18]))
    assert corrected.pixel_spacing == (0.18, 0.18) and corrected.notes == ()


@pytest.mark.parametrize("element", [{"PixelSpacing": [0.2, 0.1]}, {"PixelAspectRatio": [2, 1]}])
def test_pixels_that_are_not_square_are_noted(load, element):
    film = load(make(RAMP, **element))
    assert film.image.shape == RAMP.shape
    assert film.notes == ("Pixels are not square (height : width = 2); the image was not resampled.",)


def test_doubtful_kinds_are_noted(load):
    (note,) = load(make(RAMP, PresentationIntentType="FOR PROCESSING")).notes
    assert "raw" in note
    assert load(make(RAMP, Modality="CT")).modality == "CT"


@pytest.mark.parametrize(
    ("age", "child"), [("004Y", True), ("015Y", True), ("016Y", False), ("011M", True), ("", False), ("old", False)]
)
def test_a_child_is_noted(load, age, child):
    ds = make(RAMP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom does not like "old" either
        ds.PatientAge = age
        notes = load(ds).notes
    assert any("child" in note for note in notes) == child


def test_orientation_and_maker(load):
    film = load(make(RAMP, PatientOrientation=["R", "F"], Manufacturer="Maker"))
    assert (film.orientation, film.manufacturer) == ("R\\F", "Maker")
    assert load(make(RAMP)).orientation == ""


def test_reading_is_silent(tmp_path):
    """Neither warnings nor pydicom's log reach a user, however bent the file is."""
    ds = make(RAMP, WindowCenter=2048, WindowWidth=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.PatientID, ds.ViewPosition = "x" * 100, "not a code string " * 3
        ds.StudyDate = "yesterday"
        ds.save_as(tmp_path / "bent.dcm", enforce_file_format=True)
    code = f"from heartbox.xray import load_xray; load_xray({str(tmp_path / 'bent.dcm')!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout == run.stderr == ""
