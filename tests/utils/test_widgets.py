"""The upload button: a file of any size lies in the folder, stays there, and without anywidget there is no button."""

import sys

import pytest

from heartbox.utils import widgets
from heartbox.utils.notebook import StopHere
from heartbox.utils.widgets import FileReceiver, upload_button, uploaded_file

PART = 1 << 20


@pytest.fixture(autouse=True)
def new_session(monkeypatch):
    monkeypatch.setattr(widgets, "_buttons", {})


def send(receiver: FileReceiver, name: str, content: bytes, upload: str = "1", parts: int | None = None) -> None:
    """Hand a file over as the browser does; only its first parts, if so asked."""
    starts = range(0, max(len(content), 1), PART)
    for start in list(starts)[:parts]:
        message = {"upload": upload, "name": name, "start": start, "size": len(content)}
        receiver.take(message, content[start : start + PART])


def test_without_anywidget_there_is_no_button(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    assert upload_button(".dcm", tmp_path) is None
    assert uploaded_file(None) is None


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("chest film.dcm", "chest film.dcm"),
        ("../../chest film.dcm", "chest film.dcm"),
        ("C:\\films\\chest film.dcm", "chest film.dcm"),
        ("..", "film"),
        ("a\nb\x00?.dcm", "a_b__.dcm"),
        ("x" * 300 + ".dcm", "x" * 146 + ".dcm"),
        ("胸" * 120 + ".dcm", "胸" * 48 + ".dcm"),  # three bytes each, and a disk counts bytes
        ("\ud800film.dcm", "?film.dcm"),
        ("\u202emcd.exe", "_mcd.exe"),
    ],
)
def test_a_file_is_written_under_its_own_name(tmp_path, name, kept):
    receiver = FileReceiver(tmp_path / "uploads")
    send(receiver, name, b"DICM")
    assert receiver.path == tmp_path / "uploads" / kept
    assert receiver.path.read_bytes() == b"DICM"
    assert len(list(tmp_path.rglob("*"))) == 2  # the folder and the file


@pytest.mark.parametrize("size", [0, 1, PART, 12 * PART + 7])
def test_a_file_of_any_size_arrives_whole(tmp_path, size):
    content = bytes(range(251)) * (size // 251 + 1)
    receiver = FileReceiver(tmp_path)
    send(receiver, "film.dcm", content[:size])
    assert receiver.path.read_bytes() == content[:size]
    assert [path.name for path in tmp_path.iterdir()] == ["film.dcm"]


def test_half_a_file_is_not_used_and_a_second_one_replaces_it(tmp_path):
    receiver = FileReceiver(tmp_path)
    send(receiver, "first.dcm", b"1" * (3 * PART), parts=2)
    assert receiver.path is None
    assert "2.1 of 3.1 MB" in receiver.state
    send(receiver, "second.dcm", b"2", upload="2")
    late = {"upload": "1", "name": "first.dcm", "start": 2 * PART, "size": 3 * PART}
    receiver.take(late, b"1" * PART)
    assert receiver.path.name == "second.dcm"
    assert receiver.path.read_bytes() == b"2"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "uploads").write_text("a file where the folder should be")
    receiver = FileReceiver(tmp_path / "uploads")
    send(receiver, "film.dcm", b"1")
    assert "film.dcm could not be written" in receiver.problem


def test_run_all_keeps_the_film(tmp_path):
    pytest.importorskip("anywidget")
    button = upload_button(".dcm,.png", tmp_path)
    assert uploaded_file(button) is None
    content = b"1" * (2 * PART)
    for start in (0, PART):
        message = {"upload": "1", "name": "film.dcm", "start": start, "size": len(content)}
        button._handle_custom_msg(message, [memoryview(content[start : start + PART])])
        if start == 0:
            with pytest.raises(StopHere, match=r"film\.dcm"):
                uploaded_file(button)
    again = upload_button(".dcm,.png", tmp_path)
    assert again is button
    assert uploaded_file(again).read_bytes() == content
    assert "film.dcm" in button.status
    assert upload_button(".dcm", tmp_path / "elsewhere") is not button
