"""Files made to hurt: each is refused in time and within a bounded memory, in a process of its own."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from films import make
from helpers import ROOT, film_of
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from heartbox.xray.parse import PIXEL_DATA
from heartbox.xray.reader import load_xray

SEQUENCE = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"  # and an item, neither with an end


SECONDS, MEBIBYTES = 2.0, 500
# Reports what reading one file cost: processor time, because other programs may hold up this one, and peak memory.
READ = """
import json, re, sys, time
from heartbox.xray import XRayError, load_xray
started = time.process_time()
try:
    load_xray(sys.argv[1])
    said = ""
except XRayError as error:
    said = str(error)
seconds = time.process_time() - started
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps([said, seconds, peak / 1024]))
"""
SMALL = np.arange(1024, dtype=np.uint16).reshape(32, 32)


def claims(path: Path, **elements) -> None:
    """Write a film whose header claims what is not there."""
    film = film_of(SMALL, 12)
    for keyword, value in elements.items():
        setattr(film, keyword, value)
    film.save_as(path, enforce_file_format=True)


def compressed(path: Path, syntax: pydicom.uid.UID, frame: bytes, **elements) -> None:
    film = film_of(SMALL, 12)
    film.file_meta.TransferSyntaxUID = syntax
    film.PixelData = encapsulate([frame])
    film["PixelData"].VR = "OB"
    for keyword, value in elements.items():
        setattr(film, keyword, value)
    film.save_as(path, enforce_file_format=True)


def sparse(path: Path, size: int, head: bytes = b"") -> None:
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(size)


def deflate_bomb(path: Path) -> None:
    film = film_of(SMALL, 12)
    film.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    film.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(2**24)
    bomb = b"".join(packer.compress(block) for _ in range(64)) + packer.flush()  # a gibibyte of zeros
    path.write_bytes(data[:start] + bomb)


def nested(path: Path) -> None:
    """Sequences in sequences in sequences, deeper than a parser can go on calling itself."""
    film = film_of(SMALL, 12)
    film.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    start = data.index(b"\x08\0\x16\0")
    path.write_bytes(data[:start] + SEQUENCE * 20_000 + data[start:])


def padded(path: Path, before: bytes = b"", after: bytes = b"") -> None:
    """Write a film with something before its pixels, and behind them."""
    film_of(SMALL, 12).save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    start = data.index(PIXEL_DATA[0])
    path.write_bytes(data[:start] + before + data[start:] + after)


HOSTILE = {
    "terabytes of rows and columns": lambda path: claims(path, Rows=65535, Columns=65535, NumberOfFrames=100_000),
    "many frames": lambda path: claims(path, NumberOfFrames=2_000_000_000, Rows=4000, Columns=4000),
    "many samples": lambda path: claims(path, SamplesPerPixel=65535, Rows=6000, Columns=6000),
    "RLE with a huge size": lambda path: compressed(
        path, RLELossless, b"\x01\0\0\0\x40" + bytes(60), Rows=7000, Columns=7000
    ),
    "JPEG 2000 of nothing": lambda path: compressed(path, JPEG2000Lossless, b"\xff\x4f\xff\x51" + bytes(60)),
    "JPEG of nothing": lambda path: compressed(
        path, JPEGBaseline8Bit, b"\xff\xd8\xff\xc0" + b"\xff" * 60 + b"\xff\xd9"
    ),
    "deflate bomb": deflate_bomb,
    "nested sequences": nested,
    "picture bomb": lambda path: Image.new("1", (30_000, 30_000)).save(path, "PNG"),
    "zeros": lambda path: sparse(path, 2**27),
    "zeros after DICM": lambda path: sparse(path, 2**27, bytes(128) + b"DICM"),
    "zeros before the pixels": lambda path: padded(path, bytes(4 * 2**20)),
    "many zeros before the pixels": lambda path: padded(path, bytes(2**26)),
    "zeros in a sequence": lambda path: padded(path, SEQUENCE + bytes(4 * 2**20)),
    "a million empty elements": lambda path: padded(path, b"\x09\0\x01\x10LO\0\0" * 500_000),
    "two gigabytes": lambda path: sparse(path, 2**31, bytes(128) + b"DICM"),
    "text": lambda path: path.write_text("Dear colleague, please find enclosed. " * 200_000),
    "text that begins like DICOM": lambda path: path.write_bytes(b"\x08\0\x05\0CS" + b"\xff\xff" + b"A" * 10_000_000),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system tells no peak memory this way")
@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_files(tmp_path, name):
    path = tmp_path / "film.dcm"
    HOSTILE[name](path)
    run = subprocess.run(
        [sys.executable, "-c", READ, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    said, seconds, mebibytes = json.loads(run.stdout)
    assert said.startswith(f"{path}: ")
    assert run.stderr == ""
    assert seconds < SECONDS
    assert mebibytes < MEBIBYTES


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no such devices")
def test_a_device_is_refused():
    run = subprocess.run(
        [sys.executable, "-c", READ, "/dev/zero"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "not a regular file" in json.loads(run.stdout)[0]


def test_junk_behind_the_pixels_costs_nothing(tmp_path, monkeypatch):
    """Whatever a file has behind its pixels is not parsed: the image is there, and the time is bounded."""
    padded(tmp_path / "film.dcm", after=bytes(2**22))
    monkeypatch.setattr("heartbox.xray.parse.MAX_ELEMENTS", 100)
    assert load_xray(tmp_path / "film.dcm").image.shape == SMALL.shape


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system tells no peak memory this way")
def test_a_large_deflated_film_takes_little_memory(tmp_path):
    """48 million pixels in a small file; reading them took 1.75 GB once."""
    path = tmp_path / "film.dcm"
    pixels = np.tile(np.arange(8000, dtype=np.uint16) // 2, (6000, 1))
    ds = make(pixels, WindowCenter=2048, WindowWidth=4096)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    assert path.stat().st_size < 1_000_000
    run = subprocess.run(
        [sys.executable, "-c", READ, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    said, _, mebibytes = json.loads(run.stdout)
    assert said == ""
    assert mebibytes < 1000
