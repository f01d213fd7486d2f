"""The upload button: a file put into it lies in the folder, and without widgets there is none."""

import datetime
import sys

import pytest

from heartbox.utils.widgets import upload_button, uploaded_file


def test_without_widgets_there_is_no_button(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert upload_button(".dcm") is None
    assert uploaded_file(None, tmp_path) is None


@pytest.mark.parametrize("name", ["chest film.dcm", "../../chest film.dcm", "C:\\films\\chest film.dcm"])
def test_what_was_put_into_it_is_written(tmp_path, name):
    pytest.importorskip("ipywidgets")
    button = upload_button(".dcm,.png")
    assert uploaded_file(button, tmp_path) is None
    content = {
        "name": name,
        "type": "",
        "size": 4,
        "content": memoryview(b"DICM"),
        "last_modified": datetime.datetime.now(datetime.UTC),
    }
    button.set_trait("value", (content,))
    path = uploaded_file(button, tmp_path / "uploads")
    assert path == tmp_path / "uploads" / "chest film.dcm"
    assert path.read_bytes() == b"DICM"
