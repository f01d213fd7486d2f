"""What the notebooks need of Jupyter: one sentence instead of a traceback, pictures that keep the file small.

Knows exceptions, figures and IPython's hooks for showing them; nothing of X-rays.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from PIL import Image


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


def shrink_pictures(colours: int = 256) -> None:
    """Show figures as PNG with a palette from here on: about half the size, without a visible difference.

    Without it a notebook full of X-rays with maps over them has 5 MB. Outside Jupyter nothing happens.

    Parameters
    ----------
    colours : int
        In the palette of each picture, at most 256.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is None:
        return
    import matplotlib_inline.backend_inline  # noqa: F401  brings a formatter of its own, once: before ours
    from matplotlib.figure import Figure

    shell.display_formatter.formatters["image/png"].for_type(Figure, lambda figure: small_png(figure, colours))


def small_png(figure, colours: int = 256) -> bytes:
    """Return a figure as the bytes of a PNG with that many colours, without an empty rim."""
    full = io.BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    small = io.BytesIO()
    # Maximum coverage keeps rare colours, those of a map or a scale; median cut gives nearly all to the film's greys.
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    picture = Image.open(full).convert("RGB").quantize(colours, method, kmeans=3, dither=dither)
    picture.save(small, format="png", optimize=True)
    return small.getvalue()
