"""Damaged files of every transfer syntax: an image or an XRayError, in time and without a word on the screen."""

import os
import random
import time
import warnings

import numpy as np
import pytest
from helpers import BY_PYDICOM, ENCODERS, UNCOMPRESSED, encoded  # noqa: F401

from heartbox.xray.errors import XRayError
from heartbox.xray.reader import load_xray

SYNTAXES = [*UNCOMPRESSED, *BY_PYDICOM, *ENCODERS]
MUTATIONS = int(os.environ.get("HEARTBOX_FUZZ", 2000))  # over all syntaxes; fewer for a quick look, more for a night
SECONDS = 2.0


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one of the ways that disks, networks and other programs do."""
    data = bytearray(data)
    kind = rng.randrange(6)
    # Half of the time the header, where every byte decides; it ends with the pixel data's element.
    end = data.find(b"\xe0\x7f\x10\x00") + 16 if rng.random() < 0.5 else len(data)
    start = 132 if end > 140 else 0

    def place() -> int:
        return rng.randrange(start, max(end, start + 1)) % len(data)

    if kind == 0:  # single bits
        for _ in range(rng.choice((1, 2, 8, 64))):
            data[place()] ^= 1 << rng.randrange(8)
    elif kind == 1:  # bytes that are special to parsers
        for _ in range(rng.choice((1, 4, 16))):
            data[place()] = rng.choice((0x00, 0xFF, 0x7F, 0x80, 0x01, 0x5C))
    elif kind == 2:  # cut off
        del data[place() :]
    elif kind == 3:  # a piece missing
        at = place()
        del data[at : at + rng.choice((1, 2, 17, 400))]
    elif kind == 4:  # a piece twice
        at, length = place(), rng.choice((1, 2, 17, 400))
        data[at:at] = data[at : at + length]
    else:  # a length or a number turned huge
        at = place()
        data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xfe\xff\0\xe0"))
    return bytes(data)


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
