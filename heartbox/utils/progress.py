"""Progress bars for every long loop: how much is done, items a second, and the time left.

In a terminal and in a notebook a bar is redrawn in place. Anywhere else, in a log file or a pipe, it is one line a
minute. Knows streams; it does not know what is counted.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

REDRAW_SECONDS = 0.5
LINE_SECONDS = 60.0
LINE = "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt}, {rate_fmt}, {elapsed} so far, {remaining} left{postfix}"
LINE_WITHOUT_TOTAL = "{desc}: {n_fmt}, {rate_fmt}, {elapsed} so far{postfix}"


def progress_bar(
    iterable: Iterable | None = None,
    description: str = "",
    unit: str = "film",
    total: int | None = None,
    initial: int = 0,
    show: bool = True,
    file: TextIO | None = None,
    **options: Any,
) -> tqdm:
    """Return a bar that counts an iterable's items, or what its ``update`` is told.

    The rate is the mean over this run: items done by an earlier run are `initial` and do not count as work of this
    one, and a pause for validation or a burst of finished jobs does not make the time left jump.

    Parameters
    ----------
    iterable : iterable, optional
        What to go through. Without it, call ``update`` and, at the end, ``close``.
    description, unit : str
        What is done, and what is counted, in the singular.
    total : int, optional
        How many there are, where the iterable does not say so itself.
    initial : int
        How many of them were done before this run.
    show : bool
        False for a bar that prints nothing.
    file : text stream, optional
        Where to print; standard output by default.
    **options
        Others of tqdm's, ``unit_scale`` for instance.
    """
    file = sys.stdout if file is None else file
    options |= {"desc": description, "unit": f" {unit}", "initial": initial, "smoothing": 0, "disable": not show}
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if is_redrawn(file):
        options |= {"file": file, "mininterval": REDRAW_SECONDS}
        if file.isatty():  # tqdm alone prints nothing where the terminal does not tell its size
            options["ncols"], options["nrows"] = shutil.get_terminal_size()
    else:
        # With miniters, the clock is looked at in each step; otherwise tqdm skips steps by the rate of the first ones.
        options |= {"file": _Lines(file), "mininterval": LINE_SECONDS, "miniters": 1}
        options["bar_format"] = LINE_WITHOUT_TOTAL if total is None else LINE
    return tqdm(iterable, total=total, **options)


def is_redrawn(file: TextIO) -> bool:
    """Tell whether a stream shows a carriage return as one: a terminal does, and so does a notebook's output."""
    return file.isatty() or type(file).__module__.startswith("ipykernel.")


class _Lines:
    """A stream on which each redrawing of a bar becomes a line of its own."""

    def __init__(self, file: TextIO):
        self.file = file

    def write(self, text: str) -> None:
        if line := " ".join(text.split()):
            self.file.write(f"{line}\n")

    def flush(self) -> None:
        self.file.flush()
