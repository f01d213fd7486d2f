"""The notebooks as people see them: JupyterLab in a real browser, Run All, pictures, widths, and the upload.

Uses a Chromium or Chrome that is already installed; nothing is downloaded. Screenshots of every page are written to
artifacts/screenshots/, to be looked at.
"""

import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pydicom
import pytest
from helpers import COMPANIONS, NOTEBOOKS, ROOT, copy_companion, user_environment

from heartbox.phantom import write_phantoms

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser is installed (looked for {', '.join(BROWSERS)})"),
]
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Pages of these widths, and what must fit into them: on a small screen a long line of code may be scrolled.
WIDTHS = {1366: ".jp-OutputArea-output, .jp-RenderedMarkdown, .cm-scroller", 960: ".jp-OutputArea-output"}
WIDE, HEIGHT = 1366, 1800  # px; a page is photographed in slices of this height
SCREENSHOTS = ROOT / "artifacts" / "screenshots"
HANGS = 600  # s; no notebook takes a fourth of it in fast mode, so it only stops what hangs
# Outputs and cells that do not fit their column, and pictures without pixels or of a single colour.
FAULTS = r"""
(selectors) => {
  const faults = [];
  const name = (node) => node.innerText.trim().replaceAll("\n", " ").slice(0, 100);
  for (const node of document.querySelectorAll(selectors)) {
    if (node.scrollWidth > node.clientWidth + 1) {
      faults.push(`${node.scrollWidth} px in ${node.clientWidth} px: ${name(node)}`);
    }
  }
  for (const picture of document.querySelectorAll(".jp-OutputArea-output img, .jp-RenderedMarkdown img")) {
    if (!picture.complete || !picture.naturalWidth) {
      faults.push(`no pixels: ${picture.alt || "a picture"}`);
      continue;
    }
    if (picture.naturalWidth < 20 || picture.naturalHeight < 20) continue;  // an icon
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [64, 64];
    const context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0, 64, 64);
    const pixels = context.getImageData(0, 0, 64, 64).data;
    if (pixels.every((value, i) => value === pixels[i % 4])) faults.push("a picture of a single colour");
  }
  return faults;
}
"""
PICTURES = """
() => [...document.querySelectorAll(".jp-CodeCell")].map(
  (cell) => cell.querySelectorAll(".jp-OutputArea-output img").length)
"""
PROMPTS = "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map((node) => node.textContent.trim())"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[tuple[Path, str, str]]:
    """Start JupyterLab on a copy of the project; yield the copy, the address and the token."""
    base = tmp_path_factory.mktemp("browser")
    folder = copy_companion(base / "copy")
    for name in NOTEBOOKS:
        shutil.copy(ROOT / name, folder)
    for path in folder.rglob("*.ipynb"):  # what is seen afterwards was made here
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    settings = base / "settings" / "@jupyterlab"
    for plugin, values in {
        "notebook-extension/tracker": '{"windowingMode": "none"}',  # every cell is in the page, seen or not
        "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    }.items():
        path = settings / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(values)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    environment = user_environment(
        JUPYTERLAB_SETTINGS_DIR=str(base / "settings"),
        JUPYTERLAB_WORKSPACES_DIR=str(base / "workspaces"),
        JUPYTER_CONFIG_DIR=str(base / "config"),
    )
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    with (base / "log.txt").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for_server(f"{address}/api/status?token={token}", server, base / "log.txt")
            yield folder, address, token
        finally:
            server.terminate()
            server.wait(timeout=60)


def wait_for_server(url: str, server: subprocess.Popen, log: Path) -> None:
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(240):
        assert server.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with without_proxy.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(log.read_text(errors="replace")[-3000:])


@pytest.fixture
def page(tmp_path) -> Iterator["sync_api.Page"]:
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=BROWSER,
            headless=True,
            args=FLAGS,
            viewport={"width": WIDE, "height": 900},
        )
        context.set_default_timeout(60_000)
        yield context.pages[0] if context.pages else context.new_page()
        context.close()


def open_notebook(page, lab: tuple[Path, str, str], name: str) -> None:
    """Open one notebook alone, without the file browser beside it, and wait until its kernel is idle."""
    _, address, token = lab
    stop_kernels(page, lab)
    page.goto(f"{address}/lab/tree/{name}?token={token}&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    sync_api.expect(page.locator(".jp-KernelName")).to_contain_text("Python 3", timeout=120_000)
    page.wait_for_selector(".jp-NotebookPanel-toolbar [data-status='idle']", timeout=120_000)
    if page.locator("#jp-left-stack:visible").count():
        page.keyboard.press("Control+b")


def stop_kernels(page, lab: tuple[Path, str, str]) -> None:
    """Free the memory of the notebooks that are done."""
    _, address, token = lab
    headers = {"Authorization": f"token {token}"}
    for kernel in page.request.get(f"{address}/api/kernels", headers=headers).json():
        page.request.delete(f"{address}/api/kernels/{kernel['id']}", headers=headers)


def run_all(page) -> None:
    """Choose Run All in the menu and wait for the last cell."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    deadline = time.monotonic() + HANGS
    time.sleep(1)
    while any("*" in prompt for prompt in page.evaluate(PROMPTS)):
        assert time.monotonic() < deadline, f"still running: {page.evaluate(PROMPTS)}"
        time.sleep(0.5)
    page.wait_for_timeout(500)  # the last output is drawn after its cell is done


def check_page(page, name: str, suffix: str = "") -> None:
    """Every cell has run without an error, shows its picture, and nothing is cut off or empty."""
    errors = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
    red = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    prompts = page.evaluate(PROMPTS)
    missing = np.flatnonzero(np.less(page.evaluate(PICTURES), 0 if suffix else pictures_of(name)))
    faults = {}
    for width, selectors in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        faults[width] = page.evaluate(FAULTS, selectors)
        photograph(page, f"{Path(name).stem}{suffix}-{width}")
    assert not errors, errors
    assert not red, red
    assert prompts, "no code cells"
    assert all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts), prompts
    assert not len(missing), f"code cells without their picture, from 0: {missing}"
    found = [f"at {width} px: {fault}" for width, those in faults.items() for fault in those]
    assert not found, "\n".join(found)


def pictures_of(name: str) -> list[int]:
    """Return how many pictures each code cell of the committed notebook shows, of those that a quick trial shows too.

    A cell tagged "needs-full-run" says in a sentence, instead of drawing, that a quick trial has too few X-rays for it.
    """
    cells = [cell for cell in nbformat.read(ROOT / name, 4).cells if cell.cell_type == "code"]
    return [0 if "needs-full-run" in cell.metadata.get("tags", []) else pictures_in(cell) for cell in cells]


def pictures_in(cell) -> int:
    """Return how many outputs of a code cell are pictures."""
    return sum(bool({"image/png", "image/gif"} & set(output.get("data", {}))) for output in cell.outputs)


def photograph(page, name: str) -> None:
    """Write the whole notebook as pictures of one screen height each."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    width = page.viewport_size["width"]
    page.set_viewport_size({"width": width, "height": HEIGHT})
    panel = page.locator(".jp-WindowedPanel-outer").first
    tall, seen = panel.evaluate("(node) => [node.scrollHeight, node.clientHeight]")
    for number in range(-(-tall // seen)):
        panel.evaluate("(node, top) => { node.scrollTop = top; }", number * seen)
        page.wait_for_timeout(200)
        page.screenshot(path=SCREENSHOTS / f"{name}-{number + 1:02d}.png")


def write_film(folder: Path, name: str, side: int) -> Path:
    """Write one uncompressed 16-bit phantom of `side` x `side` pixels."""
    (made,) = write_phantoms(folder / f"made-{side}", count=1, size=512, progress=False)["name"]
    (source,) = (folder / f"made-{side}").rglob(f"{made}.dcm")
    film = pydicom.dcmread(source)
    pixels = cv2.resize(film.pixel_array, (side, side), interpolation=cv2.INTER_LINEAR)
    film.Rows = film.Columns = side
    film.PixelData = pixels.astype(np.uint16).tobytes()
    film.PixelSpacing = [float(spacing) * 512 / side for spacing in film.PixelSpacing]
    path = folder / name
    film.save_as(path)
    return path


@pytest.mark.parametrize("name", [*NOTEBOOKS, *COMPANIONS])
def test_run_all(lab, page, name):
    """The four in their order, as in a lesson: each builds on the results of those before it."""
    open_notebook(page, lab, name)
    run_all(page)
    check_page(page, name)


def test_upload(lab, page, tmp_path):
    """Films below and above Jupyter's message limit of 10 MiB; Run All keeps them.

    Run alone, without notebook 03 before it, the released weights answer and the trained networks' pictures are absent.
    """
    open_notebook(page, lab, NOTEBOOKS[3])
    run_all(page)
    status = page.locator(".heartbox-upload [role=status]")
    for film, least in (
        (write_film(tmp_path, "small-film.dcm", 736), 2**20),
        (write_film(tmp_path, "large-film.dcm", 2560), 12 * 2**20),
    ):
        assert film.stat().st_size >= least
        page.set_viewport_size({"width": WIDE, "height": 900})
        page.set_input_files(".heartbox-upload input[type=file]", film)
        sync_api.expect(status).to_contain_text(f"{film.name} is here", timeout=120_000)
        run_all(page)
        assert film.name in page.locator(".jp-Notebook").inner_text()
        sync_api.expect(status).to_contain_text(f"{film.name} is here")
        check_page(page, NOTEBOOKS[3], f"-{film.stem}")
