"""What decoding a compressed film costs, by pydicom with GDCM and by imagecodecs asked directly.

GDCM throws in C++ where header and codestream contradict each other, which ends the process; the alternative to not
asking it is a process that may be lost, whose start and transfer are measured too. Needs ``python-gdcm``, which the
project itself does not::

    python benchmarks/decoder_speed.py
"""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import time
from collections.abc import Callable

import fuzz_reading
import numpy as np
import pydicom
from common import write_table
from fuzz_reading import ENCODED, film, pixels, write
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder, pixel_array

from heartbox.xray.codestream import read_codestream
from heartbox.xray.damage import decoder_messages
from heartbox.xray.decode import decode

SIDE = 2048
REPEATS = 2


def best(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the least of several times, in milliseconds, and the result."""
    times, result = [], None
    for _ in range(REPEATS):
        started = time.process_time()
        result = function()
        times.append(time.process_time() - started)
    return 1000 * min(times), result


def main() -> None:
    """Time each transfer syntax and write the table."""
    if importlib.util.find_spec("gdcm") is None:
        sys.exit("This compares with GDCM, which the project does not need and is not there: pip install python-gdcm")
    large = np.tile(pixels(), (SIDE // 160 + 1, SIDE // 144 + 1))[:SIDE, :SIDE]
    noise = np.random.default_rng(0).normal(0, 8, large.shape)
    fuzz_reading.pixels = lambda: np.clip(large + noise, 0, 4095).astype(np.uint16)
    lines = [
        "# Decoders",
        "",
        f"One film of {SIDE} x {SIDE} pixels, milliseconds of processor time, the best of {REPEATS}: pydicom with the",
        "plugin it asks first, and imagecodecs asked directly with the codestream, its checks for damage included.",
        "",
        "| transfer syntax | pydicom asks | pydicom, ms | imagecodecs, ms | same pixels |",
        "|---|---|---|---|---|",
    ]
    for name in ENCODED:
        if name == "RLE Lossless":
            continue  # by pydicom in both
        ds = pydicom.dcmread(io.BytesIO(write(film(name))))
        frame = next(generate_frames(ds.PixelData, number_of_frames=1))
        plugin = get_decoder(ds.file_meta.TransferSyntaxUID).available_plugins[0]
        with decoder_messages():
            ours, values = best(lambda frame=frame: decode(read_codestream(frame))[0])
            try:
                theirs, expected = best(lambda ds=ds: pixel_array(ds, index=0))
                most = int(np.abs(values.astype(int) - expected).max())
                same = "yes" if most == 0 else f"to {most} of {2**16}"
                theirs = f"{theirs:.0f}"
            except RuntimeError:
                theirs, same = "cannot", ""
        lines.append(f"| {name} | {plugin} | {theirs} | {ours:.0f} | {same} |")
        print(lines[-1], flush=True)
    run = [sys.executable, "-c", "import gdcm, numpy, pydicom, time; print(time.process_time())"]
    start = float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    lines += [
        "",
        f"To start a process for GDCM that may be lost costs another {1000 * start:.0f} ms.",
    ]
    write_table("decoder_speed.md", lines)


if __name__ == "__main__":
    main()
