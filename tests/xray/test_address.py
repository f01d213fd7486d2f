"""Films at addresses: listed by name, fetched one at a time, and each fault told in a sentence."""

import cv2
import fsspec
import numpy as np
import pandas as pd
import pytest

from heartbox import cli
from heartbox.xray.discovery import find_xrays
from heartbox.xray.errors import XRayError
from heartbox.xray.reader import load_xray

PICTURE = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (128, 96), dtype=np.uint8))[1].tobytes()
FILES = {
    "films/b.png": PICTURE,
    "films/deeper/IM0001": PICTURE,
    "films/bad.dcm": b"no film",
    "films/notes.md": b"words",
}


@pytest.fixture
def memory():
    """Return fsspec's file system in this process's memory, with films."""
    system = fsspec.filesystem("memory")
    for name, data in FILES.items():
        system.pipe(f"/{name}", data)
    yield system
    system.rm("/films", recursive=True)


def test_an_address_is_searched_like_a_folder(memory):
    passed_over = []
    sources = find_xrays(["memory://films"], passed_over)
    assert [source.name for source in sources] == [
        "memory:///films/b.png",
        "memory:///films/bad.dcm",
        "memory:///films/deeper/IM0001",
    ]
    assert [path.name for path in passed_over] == ["notes.md"]
    with sources[2].file() as path:
        assert load_xray(path).image.shape == (128, 96)
    assert not path.exists()


def test_faults_name_the_address(memory):
    (gone,) = find_xrays(["memory://films/gone.png"])  # a film that is named is not looked for before it is read
    with pytest.raises(XRayError, match="memory://films/gone.png: cannot be fetched .FileNotFoundError"), gone.file():
        pass
    for address, said in (("memory://nowhere", "there is nothing at this address"), ("odd://x", "cannot be listed")):
        (source,) = find_xrays([address])
        with pytest.raises(XRayError, match=f"^{address}: {said}"), source.file():
            pass
    (bad,) = find_xrays(["memory://films/bad.dcm"])
    with pytest.raises(XRayError, match="^memory://films/bad.dcm: "), bad.file() as path:
        load_xray(path)


def test_what_is_too_large_is_not_fetched_whole(memory, monkeypatch):
    monkeypatch.setattr("heartbox.xray.source.MAX_FILE_BYTES", 100)
    (source,) = find_xrays(["memory://films/b.png"])
    with pytest.raises(XRayError, match="more than 0 MiB"), source.file():
        pass


def test_a_list_names_files_folders_and_addresses(memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("one.png", "folder/two.png", "caf\udce9.png"):
        (tmp_path / name).write_bytes(PICTURE)
    named = ["one.png", "", "folder", "  memory://films/b.png  ", "other.txt", "caf\udce9.png"]
    (tmp_path / "films.txt").write_bytes("\r\n".join(named).encode("utf-8", "surrogateescape"))
    (tmp_path / "other.txt").write_text("films.txt")
    names = [source.name for source in find_xrays(["films.txt", "folder"])]
    assert names == ["one.png", "folder/two.png", "memory://films/b.png", "other.txt", r"caf\xe9.png", "folder/two.png"]


@pytest.fixture
def bucket(monkeypatch):
    """Return the address of a bucket of a server on this machine that speaks S3's protocol, with films."""
    pytest.importorskip("s3fs", reason='object storage is wanted: pip install ".[scale]"')
    server_of = pytest.importorskip("moto.server", reason="a server for S3's protocol is wanted: pip install moto[s3]")
    server = server_of.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    system = fsspec.filesystem("s3")
    system.mkdir("bucket")
    for name, data in FILES.items():
        system.pipe(f"bucket/{name}", data)
    yield "s3://bucket/films"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def test_the_command_answers_films_in_object_storage(bucket, weights, tmp_path):
    named = ["--weights", str(weights), "--csv", str(tmp_path / "t.csv"), "--workers", "0"]
    assert cli.main([bucket, "s3://bucket/films/gone.png", *named]) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    names = ["b.png", "bad.dcm", "deeper/IM0001", "gone.png"]
    assert table["file"].tolist() == [f"{bucket}/{name}" for name in names]
    assert table["error"].isna().tolist() == [True, False, True, False]
    assert table["columns"].tolist()[0] == 96 and "cannot be fetched" in table["error"][3]
