"""The notebooks' exercises, found by their cells' tags: whole, folded, and solved by the solutions they give.

An exercise is four cells that share a tag ``exercise-1``, ``exercise-2``, ...: a question, an answer to fill in, a
check, and a folded solution whose one block of code can stand in place of the answer. Of the
other answers in ``answers`` the right ones must be accepted, and the wrong ones refused with a hint.
"""

import re
from pathlib import Path

import nbformat
import pytest
from answers import ALSO_RIGHT, WRONG
from helpers import COMPANIONS, NOTEBOOKS, ROOT, copy_project, execute, exercises_of, solution_code, solve

ROLES = {"question": "markdown", "answer": "code", "check": "code", "solution": "markdown"}


def said_by(cell) -> str:
    return "".join(output.get("text", "") for output in cell.get("outputs", [])).strip()


def check_what_was_said(folder: Path, name: str) -> None:
    """Each solution is right, also in another form; each wrong answer is refused, and a hint is given."""
    for cell in nbformat.read(folder / name, 4).cells:
        tags, said = cell.metadata.get("tags", []), said_by(cell)
        if "check" in tags or "also-right" in tags:
            assert said.startswith("Right."), f"{name}, {cell.source}: {said}"
        if "wrong" in tags:
            assert re.match(r"Not yet\. .{10}", said), f"{name}, {cell.source}: {said}"


@pytest.mark.parametrize("name", [*NOTEBOOKS, *COMPANIONS])
def test_exercises_are_whole(name):
    notebook = nbformat.read(ROOT / name, 4)
    found = exercises_of(notebook)
    assert sum("click the word *Solution* to open it" in cell.source for cell in notebook.cells) == 1
    assert 3 <= len(found) <= 5
    assert list(WRONG[name]) == list(found)
    assert all(len(wrong) >= 3 for wrong in WRONG[name].values())
    assert set(ALSO_RIGHT[name]) <= set(found)
    assert list(found) == [f"exercise-{k + 1}" for k in range(len(found))]
    for cells in found.values():
        assert [set(cell.metadata.tags) & set(ROLES) for cell in cells] == [{role} for role in ROLES]
        assert [cell.cell_type for cell in cells] == list(ROLES.values())
        question, answer, check, solution = cells
        assert question.source.startswith("### Exercise")
        assert re.match(r"<details>\s*<summary>Solution</summary>\n\n.*</details>$", solution.source.strip(), re.DOTALL)
        compile(solution_code(solution), name, "exec")
        assert answer.outputs == []
        assert "check(" in check.source
        assert said_by(check) == "No answer yet."


@pytest.mark.slow
def test_the_solutions_of_the_four_are_right(tmp_path):
    folder = copy_project(tmp_path / "copy")
    for name in NOTEBOOKS:
        solve(folder / name)
    run = execute(folder, NOTEBOOKS)
    assert run.returncode == 0, run.stderr[-3000:]
    for name in NOTEBOOKS:
        check_what_was_said(folder, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPANIONS)
def test_the_solutions_of_a_companion_are_right(solved_companion, name):
    check_what_was_said(solved_companion(name), name)
