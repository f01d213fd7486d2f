"""Handed-in notebooks are graded by their answers alone, in a clean copy of the original."""

import importlib.util

import nbformat
import pandas as pd
import pytest
from helpers import ROOT

ORIGINAL = [
    ("code", ["setup"], "expected = 6"),
    ("code", ["exercise-1", "answer"], "half = None"),
    (
        "code",
        ["exercise-1", "check"],
        "from heartbox.utils.exercises import check\n"
        "check(half, lambda a: a == expected / 2, right='Half.', hint='Halve it.')",
    ),
    ("code", ["exercise-2", "answer"], "double = None"),
    ("code", ["exercise-2", "check"], "check(double, lambda a: a == 2 * expected, right='Twice.', hint='Twice it.')"),
]


@pytest.fixture(scope="module")
def grader():
    spec = importlib.util.spec_from_file_location("grade", ROOT / "docs" / "grade.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, **answers):
    notebook = nbformat.v4.new_notebook()
    for _, tags, source in ORIGINAL:
        name, role = tags if len(tags) == 2 else ("", "")
        if role == "answer":
            source = answers.get(name.replace("-", "_"), source)
        elif role == "check":
            source = answers.get("check", source)
        notebook.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    nbformat.write(notebook, path)
    return str(path)


def test_answers_are_graded_by_the_original_checks(grader, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    original = write(tmp_path / "original.ipynb")
    handed_in = [
        write(tmp_path / "good.ipynb", exercise_1="half = 3", exercise_2="double = 12"),
        write(tmp_path / "poor.ipynb", exercise_1="half = 4"),
        write(tmp_path / "broken.ipynb", exercise_1="half = 1 / 0", exercise_2="double = 12"),
        write(tmp_path / "cheat.ipynb", exercise_1="half = 4", check="print('Right. Believe me.')"),
    ]
    (tmp_path / "empty.ipynb").write_text("")
    assert grader.main([original, *handed_in, str(tmp_path / "empty.ipynb"), "--csv", str(tmp_path / "t.csv")]) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["exercise-1"].tolist()[:4] == ["right", "not yet", "error", "not yet"]
    assert table["exercise-2"].tolist()[:4] == ["right", "no answer", "right", "no answer"]
    assert table["problem"].notna().tolist() == [False, False, False, False, True]
