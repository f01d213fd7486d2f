"""The notebooks' exercises, found by their cells' tags: whole, folded, and solved by the solutions they give.

An exercise is four cells that share a tag ``exercise-1``, ``exercise-2``, ...: a question, an answer to fill in, a
check, and a folded solution whose one block of code can stand in place of the answer. The wrong answers of
``wrong_answers`` must be refused, each with a hint.
"""

import re
from pathlib import Path

import nbformat
import pytest
from helpers import COMPANIONS, NOTEBOOKS, ROOT, copy_project, execute, exercises_of, solution_code, solve
from wrong_answers import WRONG

ROLES = {"question": "markdown", "answer": "code", "check": "code", "solution": "markdown"}


def said_by(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs).strip()


def check_what_was_said(folder: Path, name: str) -> None:
    """Each solution is right; each wrong answer is refused, and something is said beside the refusal."""
    cells = nbformat.read(folder / name, 4).cells
    said = {role: [cell for cell in cells if role in cell.metadata.get("tags", [])] for role in ("check", "wrong")}
    for check in said["check"]:
        assert said_by(check).startswith("Right."), f"{name}, {check.metadata.tags}: {said_by(check)}"
    accepted = [cell.source for cell in said["wrong"] if not re.match(r"Not yet\. .{10}", said_by(cell))]
    assert not accepted, f"{name} accepts\n" + "\n\n".join(accepted)
    assert len(said["wrong"]) == sum(map(len, WRONG[name].values()))


@pytest.mark.parametrize("name", [*NOTEBOOKS, *COMPANIONS])
def test_exercises_are_whole(name):
    found = exercises_of(nbformat.read(ROOT / name, 4))
    assert 3 <= len(found) <= 5
    assert list(WRONG[name]) == list(found)
    assert all(len(wrong) >= 3 for wrong in WRONG[name].values())
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
        solve(folder / name, WRONG[name])
    run = execute(folder, NOTEBOOKS)
    assert run.returncode == 0, run.stderr[-3000:]
    for name in NOTEBOOKS:
        check_what_was_said(folder, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPANIONS)
def test_the_solutions_of_a_companion_are_right(solved_companion, name):
    check_what_was_said(solved_companion(name), name)
