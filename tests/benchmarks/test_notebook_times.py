"""Timings of notebooks: what is measured, what is measured again, and the processor time of a whole family."""

import json
import subprocess
import sys

import classroom
import notebook_times
import pytest
from common import ProcessTree
from helpers import COMPANIONS, NOTEBOOKS


def test_everything_is_measured_once_in_an_order_that_works():
    runs = notebook_times.all_runs()
    assert len({run.key for run in runs}) == len(runs) == 1 + 2 * (len(NOTEBOOKS) + len(COMPANIONS))
    assert runs[-1].notebooks == tuple(NOTEBOOKS)
    for run in runs:
        earlier = [(other.name, other.fast) for other in runs[: runs.index(run)]]
        assert not run.after or (run.after, run.fast) in earlier


def test_a_run_that_was_stopped_goes_on_and_a_changed_notebook_is_measured_again(tmp_path, monkeypatch, capsys):
    for name in ("a.ipynb", "b.ipynb"):
        cells = [{"cell_type": "code", "source": ["print(1)"]}, {"cell_type": "markdown", "source": ["# Text"]}]
        (tmp_path / name).write_text(json.dumps({"cells": cells}))
    runs = [notebook_times.Run("a.ipynb", ("a.ipynb",), True), notebook_times.Run("b.ipynb", ("b.ipynb",), True)]
    done = []

    def measure(run):
        done.append(run.name)
        return {"seconds": 60.0, "cpu": 90.0}

    tables = []
    reference = {"seconds": 9.0, "cpu": 9.5, "threads": "2", "torch": "2.0"}
    for name, value in {
        "ROOT": tmp_path,
        "KEPT": tmp_path / "kept",
        "all_runs": lambda: runs,
        "measure": measure,
        "measure_reference": lambda: reference,
        "write_table": lambda name, lines: tables.append(lines),
    }.items():
        monkeypatch.setattr(notebook_times, name, value)
    monkeypatch.setattr(sys, "argv", ["notebook_times.py", "--at-most", "1"])
    notebook_times.main()
    assert tables[-1][-2:] == ["| a | fast | 60 | 90 | 9.0 | 9.5 |", "| b | fast | - | - | - | - |"]
    assert "1 of 2 measured: run it again" in capsys.readouterr().out
    notebook_times.main()
    assert done == ["a.ipynb", "b.ipynb"]
    notebook_times.main()
    assert done == ["a.ipynb", "b.ipynb"]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["print(2)"]}]}))
    notebook_times.main()
    assert done == ["a.ipynb", "b.ipynb", "a.ipynb"]


def test_the_processor_time_of_a_family_is_seen():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'for i in range(4 * 10**7): pass'])"
    process = subprocess.Popen([sys.executable, "-c", code])
    tree, most = ProcessTree(process), 0.0
    while process.poll() is None:
        most = max(most, tree.memory())
    assert tree.cpu_seconds > 0.3
    assert most > 2**20


@pytest.mark.parametrize(("head", "kept"), [(["head"], {1: "| 1 | 2.0 |", 4: "| 4 | 8.0 |"}), (["another"], {})])
def test_rows_of_a_classroom_stay_if_measured_in_the_same_way(tmp_path, head, kept):
    (tmp_path / "classroom.md").write_text("head\n| 1 | 2.0 |\n| 4 | 8.0 |\n")
    assert classroom.rows_under(head, tmp_path / "classroom.md") == kept
    assert classroom.rows_under(head, tmp_path / "missing.md") == {}
