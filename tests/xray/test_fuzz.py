"""Damaged files of every transfer syntax: an image or an XRayError, in time and without a word on the screen."""

import os
import random
import time
import warnings

import numpy as np
import pytest
from fuzz_reading import field_changes, jobs, mutate, run
from helpers import BY_PYDICOM, ENCODERS, UNCOMPRESSED, encoded  # noqa: F401

from heartbox.xray.errors import XRayError
from heartbox.xray.reader import load_xray

SYNTAXES = [*UNCOMPRESSED, *BY_PYDICOM, *ENCODERS]
MUTATIONS = int(os.environ.get("HEARTBOX_FUZZ", 2000))  # over all syntaxes; fewer for a quick look, more for a night
SECONDS = 2.0


@pytest.mark.parametrize("number", range(len(SYNTAXES)), ids=[syntax.name for syntax in SYNTAXES])
def test_damaged_films(phantom_pixels, tmp_path, capfd, number):  # noqa: F811
    syntax = SYNTAXES[number]
    data, *_ = encoded(phantom_pixels, syntax)
    path, answered, slowest = tmp_path / "film.dcm", 0, 0.0
    for seed in range(number, MUTATIONS, len(SYNTAXES)):
        path.write_bytes(mutate(data, random.Random(seed)))
        started = time.process_time()  # what others do on this machine must not count
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                image = load_xray(path).image
            except XRayError as error:
                assert str(error).startswith(f"{path}: "), seed
            else:
                answered += 1
                assert image.ndim == 2 and image.dtype == np.float32, seed
                assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1, seed
        slowest = max(slowest, time.process_time() - started)
    written = capfd.readouterr()
    assert written.out == written.err == ""
    assert slowest < SECONDS
    # A fuzz test whose damage never hits anything, or always kills, tests nothing.
    if MUTATIONS >= 1000:
        assert 0 < answered < MUTATIONS // len(SYNTAXES)


def test_no_file_ends_the_process():
    """A part of benchmarks/fuzz_reading.py: each file is read in a worker process, which must live to the end."""
    few = [["field", *change] for change in list(field_changes())[:: 1 if MUTATIONS > 2000 else 23]]
    few += jobs(460, fields=False)  # every picture format too
    log = list(run(few))
    assert [job for job, _ in log] == few
    assert [(job, result) for job, result in log if result[0] not in ("image", "refused")] == []
    assert max(result[2] for _, result in log) < 5.0  # seconds of processor time
    assert max(result[3] for _, result in log) < 1500  # MB
    assert {result[0] for _, result in log} == {"image", "refused"}


def test_a_worker_that_dies_is_counted_and_another_goes_on(monkeypatch):
    """The measure itself: without this, zero aborts would say nothing."""
    good = ["mutation", "PNG 8 bit", 4]
    log = list(run([good, ["field", "no such syntax", "Rows", 0], good]))
    assert [result[0] for _, result in log][1] == "abort"
    assert log[0][1][0] == log[2][1][0]
