"""One film of a run -> its row of the table, and the files that were asked for about it.

Runs in a worker process: it loads the weights there, once, and turns every exception into the film's own outcome.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from heartbox.data.tables import Problem
from heartbox.inference.archive import FilmJob, Outcome
from heartbox.reporting.export import table_row, write_report
from heartbox.utils.temporary import NoTemporaryFolder
from heartbox.xray.errors import XRayError, one_line, printable

if TYPE_CHECKING:
    from heartbox.inference.detector import HeartDetector
    from heartbox.inference.result import HeartDetection

ENDINGS = {"overlay": ".png", "report": ".json", "sr": ".dcm", "sc": ".dcm"}
# Faults of the disk or the folder, not of the film: the next film would meet them too.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)


@dataclass(frozen=True)
class WeightsCheck:
    """What :func:`check_weights` finds: the weights' digest, or why they cannot be used."""

    digest: str = ""
    error: str = ""


@dataclass(frozen=True)
class Outputs:
    """Answers a film and writes about it; an instance is the `answer` of :func:`heartbox.inference.archive.run_films`.

    Attributes
    ----------
    weights : str or None
        A file or an https address; None for the released weights, or else those that notebook 03 wrote.
    sha256 : str or None
        What their SHA-256 must be.
    folders : dict
        Where to write, for each kind of `ENDINGS` that was asked for.
    parent : int or None
        Process without which the others end; None for the workers of a cluster, which outlive a run.
    digest : str
        SHA-256 that the weights must have wherever a film is answered; empty where they are those of this machine.
    """

    weights: str | None
    sha256: str | None
    folders: dict[str, Path]
    parent: int | None = field(default_factory=os.getpid)
    digest: str = ""

    def paths(self, stem: str) -> dict[str, Path]:
        """Return the file of each kind that was asked for."""
        return {kind: folder / f"{stem}{ENDINGS[kind]}" for kind, folder in self.folders.items()}

    def is_complete(self, job: FilmJob, outcome: Outcome) -> bool:
        """Tell whether an earlier outcome still has its files, apart from reports that were refused."""
        return all(path.is_file() or kind in outcome.refused for kind, path in self.paths(job.stem).items())

    def __call__(self, job: FilmJob) -> Outcome:
        """Return the outcome of one film; nothing is raised but what ends a program."""
        if self.parent is not None and self.parent not in (os.getpid(), os.getppid()):
            os._exit(1)  # the run that wanted this was killed: do not write into the folders of the next one
        name = printable(job.source.name)
        if self.digest and (checked := check_weights(self)).digest != self.digest:
            why = checked.error or "not those that the run was begun with"
            return Outcome(name, fatal=f"the weights on {platform.node()}: {why}")
        try:
            with job.source.file() as path:
                return self._answer(job, name, path)
        except XRayError as error:
            return Outcome(name, problem=Problem(name, "unreadable", _reason(error, name, job.source.path)))
        except NoTemporaryFolder as error:
            return Outcome(name, fatal=str(error))
        except OSError as error:
            if error.errno in DISK_FAULTS:
                return Outcome(name, fatal=f"{error.filename or 'a file'}: cannot be written ({error.strerror})")
            return _unexpected(name, error)
        except Exception as error:
            return _unexpected(name, error)

    def _answer(self, job: FilmJob, name: str, path: Path) -> Outcome:
        detector = load_detector(self.weights, self.sha256)
        found = detector.detect(path)
        row, wanted = table_row(name, found), self.paths(job.stem)
        if "overlay" in wanted:
            from heartbox.reporting.detection_plots import draw_detection
            from heartbox.reporting.plots import save_figure

            save_figure(wanted["overlay"], draw_detection(found))
        if "report" in wanted:
            write_report(wanted["report"].parent, name, found, detector.explain(found.xray), job.stem)
        refused, tracebacks = {}, []
        for kind in ("sr", "sc"):
            if kind in wanted:
                try:
                    _write_dicom(kind, wanted[kind], path, found, detector)
                except XRayError as error:  # a picture file, say: the answer stands, its report cannot be written
                    refused[kind] = _reason(error, name, path)
                except OSError:
                    raise
                except Exception as error:
                    refused[kind] = f"{type(error).__name__}: {one_line(error)}"
                    tracebacks.append(traceback.format_exc())
        if {"sr", "sc"} & wanted.keys() - refused.keys():
            from heartbox.reporting.dicom_source import source_header

            row["notes"] = " ".join(filter(None, [row["notes"], source_header(path).note]))
        if refused:
            why = " ".join(dict.fromkeys(refused.values()))
            row["notes"] = " ".join(filter(None, [row["notes"], f"No DICOM report: {why}"]))
        return Outcome(name, row, refused=refused, tracebacks="\n".join(tracebacks))


def _write_dicom(kind: str, target: Path, source: Path, found: HeartDetection, detector: HeartDetector) -> None:
    import matplotlib.pyplot as plt

    from heartbox.reporting.detection_plots import draw_detection
    from heartbox.reporting.dicom_sr import write_measurement_report, write_secondary_capture

    if kind == "sr":
        write_measurement_report(target, source, found)
        return
    figure = draw_detection(found)
    try:
        write_secondary_capture(target, source, figure, found.weights)
    finally:
        plt.close(figure)


def _reason(error: XRayError, name: str, path: Path) -> str:
    """Return an error without the name of its film, which stands beside it wherever it is shown."""
    return str(error).removeprefix(f"{name}: ").removeprefix(f"{printable(path)}: ")


def _unexpected(name: str, error: Exception) -> Outcome:
    reason = f"unexpected {type(error).__name__}: {one_line(error)}. With --log FILE the traceback is kept."
    return Outcome(name, problem=Problem(name, "error", reason), tracebacks=traceback.format_exc())


@functools.lru_cache(maxsize=1)
def load_detector(weights: str | None, sha256: str | None) -> HeartDetector:
    """Load the weights once in each process: those named, else the released ones, else those that notebook 03 wrote."""
    from heartbox.inference.detector import HeartDetector
    from heartbox.models.weights import RELEASED_NAME, released_weights

    choices = (Path("weights") / RELEASED_NAME, released_weights(), Path("artifacts/model/model.pt"))
    return HeartDetector.from_weights(
        weights or next((path for path in choices if path.is_file()), choices[-1]), sha256
    )


def check_weights(outputs: Outputs) -> WeightsCheck:
    """Load the weights, and return their digest or the reason why they cannot be used."""
    try:
        return WeightsCheck(load_detector(outputs.weights, outputs.sha256).digest)
    except (OSError, ValueError) as error:
        return WeightsCheck(error=str(error))
