"""Jobs for other processes: they must lie in a module that those can import, which a test module is not."""

import os
import signal
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2

from heartbox.data.tables import ItemError
from heartbox.inference.archive import FilmJob, Outcome


def work(job: int):
    if job == 3:
        os.abort()  # as a C++ library does
    if job == 8:
        raise ValueError("eight\nis refused")
    if job == 11:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # as the system does without memory
    if job == 14:
        return threading.Lock()  # cannot be sent back
    return job, os.getpid()


@dataclass(frozen=True)
class DiesTwice:
    """Returns its job; the process of job 1 ends the first two times, which are noted in a folder."""

    notes: Path

    def __call__(self, job: int) -> int:
        ended = len(list(self.notes.iterdir()))
        if job == 1 and ended < 2:
            (self.notes / f"{ended}").touch()
            os.abort()
        return job


def threads(_) -> int:
    return cv2.getNumThreads()


@dataclass(frozen=True)
class Page:
    """Anything with a name and a path can be read."""

    name: str
    path: Path


def read_page(page: Page, answer: str) -> str:
    if page.name == "abort":
        os.abort()
    if page.name == "bug":
        raise ZeroDivisionError(f"{page.path}: nobody expected this")
    if page.name == "bad":
        raise ValueError(f"{page.path}: not a film")
    if page.name == "odd":
        raise ItemError("frame", f"{page.path}: another frame")
    return answer


@dataclass(frozen=True)
class Answerer:
    """Answers films on a cluster and notes each try in a folder; films called "kills" end their worker every time."""

    notes: Path
    seconds: float = 0.0

    def __call__(self, job: FilmJob) -> Outcome:
        (self.notes / f"{job.source.path.name} {uuid.uuid4()}").touch()
        if job.source.path.name.startswith("kills"):
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        if job.source.path.name == "full":
            return Outcome(job.source.name, fatal="the disk is full")
        if job.source.path.name == "odd":
            raise ZeroDivisionError("a worker with another version")
        time.sleep(self.seconds)
        return Outcome(job.source.name, {"file": job.source.name})

    def tries(self) -> Counter:
        """Count how often each film was tried."""
        return Counter(path.name.split()[0] for path in self.notes.iterdir())
