"""What was named -> images: folders, zips, DICOMDIRs, and what is wrong with each."""

import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from heartbox.phantom import write_phantoms
from heartbox.xray.discovery import find_xrays
from heartbox.xray.errors import XRayError
from heartbox.xray.reader import load_xray


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Return one phantom as a DICOM file."""
    folder = tmp_path_factory.mktemp("film")
    write_phantoms(folder, 1, size=64, progress=False)
    return next((folder / "stage_2_train_images").glob("*.dcm"))


def png(value: int) -> bytes:
    return cv2.imencode(".png", np.full((140, 140), value, np.uint8))[1].tobytes()


def test_a_zip_lists_its_films_and_reads_them(film, tmp_path):
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr("b/two.png", png(9))
        stream.write(film, "a/one")  # no ending, known by its preamble
        stream.writestr("../../outside.png", png(10))
        stream.writestr("notes.txt", "not looked at")
        stream.writestr("__MACOSX/._two.png", "not looked at")
    sources = find_xrays([archive])
    assert [source.member for source in sources] == ["../../outside.png", "a/one", "b/two.png"]
    assert sources[1].name == f"{archive.as_posix()}/a/one"
    for source in sources:
        with source.file() as path:
            assert load_xray(path).image.ndim == 2
            assert path.parent.name.startswith("heartbox-")
        assert not path.exists()
    assert not (tmp_path.parent / "outside.png").exists()


def test_an_error_in_a_zip_names_the_member(tmp_path):
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("broken.dcm", "no film")
    (source,) = find_xrays([archive])
    with pytest.raises(XRayError, match=r"films.zip/broken.dcm: this is no DICOM"), source.file() as path:
        load_xray(path)


def test_archives_that_cannot_be_read(tmp_path):
    (tmp_path / "text.zip").write_text("not a zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as stream:
        stream.writestr("notes.txt", "nothing here")
    sources = find_xrays([tmp_path])
    assert [source.error.split(".")[0] for source in sources] == [
        "holds no X-ray files",
        "cannot be read as a zip archive (File is not a zip file)",
    ]
    with pytest.raises(XRayError, match="empty.zip: holds no X-ray files"), sources[0].file():
        pass


def test_a_damaged_member(tmp_path):
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("a.png", png(7))
    data = bytearray(archive.read_bytes())
    data[60] ^= 0xFF  # within the member: its checksum no longer holds
    archive.write_bytes(data)
    (source,) = find_xrays([archive])
    with pytest.raises(XRayError, match="cannot be unpacked"), source.file():
        pass


def test_a_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("heartbox.xray.discovery.MAX_FILE_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr("a.png", bytes(1_000_000))
    (source,) = find_xrays([tmp_path / "bomb.zip"])
    with pytest.raises(XRayError, match="when unpacked"), source.file():
        pass


def test_a_dicomdir_lists_its_films(film, tmp_path):
    files = FileSet()
    files.add(film)
    files.write(tmp_path / "medium")
    (source,) = find_xrays([tmp_path / "medium" / "DICOMDIR"])
    with source.file() as path:
        assert np.array_equal(load_xray(path).image, load_xray(film).image)
    assert len(find_xrays([tmp_path / "medium"])) == 1  # as a folder: the film once, and not the DICOMDIR


def test_dicomdirs_that_lead_nowhere(film, tmp_path):
    (tmp_path / "DICOMDIR").write_text("no directory")
    (source,) = find_xrays([tmp_path / "DICOMDIR"])
    assert "cannot be read as a DICOMDIR" in source.error
    files = FileSet()
    files.add(film)
    files.write(tmp_path / "medium")
    listing = pydicom.dcmread(tmp_path / "medium" / "DICOMDIR")
    for record in listing.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "SECRET"]
    listing.save_as(tmp_path / "medium" / "DICOMDIR")
    (source,) = find_xrays([tmp_path / "medium" / "DICOMDIR"])
    assert "lists no images" in source.error


def test_files_are_taken_as_named(tmp_path):
    (source,) = find_xrays([tmp_path / "nowhere.dcm"])
    with pytest.raises(XRayError, match="no such file"), source.file() as path:
        load_xray(path)


def test_a_locked_folder_is_named(tmp_path, monkeypatch):
    """As an ordinary user meets it; the tests may run as one whom no folder is locked to."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.png").write_bytes(png(0))
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refuse(place):
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_xrays([tmp_path])
    assert [Path(source.name).name for source in found] == ["a.png", "locked"]
    assert found[1].error == "this folder cannot be opened (Permission denied)."
