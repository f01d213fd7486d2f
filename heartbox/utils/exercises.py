"""Exercises that check themselves: one call says right, or what to look at next.

Used by the check cells of the notebooks. Knows nothing of X-rays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Text = str | Callable[[Any], str]


def check(answer: Any, is_right: Callable[[Any], Any], right: Text = "", hint: Text = "") -> None:
    """Print whether an answer is right; an empty answer is passed over, so that *Run All* goes on.

    Parameters
    ----------
    answer : object
        What the learner filled in. None, or a tuple or list that holds nothing but None, is no answer yet; one that
        holds None beside other values is half an answer.
    is_right : callable
        Takes the answer and returns something true or false. An exception that it raises counts as false, and its
        words are printed.
    right, hint : str or callable
        What to say of a right answer, and what to look at after a wrong one; a callable is given the answer.
    """
    if answer is None or (isinstance(answer, tuple | list) and all(part is None for part in answer)):
        print("No answer yet.")
        return
    if isinstance(answer, tuple | list) and any(part is None for part in answer):
        print("Not yet. A part of the answer is still empty.", _plain(hint))
        return
    try:
        verdict = "Right." if is_right(answer) else "Not yet."
        words = right if verdict == "Right." else hint
        print(verdict, words(answer) if callable(words) else words)
    except Exception as error:  # an answer may be anything: a word instead of a number, an array of another shape
        print(f"Not yet. The answer could not be checked ({type(error).__name__}: {error}).", _plain(hint))


def _plain(words: Text) -> str:
    return "" if callable(words) else words
