"""Compressed pixels that are damaged although their decoder says nothing."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from films import RAMP, jpeg_film, make

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
