"""Measure how fast phantoms are made on one core: rendered only, healthy and ill, and written as DICOM.

    python benchmarks/phantom_speed.py [IMAGES] [SIZE]

The times are also given in units of a fixed task, a Gaussian blur of 2048 x 2048 pixels timed in the same run, so that
different machines can be compared.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported: one thread only

import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import cv2  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from heartbox.phantom import make_ill, render, sample_subject, write_phantoms  # noqa: E402


def reference() -> float:
    """Return the seconds of one blur, the median of nine."""
    image = np.random.default_rng(0).random((2048, 2048), dtype=np.float32)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        cv2.GaussianBlur(image, (0, 0), 5.0)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def per_film(subjects: list, size: int) -> tuple[float, float]:
    """Return the seconds that one film takes, on the clock and of the processor."""
    start, cpu = time.perf_counter(), time.process_time()
    for subject in subjects:
        render(subject, size)
    return (time.perf_counter() - start) / len(subjects), (time.process_time() - cpu) / len(subjects)


def main() -> None:
    """Measure and print a table."""
    cv2.setNumThreads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    subjects = [sample_subject(0, index) for index in range(count)]
    render(subjects[0], size)
    blur = reference()
    alone, alone_cpu = per_film(subjects, size)
    ill, ill_cpu = per_film([make_ill(subject) for subject in subjects], size)
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        write_phantoms(folder, count, size=size, processes=1, progress=False)
        written, written_cpu = (time.perf_counter() - start) / count, (time.process_time() - cpu) / count
    blur = (blur + reference()) / 2
    print(f"{count} images of {size} x {size}, one process, one thread; reference blur {1000 * blur:.1f} ms")
    print(f"{'':24}{'images/s':>10}{'per CPU second':>16}{'ms/image':>10}{'blurs/image':>13}")
    for name, wall, used in (
        ("render", alone, alone_cpu),
        ("render, ill", ill, ill_cpu),
        ("render + DICOM", written, written_cpu),
    ):
        print(f"{name:24}{1 / wall:10.2f}{1 / used:16.2f}{1000 * wall:10.0f}{wall / blur:13.1f}")


if __name__ == "__main__":
    main()
