"""Reading many items in other processes, so that a bad item costs nothing but itself.

Used wherever a folder of films is prepared. Knows processes and problems; it does not know what is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from heartbox.data.tables import ItemError, Problem
from heartbox.utils.parallel import Failure, parallel_map


class Item(Protocol):
    """Whatever can be read: it has a name for the reader, and a file."""

    name: str
    path: Path


Result = TypeVar("Result")


def read_each(
    read: Callable[..., Result],
    items: Sequence[Item],
    *arguments: Any,
    description: str = "Reading X-rays",
    processes: int | None = None,
    progress: bool = True,
    log: str | Path | None = None,
) -> Iterator[Result | Problem]:
    """Yield ``read(item, *arguments)`` for each item, in order, or the :class:`Problem` that prevented it.

    Parameters
    ----------
    read : callable
        Returns what it read, or raises: :class:`ItemError` for a problem of a kind of its own, any other
        ``ValueError`` (an ``XRayError``, say) for a file that is unreadable. Any other exception is a fault that
        nobody expected (kind ``error``); if the whole process dies, the kind is ``crash``.
    items : sequence
        What to read; each has a ``name`` and a ``path``.
    *arguments
        Handed on to `read`.
    description, processes, progress
        See :func:`heartbox.utils.parallel.parallel_map`.
    log : path, optional
        A file to which the traceback of each unexpected exception is appended.
    """
    results = parallel_map(
        _Reading(read, arguments), items, description, processes=processes, progress=progress, keep_going=True
    )
    for item, result in zip(items, results, strict=True):
        if not isinstance(result, Failure):
            yield result
            continue
        yield unexpected_problem(item.name, item.path, result, log)


def unexpected_problem(name: str, path: Path, failure: Failure, log: str | Path | None = None) -> Problem:
    """Return the problem of an item on which something failed that nobody expected; its traceback goes to the log.

    Parameters
    ----------
    name, path
        The item, and its file.
    failure : Failure
        What happened.
    log : path, optional
        A file to which the traceback is appended.
    """
    where = ""
    if log is not None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with Path(log).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{name}: {failure.message}\n{failure.traceback}\n")
        where = f"; see {Path(log).name}"
    return Problem(name, "crash" if failure.died else "error", _shorten(f"{failure.message}{where}", path))


@dataclass(frozen=True)
class _Reading(Generic[Result]):
    """A job for another process: one item read, and an expected error turned into a Problem there."""

    read: Callable[..., Result]
    arguments: tuple

    def __call__(self, item: Item) -> Result | Problem:
        try:
            return self.read(item, *self.arguments)
        except ItemError as error:
            return Problem(item.name, error.kind, _shorten(error.reason, item.path))
        except ValueError as error:
            return Problem(item.name, "unreadable", _shorten(str(error), item.path))


def _shorten(reason: str, path: Path) -> str:
    """Drop the folders above a file from a reason: they belong to this machine, and not into a table."""
    for folder in path.parents[:2]:
        reason = reason.replace(f"{folder}{os.sep}", "")
    return reason
