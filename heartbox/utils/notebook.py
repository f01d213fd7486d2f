"""Stopping a notebook with one sentence instead of a traceback.

Knows exceptions and IPython's hook for showing them; nothing of X-rays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class StopHere(Exception):
    """Stops *Run All*. Jupyter shows its message alone, because IPython asks an exception how to show itself."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@contextlib.contextmanager
def in_one_sentence(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors whose message says it all into :class:`StopHere`, so that no traceback stands above it.

    Parameters
    ----------
    *errors : exception classes
        Those that are made for the reader of the notebook, such as ``XRayError``. Any other is shown in full.
    """
    try:
        yield
    except errors as error:
        raise StopHere(str(error)) from error
