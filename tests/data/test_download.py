"""Fetching the dataset from a server on this computer: good and bad archives, broken transfers, no server."""

import contextlib
import io
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT

from heartbox.data import download
from heartbox.data.download import CTR_COUNTS, CTR_PAGE, ORGANS, DownloadError, check_ctr, download_ctr

COUNTS = {"wingspan": 3, "jsrt": 2}
TOP = "cardiothoracic_ratio_estimation_dataset-abc123"


def png(size=(16, 16), seed=0) -> bytes:
    return cv2.imencode(".png", np.random.default_rng(seed).integers(0, 255, size, np.uint8))[1].tobytes()


def members(counts=COUNTS) -> dict[str, bytes]:
    """Return the files of a small dataset with names like the real ones, and a few that are not wanted."""
    files = {f"{TOP}/LICENSE": b"MIT", f"{TOP}/README.md": b"# CTR", f"{TOP}/utils.py": b"raise SystemExit"}
    files[f"{TOP}/ctr_ground_truth.csv"] = b"a,b"
    files[f"__MACOSX/{TOP}/jsrt/png/._0.png"] = b"shadow"
    for name, count in counts.items():
        for number in range(count):
            film = f"1.2.{number}.png"
            files[f"{TOP}/{name}/png/{film}"] = png(seed=number)
            for organ in ORGANS:
                files[f"{TOP}/{name}/mask/{organ}/{film}"] = png(seed=number + 100)
    return files


def pack(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


class Server:
    """Serve one archive; say how it should misbehave and see what was asked."""

    def __init__(self):
        self.body = b""
        self.status = 200
        self.ranges = True  # whether Range requests are honoured
        self.send_at_most = None  # cut the body off there, though all of it was announced
        self.announce = True  # Content-Length
        self.delay = 0.0
        self.asked = []  # the Range header of every request
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                asked = self.headers.get("Range")
                owner.asked.append(asked)
                time.sleep(owner.delay)
                body, status = owner.body, owner.status
                if status != 200:
                    self.send_error(status)
                    return
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and owner.ranges else 0
                if start >= len(body) and start:
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                if owner.announce:
                    self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body[start : owner.send_at_most])

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/ctr.zip"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server():
    server = Server()
    server.body = pack(members())
    yield server
    server.close()


@pytest.fixture
def fetch(server, tmp_path):
    """Fetch into a folder in tmp_path."""

    def call(**options) -> Path:
        options = {"url": server.url, "progress": False, "counts": COUNTS, "timeout": 5.0, **options}
        return download_ctr(tmp_path / "data" / "ctr", **options)

    return call


def left_behind(tmp_path) -> list[str]:
    """Name what stands in the data folder: the set itself, a part file, or a half folder that must not be."""
    data = tmp_path / "data"
    return sorted(path.name for path in data.iterdir()) if data.exists() else []


def refused(fetch, tmp_path, words, leaves=()):
    with pytest.raises(DownloadError, match=words) as caught:
        fetch()
    assert left_behind(tmp_path) == list(leaves)
    message = str(caught.value)
    assert CTR_PAGE in message and "\n" not in message
    return message


def test_good_archive(fetch, server, tmp_path, capsys):
    folder = fetch(progress=True)
    assert folder == tmp_path / "data" / "ctr"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    wanted = {name.removeprefix(f"{TOP}/") for name in members() if not name.startswith("__")}
    assert files == wanted - {"utils.py", "ctr_ground_truth.csv"}
    assert (folder / "jsrt/png/1.2.1.png").read_bytes() == png(seed=1)
    assert (folder / "jsrt/mask/heart/1.2.1.png").read_bytes() == png(seed=101)
    assert left_behind(tmp_path) == ["ctr"]
    out = capsys.readouterr()
    assert "Fetching" in out.out and f"{folder} is complete." in out.out and out.err == ""
    other = tmp_path / "made by mkdir"
    other.mkdir()
    assert folder.stat().st_mode == other.stat().st_mode


def test_already_there(fetch, server, tmp_path, capsys):
    fetch()
    assert capsys.readouterr().out == ""
    assert fetch(progress=True) == tmp_path / "data" / "ctr"
    assert len(server.asked) == 1
    assert "already complete" in capsys.readouterr().out


def test_sets_elsewhere_in_the_archive_are_found(fetch, server):
    server.body = pack({name.replace(TOP, "some/where/deeper"): content for name, content in members().items()})
    check_ctr(fetch(), COUNTS)


def test_a_server_that_does_not_announce_the_length(fetch, server):
    server.announce = False
    check_ctr(fetch(), COUNTS)


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_transfer_goes_on_or_starts_over(fetch, server, tmp_path, ranges):
    server.ranges, server.send_at_most = ranges, 1000
    refused(fetch, tmp_path, "interrupted after 0.0 MB .*Run it again", leaves=["ctr.zip.part"])
    part = tmp_path / "data" / "ctr.zip.part"
    assert part.read_bytes() == server.body[:1000]
    server.send_at_most = 1500
    refused(fetch, tmp_path, "interrupted", leaves=["ctr.zip.part"])
    assert part.read_bytes() == server.body[:1500]
    server.send_at_most = None
    check_ctr(fetch(), COUNTS)
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]
    assert left_behind(tmp_path) == ["ctr"]


def test_a_part_that_is_the_whole(fetch, server, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ctr.zip.part").write_bytes(server.body)
    check_ctr(fetch(), COUNTS)
    assert server.asked == [f"bytes={len(server.body)}-"] and left_behind(tmp_path) == ["ctr"]


def test_a_part_of_something_else_is_fetched_anew(fetch, server, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ctr.zip.part").write_bytes(b"x" * (len(server.body) - 50))
    check_ctr(fetch(), COUNTS)
    assert server.asked == [f"bytes={len(server.body) - 50}-", None] and left_behind(tmp_path) == ["ctr"]


def test_no_part_is_kept_of_what_is_no_archive(fetch, server, tmp_path):
    server.body = b"<html>Please log in</html>"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ctr.zip.part").write_bytes(b"<html>")
    refused(fetch, tmp_path, "not a usable zip archive")


def test_truncated_archive(fetch, server, tmp_path):
    server.body = server.body[: len(server.body) // 2]
    refused(fetch, tmp_path, "not a usable zip archive")


def test_a_login_page_instead_of_an_archive(fetch, server, tmp_path):
    server.body = b"<html>Please log in</html>"
    refused(fetch, tmp_path, "not a usable zip archive.*login page")


@pytest.mark.parametrize("offset", [0, 60])  # an impossible kind of packing, and a wrong check sum
def test_a_damaged_byte_is_found(fetch, server, tmp_path, offset):
    body = bytearray(server.body)
    at = body.index(b"jsrt/png/1.2.0.png") + len("jsrt/png/1.2.0.png") + offset
    body[at] = 0xFF if offset == 0 else body[at] ^ 0xFF
    server.body = bytes(body)
    refused(fetch, tmp_path, "not a usable zip archive")


@pytest.mark.parametrize(
    "name", ["../../evil.png", f"{TOP}/../../../jsrt/png/evil.png", "/jsrt/png/evil.png", "C:/a.png"]
)
def test_a_path_that_leads_out(fetch, server, tmp_path, name):
    server.body = pack(members() | {name: png()})
    refused(fetch, tmp_path, "leads out of its folder")
    assert not list(tmp_path.parent.rglob("evil*"))


def test_the_same_film_twice(fetch, server, tmp_path):
    server.body = pack(members() | {"again/jsrt/png/1.2.0.png": png()})
    refused(fetch, tmp_path, "contains jsrt/png/1.2.0.png twice")


def test_an_archive_that_would_unpack_to_too_much(fetch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 100_000)
    server.body = pack(members() | {f"{TOP}/jsrt/png/bomb.png": b"\0" * 10**6})
    refused(fetch, tmp_path, "far more than this dataset has")


def test_a_transfer_without_end(fetch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_TOTAL_BYTES", 1000)
    refused(fetch, tmp_path, "not this dataset", leaves=["ctr.zip.part"])


def change(files, name, content):
    if content is None:
        del files[f"{TOP}/{name}"]
    else:
        files[f"{TOP}/{name}"] = content
    return files


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("jsrt/mask/left_lung/1.2.1.png", None, r"left_lung/1\.2\.1\.png is missing"),
        ("wingspan/mask/heart/other.png", png(), r"heart/other\.png has no film"),
        ("wingspan/png/1.2.0.png", None, r"wingspan/png has 2 films where 3 are expected"),
        ("wingspan/mask/heart/1.2.0.png", png((16, 15)), "not have the size of its film, 16 x 16"),
        ("jsrt/png/1.2.0.png", b"no picture", r"jsrt/png/1\.2\.0\.png is damaged"),
        ("jsrt/mask/heart/1.2.0.png", b"", r"heart/1\.2\.0\.png is damaged"),
    ],
)
def test_what_is_not_as_published_is_refused(fetch, server, tmp_path, name, content, words):
    server.body = pack(change(members(), name, content))
    message = refused(fetch, tmp_path, words)
    assert str(tmp_path / "data" / ".ctr") not in message  # no word of the temporary folder


def test_wrong_count(fetch, server, tmp_path):
    with pytest.raises(DownloadError, match="wingspan/png has 3 films where 259 are expected"):
        fetch(counts=CTR_COUNTS)
    assert left_behind(tmp_path) == []
    check_ctr(fetch(counts=None), COUNTS)


def test_published_counts():
    assert sum(CTR_COUNTS.values()) == 506
    assert download.CTR_URL.startswith(CTR_PAGE) and len(download.CTR_COMMIT) == 40


@pytest.mark.parametrize("status", [404, 403, 500])
def test_server_refuses(fetch, server, tmp_path, status):
    server.status = status
    refused(fetch, tmp_path, f"answers {status}")


def test_nothing_listens(fetch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/ctr.zip"
    refused(lambda: fetch(url=url), tmp_path, "cannot be reached .*online")


def test_a_server_that_keeps_silent(fetch, server, tmp_path):
    server.delay = 3.0
    start = time.monotonic()
    refused(lambda: fetch(timeout=0.3), tmp_path, "did not answer within 0.3 seconds|cannot be reached")
    assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ctr.zip", "http://[", "http://localhost:port/"])
def test_addresses_that_are_none(fetch, tmp_path, url):
    refused(lambda: fetch(url=url), tmp_path, "not an http or https address|not a usable address")


def test_a_folder_with_something_else_is_not_touched(fetch, server, tmp_path):
    mine = tmp_path / "data" / "ctr" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("keep")
    refused(fetch, tmp_path, "exists but is not the complete dataset.*Move it away", leaves=["ctr"])
    assert mine.read_text() == "keep" and server.asked == []


def test_an_empty_folder_is_filled(fetch, tmp_path):
    (tmp_path / "data" / "ctr").mkdir(parents=True)
    check_ctr(fetch(), COUNTS)


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot be written"):
        download_ctr(tmp_path / "file" / "ctr", url=server.url, progress=False, counts=COUNTS)


def test_interrupting_the_unpacking_leaves_no_half_folder(fetch, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "check_ctr", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch()
    assert left_behind(tmp_path) == ["ctr.zip.part"]
    check_ctr(fetch(), COUNTS)


def test_command_line(server, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "heartbox.data.download", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    bad = run(str(tmp_path / "ctr"), "--url", server.url)
    assert bad.returncode == 1 and "3 films where 259 are expected" in bad.stderr and "Traceback" not in bad.stderr
    assert not (tmp_path / "ctr").exists()
    assert "data/ctr" in run("--help").stdout
