"""A run over many films that can be interrupted: the journal of finished rows beside the output csv.

Knows detectors and files; no reports.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from heartbox.inference.detector import HeartDetector
from heartbox.xray.discovery import XRaySource

OWN_NAME = re.compile(r"\d{5}-.*\.(png|json|dcm)$")


class Journal:
    """The rows of a run that has not come to its end, a line of JSON each, beside the csv that is to be.

    A row counts only for the same weights and the same file, by its size and its time of change.
    """

    def __init__(self, csv: Path, detector: HeartDetector):
        self.path = csv.with_name(f"{csv.name}.unfinished")
        self.config = hashlib.sha256(
            json.dumps(detector.config.to_dict(), sort_keys=True, default=str).encode()
            + b"".join(value.numpy().tobytes() for value in detector.model.state_dict().values())
        ).hexdigest()
        self.rows = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self.rows[entry["key"], entry["output"]] = entry["row"]
                except (ValueError, KeyError, TypeError):
                    continue  # the line that was being written when the run stopped
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append("\n")  # whatever the last run was writing ends here

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(text)

    def _key(self, source: XRaySource) -> str | None:
        try:
            state = source.path.stat()
        except OSError:
            return None  # not there: look again next time
        return f"{self.config[:16]} {state.st_size} {state.st_mtime_ns} {source.name}"

    def recall(self, source: XRaySource, output: str) -> dict | None:
        """Return the row of an earlier run whose pictures and reports had the name `output`, or None."""
        key = self._key(source)
        return None if key is None else self.rows.get((key, output))

    def note(self, source: XRaySource, output: str, row: dict) -> None:
        """Keep an answer; it is in the file when this returns. An error is not kept: its cause may be mended."""
        key = self._key(source)
        if key is not None and not row["error"]:
            self._append(json.dumps({"key": key, "output": output, "row": row}) + "\n")

    def close(self) -> None:
        """Forget the rows, once they all stand in the csv."""
        self.path.unlink()


def without_own_outputs(images: list[XRaySource], folders: list[Path], passed_over: list[Path]) -> list[XRaySource]:
    """Leave out what an earlier run wrote into the output folders, where those lie among the films."""
    places = {folder.resolve() for folder in folders}
    kept = []
    for source in images:
        own = OWN_NAME.match(source.path.name) and source.path.parent.resolve() in places
        (passed_over if own else kept).append(source.path if own else source)
    return kept
