"""Weights from an address: fetched once, checked, and given up where the server misbehaves."""

import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from heartbox.inference.detector import HeartDetector
from heartbox.models import fetch
from heartbox.models.fetch import download, fetch_weights, file_sha256

ADDRESS = "https://example.org/releases/heart.pt"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files_in(folder) -> list:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def asked(weights, monkeypatch) -> list:
    """Let an address give the weights file; list the addresses that were asked."""
    addresses = []

    def answer(url, path):
        addresses.append(url)
        shutil.copyfile(weights, path)

    monkeypatch.setattr(fetch, "download", answer)
    return addresses


def offline(*_):
    raise OSError("no route to host")


def test_an_address_is_fetched_once(asked, weights, monkeypatch):
    digest = file_sha256(weights)
    first = HeartDetector.from_weights(ADDRESS, sha256=digest.upper())
    assert asked == [ADDRESS]
    monkeypatch.setattr(fetch, "download", offline)
    second = HeartDetector.from_weights(ADDRESS, sha256=digest)
    assert first.config == second.config


def test_what_comes_must_be_what_was_meant(asked, cache):
    with pytest.raises(ValueError, match="SHA-256.*nothing was kept"):
        HeartDetector.from_weights(ADDRESS, sha256="0" * 64)
    assert not files_in(cache)


def test_a_damaged_copy_is_fetched_again(asked, weights):
    path = fetch_weights(ADDRESS, file_sha256(weights))
    path.write_bytes(b"damaged")
    assert fetch_weights(ADDRESS, file_sha256(weights)) == path
    assert len(asked) == 2
    assert file_sha256(path) == file_sha256(weights)


@pytest.mark.parametrize(
    ("address", "digest", "said"),
    [
        ("http://example.org/heart.pt", "0" * 64, "https only"),
        ("ftp://example.org/heart.pt", "0" * 64, "https only"),
        (ADDRESS, None, "need sha256"),
        (ADDRESS, "abc", "64 hexadecimal"),
    ],
)
def test_addresses_that_are_refused(asked, address, digest, said):
    with pytest.raises(ValueError, match=said):
        HeartDetector.from_weights(address, sha256=digest)
    assert asked == []


def test_no_network_says_what_to_do(monkeypatch):
    monkeypatch.setattr(fetch, "download", offline)
    with pytest.raises(OSError, match="no route to host.*give its path"):
        HeartDetector.from_weights(ADDRESS, sha256="0" * 64)


# ---------------------------------------------------------------- servers that misbehave


class Server(BaseHTTPRequestHandler):
    """Answers by the last part of the path; stops when the test is over."""

    over: threading.Event

    def do_GET(self):
        kind = self.path.strip("/")
        if kind == "mute":
            self.over.wait()
            return
        self.send_response(404 if kind == "gone" else 200)
        if kind in ("short", "good"):
            self.send_header("Content-Length", "1000")
        if kind == "huge":
            self.send_header("Content-Length", str(10**15))
        self.end_headers()
        if kind in ("short", "good"):
            self.wfile.write(b"x" * (1000 if kind == "good" else 100))
        try:
            while kind in ("drip", "endless", "stalls") and not self.over.is_set():
                self.wfile.write(b"x" * (100_000 if kind == "endless" else 1))
                self.wfile.flush()
                if kind == "stalls":
                    self.over.wait()
                if kind == "drip":
                    time.sleep(0.02)
        except OSError:
            pass  # the client has gone, as it should

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """Start a server on this machine and shorten the limits, so that a test takes no minute; return its address."""
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(fetch, "SILENCE", 0.5)
    monkeypatch.setattr(fetch, "PATIENCE", 0.5)
    monkeypatch.setattr(fetch, "MAX_BYTES", 1_000_000)
    over = threading.Event()
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Server,), {"over": over}))
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    over.set()
    running.shutdown()
    running.server_close()


def test_a_whole_answer_is_written(server, tmp_path):
    download(f"{server}/good", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"x" * 1000


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("mute", "timed out|no byte came"),
        ("stalls", "no byte came"),
        ("drip", "only .* bytes came"),
        ("endless", "more than"),
        ("huge", "more than"),
        ("short", "broke off after 100 of 1,000"),
        ("gone", "404"),
    ],
)
def test_a_server_that_misbehaves_is_given_up(server, cache, monkeypatch, kind, said):
    # The address of the test server is not https, so only the transfer itself goes there.
    monkeypatch.setattr(fetch, "download", lambda url, path: download(f"{server}/{kind}", path))
    started = time.monotonic()
    with pytest.raises(OSError, match=f"example.org.*could not be fetched.*({said}).*give its path"):
        HeartDetector.from_weights(ADDRESS, sha256="0" * 64)
    assert time.monotonic() - started < 60  # it does not hang
    assert not files_in(cache)


def test_nobody_there(tmp_path):
    with pytest.raises(OSError, match="refused"):
        download("http://127.0.0.1:9", tmp_path / "file")
