"""The check cells' one call: right, not yet, and no answer yet."""

import pytest

from heartbox.utils.exercises import check


@pytest.mark.parametrize("empty", [None, (None, None), [None]])
def test_an_empty_answer_is_passed_over(empty, capsys):
    check(empty, lambda answer: 1 / 0)
    assert capsys.readouterr().out == "No answer yet.\n"


def test_half_an_answer_is_named(capsys):
    check((3, None), lambda answer: True, hint="count both")
    assert capsys.readouterr().out == "Not yet. A part of the answer is still empty. count both\n"


def test_right_and_not_yet(capsys):
    check(3, lambda n: n == 3, right=lambda n: f"{n} it is", hint="count again")
    assert capsys.readouterr().out == "Right. 3 it is\n"
    check(0, lambda n: n == 3, right="three", hint="count again")
    assert capsys.readouterr().out == "Not yet. count again\n"


def test_an_answer_of_another_kind_gets_a_hint_and_no_traceback(capsys):
    check("wide", lambda n: abs(n - 3) < 1, hint="give a number")
    said = capsys.readouterr().out
    assert said.startswith("Not yet.")
    assert "TypeError" in said
    assert "give a number" in said
