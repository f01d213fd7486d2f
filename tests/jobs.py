"""Jobs for other processes: they must lie in a module that those can import, which a test module is not."""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import cv2

from heartbox.data.tables import ItemError


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
