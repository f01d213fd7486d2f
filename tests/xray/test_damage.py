"""Compressed pixels that are damaged although their decoder says nothing."""

import errno
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from films import RAMP, jpeg_film, make

from heartbox.utils.temporary import NoTemporaryFolder
from heartbox.xray.errors import XRayError
from heartbox.xray.reader import load_xray


def test_jpeg_that_is_cut_off_inside_dicom(load):
    with pytest.raises(XRayError, match="cut off"):
        load(jpeg_film(lambda frame: frame[: len(frame) * 2 // 3])[0])


def test_reading_in_threads_gives_standard_error_back(tmp_path, capfd):
    paths = []
    for i in range(40):
        paths.append(tmp_path / f"{i}.dcm")
        (jpeg_film(lambda frame: frame[:500] + b"\xff\xd9")[0] if i % 2 else make(RAMP)).save_as(
            paths[-1], enforce_file_format=True
        )

    def read(path):
        try:
            return load_xray(path).image.shape
        except XRayError as error:
            return "damaged" in str(error)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(read, paths))
    assert answers == [RAMP.shape, True] * 20
    assert capfd.readouterr().err == ""
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_decoders_are_heard_where_no_temporary_file_can_be_written(load, monkeypatch):
    """A full disk must not let a film through whose pixels are cut off."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    if hasattr(os, "memfd_create"):
        with pytest.raises(XRayError, match="cut off"):
            load(jpeg_film(lambda frame: frame[: len(frame) * 2 // 3])[0])
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(NoTemporaryFolder, match="full. Free some space there, or name another folder in .* TMPDIR"):
        load(jpeg_film()[0])
