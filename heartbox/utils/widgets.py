"""A button that takes a file into the notebook, where ipywidgets is installed.

Knows widgets and files; nothing of X-rays.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from heartbox.utils.atomic import complete_or_absent


def upload_button(accept: str) -> Any | None:
    """Make a button for one file, or None where ipywidgets is not installed.

    Parameters
    ----------
    accept : str
        Endings that the file dialogue offers, with commas between: ``".dcm,.png"``.

    Returns
    -------
    ipywidgets.FileUpload or None
        To be displayed; :func:`uploaded_file` asks it later.
    """
    try:
        from ipywidgets import FileUpload
    except ImportError:
        return None
    return FileUpload(accept=accept, multiple=False, description="Your X-ray")


def uploaded_file(button: Any | None, folder: str | Path) -> Path | None:
    """Write what was put into the button to a file, and return its path; None where there is nothing yet.

    Parameters
    ----------
    button : ipywidgets.FileUpload or None
        From :func:`upload_button`.
    folder : path
        Where to write it, under its own name.
    """
    if button is None or not button.value:
        return None
    chosen = button.value[-1]
    # A browser gives a bare name; whatever else comes does not lead out of the folder.
    path = Path(folder) / (PurePath(str(chosen["name"]).replace("\\", "/")).name or "film")
    with complete_or_absent(path) as part:
        part.write_bytes(bytes(chosen["content"]))
    return path
