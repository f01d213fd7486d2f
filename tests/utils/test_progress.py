"""Progress bars: redrawn in a terminal and in a notebook, a line a minute elsewhere, and a time left that holds."""

import io
import os
import re
import subprocess
import sys
import textwrap

import nbclient
import nbformat
import pytest
from helpers import ROOT

from heartbox.utils.progress import progress_bar

SCRIPT = """
import sys
import time
from heartbox.utils.progress import progress_bar
for _ in progress_bar(range(40), "Films", file=sys.stderr):
    time.sleep(0.05)
"""


def last_state(text: str) -> str:
    return re.split(r"[\r\n]+", text.strip())[-1]


def run_script(**streams) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=ROOT, text=True, encoding="utf-8", **streams)


@pytest.mark.parametrize("size", [(24, 80), (0, 0)])  # of an unknown size, too, as in some containers
def test_a_terminal_shows_one_line_that_is_redrawn(size):
    termios = pytest.importorskip("termios", reason="a pseudo-terminal is wanted")
    reading, writing = os.openpty()
    termios.tcsetwinsize(writing, size)
    process = run_script(stderr=writing)
    os.close(writing)
    shown = b""
    while block := read_terminal(reading):
        shown += block
    os.close(reading)
    assert process.wait() == 0
    states = shown.decode().strip().split("\r")
    assert 3 <= len(states) <= 9 and not any("\n" in state for state in states)  # 2 s, redrawn twice a second
    assert all(len(state) <= 80 for state in states)
    assert "| 40/40 [00:0" in states[-1] and "film/s]" in states[-1]


def read_terminal(reading: int) -> bytes:
    try:
        return os.read(reading, 4096)
    except OSError:  # how Linux says that the other end is closed
        return b""


def test_a_pipe_gets_whole_lines_and_few_of_them():
    process = run_script(stderr=subprocess.PIPE)
    _, shown = process.communicate()
    assert process.returncode == 0
    assert "\r" not in shown and shown.endswith("\n")
    first, last = shown.splitlines()
    assert first == "Films: 0%, 0 of 40, ? film/s, 00:00 so far, ? left"
    assert re.fullmatch(r"Films: 100%, 40 of 40, [\d.]+ film/s, 00:0\d so far, 00:00 left", last)


def test_a_notebook_keeps_the_last_state_as_text():
    source = textwrap.dedent(SCRIPT).replace("sys.stderr", "sys.stdout")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(ROOT)}}, coalesce_streams=True).execute()
    (output,) = notebook.cells[0].outputs
    assert output.name == "stdout"  # nothing red, and no widget
    assert re.fullmatch(r"Films: 100%\|█+\| 40/40 \[00:0\d<00:00, +[\d.]+ film/s\]", last_state(output.text))


class Clock:
    """Stands in for the time of day that a bar looks at."""

    def __init__(self, bar):
        self.now, bar._time = bar.start_t, lambda: self.now


def test_a_log_gets_a_line_a_minute():
    log = io.StringIO()
    bar = progress_bar(None, "Films", total=1000, file=log)
    clock = Clock(bar)
    for _ in range(300):  # five minutes, a film a second
        clock.now += 1
        bar.update()
    lines = log.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[-1] == "Films: 30%, 300 of 1000, 1.00 film/s, 05:00 so far, 11:40 left"


@pytest.mark.parametrize("burst", [1, 50])
def test_the_time_left_is_that_of_this_run(burst):
    """Films of an earlier run cost no time now, and finished ones that come in bursts change nothing."""
    log = io.StringIO()
    bar = progress_bar(None, "Films", total=1000, initial=800, file=log)
    clock = Clock(bar)
    for _ in range(100 // burst):
        clock.now += burst
        bar.update(burst)
    bar.close()
    assert log.getvalue().splitlines()[-1] == "Films: 90%, 900 of 1000, 1.00 film/s, 01:40 so far, 01:40 left"


def test_a_bar_that_is_not_shown_prints_nothing():
    log = io.StringIO()
    assert list(progress_bar(range(3), "Films", show=False, file=log)) == [0, 1, 2]
    assert log.getvalue() == ""


def test_what_has_no_total_is_counted_all_the_same():
    log = io.StringIO()
    with progress_bar(None, "Fetching", "B", file=log, unit_scale=True) as bar:
        bar.update(2_500_000)
    assert re.fullmatch(r"Fetching: 2.50M, [\d.]+\w? ?B/s, 00:00 so far", log.getvalue().splitlines()[-1])


def test_every_loop_of_the_project_uses_these_bars():
    for folder in ("heartbox", "companions", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "tqdm(" not in path.read_text(encoding="utf-8") or path.name == "progress.py", path
