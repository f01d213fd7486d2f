"""What was named -> images: folders, zips, DICOMDIRs, and what is wrong with each."""

import copy
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from helpers import ROOT
from pydicom.fileset import FileSet

from heartbox.phantom import write_phantoms
from heartbox.xray.discovery import find_xrays
from heartbox.xray.errors import XRayError
from heartbox.xray.reader import load_xray
from heartbox.xray.source import temporary_folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Return one phantom as a DICOM file."""
    folder = tmp_path_factory.mktemp("film")
    write_phantoms(folder, 1, size=64, progress=False)
    return next((folder / "stage_2_train_images").glob("*.dcm"))


def png(value: int) -> bytes:
    return cv2.imencode(".png", np.arange(140 * 140).reshape(140, 140).astype(np.uint8) // (1 + value))[1].tobytes()


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
    with pytest.raises(XRayError, match=r"films.zip/broken.dcm: this is not a DICOM"), source.file() as path:
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


def test_an_archive_in_an_archive_and_an_encrypted_member_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as stream:
        stream.writestr("a.png", png(7))
    inner = bytearray((tmp_path / "in.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as stream:
        stream.writestr("deep/in.zip", bytes(inner))
        stream.writestr("__MACOSX/._in.zip", "not looked at")
        stream.writestr("b.png", png(8))
    good, nested = find_xrays([tmp_path / "out.zip"])
    assert (good.member, good.error) == ("b.png", "")
    with pytest.raises(XRayError, match=r"out.zip/deep/in.zip: a zip archive in a zip archive is not"), nested.file():
        pass
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        inner[inner.index(mark) + place] |= 1
    (tmp_path / "in.zip").write_bytes(inner)
    (source,) = find_xrays([tmp_path / "in.zip"])
    with pytest.raises(XRayError, match=r"in.zip/a.png: cannot be unpacked \(it is encrypted\)"), source.file():
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
    monkeypatch.setattr("heartbox.xray.source.MAX_FILE_BYTES", 10_000)
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
    record.ReferencedFileID = ["FILM"]
    listing.DirectoryRecordSequence.append(copy.deepcopy(record))
    record.ReferencedFileID = ["..", "SECRET"]
    (tmp_path / "medium" / "FILM").write_bytes(film.read_bytes())
    listing.save_as(tmp_path / "medium" / "DICOMDIR")
    good, outside = find_xrays([tmp_path / "medium" / "DICOMDIR"])
    assert (good.path.name, good.error) == ("FILM", "")
    assert outside.error == "1 of its images lie outside its folder, and are not opened."


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


def test_two_members_of_one_name_are_each_read_once(tmp_path):
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the name
        for value in (0, 1):
            stream.writestr("a.png", png(value))
        stream.writestr("A.PNG", png(2))
    sources = find_xrays([archive])
    assert [Path(source.name).name for source in sources] == ["A.PNG", "a.png", "a.png (number 2 of this name)"]
    images = []
    for source in sources:
        with source.file() as path:
            images.append(load_xray(path).image)
    for image, value in zip(images, (2, 0, 1), strict=True):
        (tmp_path / "one.png").write_bytes(png(value))
        np.testing.assert_array_equal(image, load_xray(tmp_path / "one.png").image)


@pytest.mark.parametrize("change", [str.lower, lambda name: f"{name}.dcm", lambda name: f"{name.lower()};1", str.title])
def test_dicomdir_names_as_they_were_copied(film, tmp_path, change):
    files = FileSet()
    files.add(film)
    files.write(tmp_path / "medium")
    for path in sorted((tmp_path / "medium").rglob("*"), key=lambda path: -len(path.parts)):
        if path.name != "DICOMDIR":
            folders = {str.lower: str.lower, str.title: str.title}.get(change, str)
            path.rename(path.with_name((change if path.is_file() else folders)(path.name)))
    (source,) = find_xrays([tmp_path / "medium" / "DICOMDIR"])
    with source.file() as path:
        np.testing.assert_array_equal(load_xray(path).image, load_xray(film).image)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_linked_folders_are_entered_once_and_loops_broken(tmp_path):
    elsewhere, films = tmp_path / "elsewhere", tmp_path / "films"
    (elsewhere / "deep").mkdir(parents=True)
    (films / "real").mkdir(parents=True)
    (elsewhere / "deep" / "far.png").write_bytes(png(0))
    (films / "real" / "near.png").write_bytes(png(1))
    (films / "a-link").symlink_to(elsewhere)
    (films / "b-link").symlink_to(elsewhere)  # the same folder again
    (films / "a-link-to-real").symlink_to(films / "real")
    (elsewhere / "deep" / "back").symlink_to(films)  # a loop
    (films / "real" / "self").symlink_to(films / "real")
    (films / "gone").symlink_to(tmp_path / "nowhere")
    found = [source.path.relative_to(films).as_posix() for source in find_xrays([films])]
    assert found == ["a-link/deep/far.png", "real/near.png"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_names_that_are_not_utf8_are_listed_and_can_be_printed(tmp_path):
    names = {
        b"r\xf6ntgen.png": "r\\xf6ntgen.png",
        b"line\nbreak.png": "line\\x0abreak.png",
        "Röntgen.png".encode(): "Röntgen.png",
    }
    for name in names:
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(png(0))
    sources = find_xrays([tmp_path])
    assert sorted(Path(source.name).name for source in sources) == sorted(names.values())
    for source in sources:
        source.name.encode("utf-8")
        with source.file() as path:
            assert load_xray(path).image.shape == (140, 140)
        path.write_bytes(b"no film")
        with pytest.raises(XRayError) as caught:
            load_xray(path)
        assert Path(source.name).name in str(caught.value)
        str(caught.value).encode("utf-8")


def test_what_a_killed_run_left_is_gone_at_the_next(tmp_path, monkeypatch):
    """A patient's film must not stay in the temporary folder; one that another run has in use must."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code = (
        "import os, sys; from heartbox.xray.source import temporary_folder\n"
        "with temporary_folder() as folder:\n"
        "    (folder / 'member.dcm').write_text('a film'); print(folder, flush=True)\n"
        "    sys.stdin.readline(); os._exit(9)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    left = Path(run.stdout.readline().strip())
    assert left.parent == tmp_path
    with temporary_folder() as folder:
        assert left.exists() and folder != left  # still in use
    run.communicate("\n")
    assert run.returncode == 9 and (left / "member.dcm").exists()
    with temporary_folder():
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_beside_others_is_said(film, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    answered, said = find_xrays([film, empty])
    assert not answered.error and "holds no X-ray files" in said.error and said.name.endswith("empty")
    assert find_xrays([empty]) == []  # alone, whoever asked says so
