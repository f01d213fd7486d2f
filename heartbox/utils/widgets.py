"""A button that takes a file of any size into the notebook, where anywidget is installed.

Knows widgets and files; nothing of X-rays. Jupyter's server closes the connection on a message of more than 10 MiB
(``websocket_max_message_size``), and ipywidgets' own ``FileUpload`` sends a file as one message, so that a larger one
is lost without a word. Here the browser sends it in parts of 1 MiB, each written to disk as it comes.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Any

from heartbox.utils.notebook import StopHere

LONGEST_NAME = 150  # bytes; file systems allow 255, and a letter of Chinese takes three
# Not in a name on one system or another; the last ones turn the direction of writing, which shows another name.
UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\u2028-\u202e\u2066-\u2069]')

_BROWSER = """
const PART = 1 << 20;

function render({ model, el }) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const status = document.createElement("div");
  label.textContent = model.get("description");
  label.style.cssText = "display: inline-block; padding: 6px 12px; border: 1px solid; cursor: pointer";
  input.type = "file";
  input.accept = model.get("accept");
  // Its own words, "no file chosen", would contradict the status when the cell is run again.
  input.style.cssText = "position: absolute; opacity: 0; width: 1px";
  status.setAttribute("role", "status");
  label.append(input);
  el.classList.add("heartbox-upload");
  el.append(label, status);

  const show = () => { status.textContent = model.get("status"); };
  model.on("change:status", show);
  show();

  input.addEventListener("change", async () => {
    const file = input.files[0];
    if (!file) return;
    status.textContent = `Sending ${file.name} ...`;
    const upload = `${Date.now()}`;
    let start = 0;
    do {
      const part = await file.slice(start, start + PART).arrayBuffer();
      model.send({ upload, name: file.name, start, size: file.size }, undefined, [part]);
      start += PART;
    } while (start < file.size);
    input.value = "";  // so that the same file can be chosen again
  });

  return () => model.off("change:status", show);
}

export default { render };
"""

_buttons: dict[Path, Any] = {}  # one a folder, so that the cell that is run again shows the one that holds the file


def upload_button(accept: str, folder: str | Path, description: str = "Choose an X-ray") -> Any | None:
    """Return the button for one file; None where anywidget is not installed.

    Called again in the same session it returns the same button, so that *Run All* keeps what was uploaded.

    Parameters
    ----------
    accept : str
        Endings that the file dialogue offers, separated by commas: ``".dcm,.png"``.
    folder : path
        Where the file is written, under its own name; one of the same name is replaced.
    description : str
        What stands on the button.

    Returns
    -------
    anywidget.AnyWidget or None
        To be displayed; :func:`uploaded_file` asks it later.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None
    key = Path(folder).resolve()
    if key in _buttons:
        return _buttons[key]

    class UploadButton(anywidget.AnyWidget):
        _esm = _BROWSER
        accept = traitlets.Unicode().tag(sync=True)
        description = traitlets.Unicode().tag(sync=True)
        status = traitlets.Unicode().tag(sync=True)

        def __repr__(self) -> str:  # what a page without widgets shows
            return "Here stands a button for a file while the notebook is running."

    button = UploadButton(accept=accept, description=description, status="No file yet.")
    button.receiver = FileReceiver(folder)
    button.on_msg(lambda widget, content, parts: _take(widget, content, parts))
    _buttons[key] = button
    return button


def uploaded_file(button: Any | None) -> Path | None:
    """Return the path of the file that was uploaded last; None where there is none, or no button.

    Raises
    ------
    StopHere
        If a file is still on its way, or could not be written.
    """
    if button is None:
        return None
    receiver = button.receiver
    if receiver.problem:
        raise StopHere(receiver.problem)
    if receiver.expected is not None:
        raise StopHere(f"{receiver.state}: wait until all of it is there, then run this cell and those below again.")
    return receiver.path


def _take(button: Any, content: dict, parts: list) -> None:
    button.receiver.take(content, bytes(parts[0]) if parts else b"")
    button.status = button.receiver.problem or button.receiver.state


class FileReceiver:
    """Puts the parts of a file together on disk; the file gets its name when it is complete.

    Parameters
    ----------
    folder : path
        Where to write.

    Attributes
    ----------
    path : Path or None
        The last complete file.
    expected : int or None
        Bytes of the file that is on its way; None where there is none.
    problem : str
        Why the last file could not be written; "" where it could.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path: Path | None = None
        self.expected: int | None = None
        self.problem = ""
        self._upload, self._name, self._received = "", "", 0

    @property
    def state(self) -> str:
        """What has arrived, in words."""
        if self.expected is not None:
            return f"{self._name}: {self._received / 1e6:.1f} of {self.expected / 1e6:.1f} MB have arrived"
        return "No file yet." if self.path is None else f"{self.path.name} is here: run the cells below."

    def take(self, content: dict, part: bytes) -> None:
        """Write one part: `content` has ``upload`` (an id), ``name``, ``start`` and ``size`` in bytes."""
        try:
            self._write(content, part)
        except OSError as error:
            self.expected, self.problem = None, f"{self._name} could not be written to {self.folder.name}/: {error}"

    def _write(self, content: dict, part: bytes) -> None:
        if content["start"] == 0:
            self._upload, self._name, self._received = content["upload"], _plain_name(content["name"]), 0
            self.expected, self.problem = int(content["size"]), ""
            self.folder.mkdir(parents=True, exist_ok=True)
        elif content["upload"] != self._upload or self.expected is None:
            return  # the rest of a file that another one, or an error, has replaced
        path = self.folder / self._name
        incomplete = path.with_name(f"{path.stem}.part{path.suffix}")
        with incomplete.open("wb" if content["start"] == 0 else "ab") as stream:
            stream.write(part)
        self._received += len(part)
        if self._received >= self.expected:
            incomplete.replace(path)
            self.path, self.expected = path, None


def _plain_name(name: str) -> str:
    """Return a name that does not lead out of its folder, whatever the browser calls the file."""
    bare = PurePath(str(name).replace("\\", "/")).name
    bare = UNSAFE.sub("_", bare).encode("utf-8", "replace")[-LONGEST_NAME:].decode("utf-8", "ignore")
    return bare if bare.strip(". ") else "film"
