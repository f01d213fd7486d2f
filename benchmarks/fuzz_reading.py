"""Damaged and contradictory films, read in a process that may be lost.

The question: does reading always end in an image or in a reason?

Two parts: seeded mutations of a phantom in every transfer syntax and picture format, and every change of one header
element in one file of each transfer syntax. A worker process reads them; if it dies, the file that ended it is counted
and another worker goes on. An interrupted run goes on from its log::

    python benchmarks/fuzz_reading.py --mutations 10000 --minutes 8      # repeat until it is complete
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import tifffile
from common import ROOT, write_table
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from heartbox.phantom import render, sample_subject
from heartbox.xray import XRayError, load_xray

UID = "1.2.840.10008.1.2"
SLOW, STUCK = 5.0, 60.0  # seconds; a file that takes more than the latter is given up and its worker killed
NATIVE = {
    "Implicit VR Little Endian": UID,
    "Explicit VR Little Endian": f"{UID}.1",
    "Explicit VR Big Endian": f"{UID}.2",
    "Deflated Explicit VR Little Endian": f"{UID}.1.99",
}
JPEG = partial(imagecodecs.jpeg_encode, level=90)
LOSSLESS = partial(imagecodecs.jpeg_encode, lossless=True, bitspersample=12)
JPEG2000 = partial(imagecodecs.jpeg2k_encode, codecformat="j2k", bitspersample=12)
HTJ2K = imagecodecs.htj2k_encode
# Name -> (UID, bits, encoder of the phantom's pixels brought to these bits).
ENCODED = {
    "RLE Lossless": (f"{UID}.5", 12, None),
    "JPEG Baseline": (f"{UID}.4.50", 8, JPEG),
    "JPEG Extended": (f"{UID}.4.51", 12, partial(JPEG, bitspersample=12)),
    "JPEG Lossless": (f"{UID}.4.57", 12, partial(LOSSLESS, predictor=4)),
    "JPEG Lossless SV1": (f"{UID}.4.70", 12, partial(LOSSLESS, predictor=1)),
    "JPEG-LS Lossless": (f"{UID}.4.80", 12, imagecodecs.jpegls_encode),
    "JPEG-LS Near-Lossless": (f"{UID}.4.81", 12, partial(imagecodecs.jpegls_encode, level=4)),
    "JPEG 2000 Lossless": (f"{UID}.4.90", 12, partial(JPEG2000, level=0)),
    "JPEG 2000": (f"{UID}.4.91", 12, partial(JPEG2000, level=60)),
    "HTJ2K Lossless": (f"{UID}.4.201", 16, partial(HTJ2K, reversible=True)),
    "HTJ2K Lossless RPCL": (f"{UID}.4.202", 16, partial(HTJ2K, reversible=True)),
    "HTJ2K": (f"{UID}.4.203", 16, partial(HTJ2K, level=0.005, reversible=False)),
}
PICTURES = ("PNG 8 bit", "PNG 16 bit", "JPEG", "TIFF 8 bit", "TIFF 16 bit", "TIFF float64", "BigTIFF")
NUMBERS = ("0", "-1", "1e308", "-1e308", "1e-308", "65536", "abc", "", "0.5")
WORDS = (0, 1, 2, 3, 4, 5, 7, 8, 10, 11, 12, 15, 16, 17, 24, 31, 32, 64, 255, 32767, 65535)
CHANGES = {
    "BitsAllocated": WORDS,
    "BitsStored": WORDS,
    "HighBit": WORDS,
    "SamplesPerPixel": WORDS,
    "PlanarConfiguration": WORDS,
    "PixelRepresentation": WORDS,
    "Rows": (0, 1, 2, 60, 159, 161, 320, 1600, 65535),
    "Columns": (0, 1, 2, 60, 143, 145, 288, 1440, 65535),
    "NumberOfFrames": ("0", "1", "2", "3", "-1", "1000", "2147483647", "abc", ""),
    "PhotometricInterpretation": (
        *("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"),
        *("PALETTE COLOR", "CMYK", "HSV", "ARGB", "XYZ", "nonsense", ""),
    ),
    "RescaleSlope": NUMBERS,
    "RescaleIntercept": NUMBERS,
    "WindowCenter": NUMBERS,
    "WindowWidth": NUMBERS,
    "VOILUTFunction": ("LINEAR", "LINEAR_EXACT", "SIGMOID", "nonsense", ""),
    "PixelPaddingValue": WORDS,
    "PixelPaddingRangeLimit": WORDS,
    "PresentationLUTShape": ("IDENTITY", "INVERSE", "nonsense"),
}
TABLES = ("VOILUTSequence", "ModalityLUTSequence")
# (descriptor, entries, bytes an entry)
LUTS = (
    *(([4096, 0, 16], 4096, 2), ([4096, 0, 12], 2048, 2), ([4096, 0, 8], 4096, 1), ([0, 0, 16], 65536, 2)),
    *(([4096, 65535, 16], 4096, 2), ([1, 0, 16], 1, 2), ([4096, 0, 0], 4096, 2), ([4096, 0, 65535], 4096, 2)),
    *(([4096, 0], 4096, 2), ([65535, 0, 16], 10, 2), ([4096, 0, 16], 0, 2)),
)


@cache
def pixels() -> np.ndarray:
    """Return a phantom's pixels, 12 bits, (160, 144)."""
    image = render(sample_subject(0, 0), 160).image[:, 8:-8]
    return np.rint(image * 4095).astype(np.uint16)


def at_depth(bits: int) -> np.ndarray:
    """Return them with 8, 12 or 16 bits."""
    return {8: (pixels() >> 4).astype(np.uint8), 12: pixels(), 16: pixels() << 4}[bits]


def film(name: str) -> Dataset:
    """Return the phantom as a dataset of that transfer syntax."""
    uid, bits, encode = ENCODED.get(name, (NATIVE.get(name), 12, None))
    stored = at_depth(bits)
    ds = Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.file_meta.TransferSyntaxUID = UID + ".1" if name == "RLE Lossless" else uid
    ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel = "DX", "MONOCHROME2", 1
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * stored.dtype.itemsize, bits, bits - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = (2**bits - 1) / 2, 2**bits - 1
    order = ">" if name.startswith("Explicit VR Big") else "<"
    ds.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    ds["PixelData"].VR = "OW" if bits > 8 else "OB"
    if name == "RLE Lossless":
        ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    elif encode:
        ds.PixelData = encapsulate([encode(stored)])
        ds["PixelData"].VR = "OB"
    return ds


def write(ds: Dataset) -> bytes:
    """Return the file, whatever its elements hold."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@cache
def whole(name: str) -> bytes:
    """Return the undamaged file of a transfer syntax or picture format."""
    if name not in PICTURES:
        return write(film(name))
    if name == "JPEG":
        return imagecodecs.jpeg_encode(at_depth(8), level=90)
    if name.startswith("PNG"):
        return cv2.imencode(".png", at_depth(8 if "8" in name else 16))[1].tobytes()
    stream = io.BytesIO()
    kinds = {
        "TIFF 8 bit": at_depth(8),
        "TIFF 16 bit": at_depth(12),
        "TIFF float64": pixels() / 4095,
        "BigTIFF": pixels(),
    }
    tifffile.imwrite(stream, kinds[name], bigtiff=name == "BigTIFF")
    return stream.getvalue()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one of the ways that disks, networks and other programs do."""
    data = bytearray(data)
    kind = rng.randrange(6)
    # Half of the time the header, where every byte decides; it ends with the pixel data's element.
    end = data.find(b"\xe0\x7f\x10\x00") + 16 if rng.random() < 0.5 else len(data)
    start = 132 if end > 140 and data[128:132] == b"DICM" else 0

    def place() -> int:
        return rng.randrange(start, max(end, start + 1)) % len(data)

    if kind == 0:  # single bits
        for _ in range(rng.choice((1, 2, 8, 64))):
            data[place()] ^= 1 << rng.randrange(8)
    elif kind == 1:  # bytes that are special to parsers
        for _ in range(rng.choice((1, 4, 16))):
            data[place()] = rng.choice((0x00, 0xFF, 0x7F, 0x80, 0x01, 0x5C))
    elif kind == 2:  # cut off
        del data[place() :]
    elif kind == 3:  # a piece missing
        at = place()
        del data[at : at + rng.choice((1, 2, 17, 400))]
    elif kind == 4:  # a piece twice
        at, length = place(), rng.choice((1, 2, 17, 400))
        data[at:at] = data[at : at + length]
    else:  # a length or a number turned huge
        at = place()
        data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xfe\xff\0\xe0"))
    return bytes(data)


def field_changes() -> Iterator[tuple[str, str, int]]:
    """Yield (transfer syntax, element, number of the change); the last change of an element is its removal."""
    for name in (*NATIVE, *ENCODED):
        for keyword, values in CHANGES.items():
            for number in range(len(values) + 1):
                yield name, keyword, number
        for keyword in TABLES:
            for number in range(len(LUTS)):
                yield name, keyword, number


def changed(name: str, keyword: str, number: int) -> bytes:
    """Return a file with one element changed or removed."""
    ds = film(name)
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        if keyword in TABLES:
            descriptor, entries, width = LUTS[number]
            item = Dataset()
            item.add_new("LUTDescriptor", "US", descriptor)
            item.add_new("LUTData", "OW", np.linspace(0, 256**width - 1, entries).astype(f"<u{width}").tobytes())
            setattr(ds, keyword, [item])
        elif number == len(CHANGES[keyword]):
            ds.pop(keyword, None)
        else:
            value = CHANGES[keyword][number]
            if keyword in ds:
                del ds[keyword]
            if isinstance(value, str):
                ds.add_new(pydicom.datadict.tag_for_keyword(keyword), "LO", value)  # any text can be written as LO
                ds[keyword].VR = "LO"
            else:
                ds.add_new(pydicom.datadict.tag_for_keyword(keyword), "US", value)
        return write(ds)


def jobs(mutations: int, fields: bool = True) -> list[list]:
    """List what is to be read: ["mutation", name, seed] and ["field", name, keyword, number]."""
    names = (*NATIVE, *ENCODED, *PICTURES)
    listed = [["mutation", names[seed % len(names)], seed] for seed in range(mutations)]
    return listed + ([["field", *change] for change in field_changes()] if fields else [])


def make(job: list) -> bytes:
    """Return the file of a job."""
    if job[0] == "mutation":
        return mutate(whole(job[1]), random.Random(job[2]))
    return changed(*job[1:])


def read(path: Path) -> tuple[str, str]:
    """Read a file; return what came of it (image, refused, wrong image, traceback) and why."""
    try:
        image = load_xray(path).image
    except XRayError as error:
        return "refused", str(error)
    except BaseException as error:  # whatever it is, it is what this looks for
        return "traceback", repr(error)
    right = image.ndim == 2 and image.dtype == np.float32 and np.isfinite(image).all()
    right = right and image.min() >= 0 and image.max() <= 1
    return ("image", "") if right else ("wrong image", f"{image.dtype} {image.shape}")


def work() -> None:
    """Be the worker: read jobs from standard input, a JSON line each, and answer in the same way."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film"
        for line in sys.stdin:
            path.write_bytes(make(json.loads(line)))
            started = time.process_time()
            outcome, why = read(path)
            seconds = time.process_time() - started
            print(json.dumps([outcome, why.replace(str(path), "film"), round(seconds, 3), peak()]), flush=True)


def peak() -> int:
    """Return the most memory this process has had, in MB; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1]) // 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def run(todo: list[list], until: float = float("inf")) -> Iterator[tuple[list, list]]:
    """Yield each job with [outcome, why, seconds, peak MB], until a time."""
    worker = None
    for job in todo:
        if time.monotonic() > until:
            break
        if worker is None:
            worker = subprocess.Popen(
                [sys.executable, __file__, "--work"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        killer = _kill_after(worker, STUCK)
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        stuck = not killer.is_alive()
        killer.cancel()
        if line:
            yield job, json.loads(line)
        else:
            _, said = worker.communicate()
            outcome = "hang" if stuck else "abort"
            yield job, [outcome, f"exit code {worker.returncode}: {said[-300:]}", STUCK * stuck, 0]
            worker = None
    if worker is not None:
        worker.communicate()


def _kill_after(worker: subprocess.Popen, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, worker.kill)
    timer.daemon = True
    timer.start()
    return timer


def table(log: list[tuple[list, list]]) -> str:
    """Return the table of results in Markdown."""
    groups: dict[tuple[str, str], list] = {}
    for job, result in log:
        groups.setdefault((job[0], job[1]), []).append(result)
    lines = [
        "| part | file | read | image | refused | abort | traceback | wrong image | over 5 s | slowest, s | peak, MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [(*key, results) for key, results in groups.items()]
    for part in ("mutation", "field"):
        rows.append(
            (part, "**all**", [result for key, results in groups.items() if key[0] == part for result in results])
        )
    for part, name, results in sorted(rows, key=lambda row: row[0] != "mutation"):
        if results:
            count = Counter(result[0] for result in results)
            slow = sum(result[2] > SLOW for result in results)
            lines.append(
                f"| {part} | {name} | {len(results)} | {count['image']} | {count['refused']} | {count['abort']} | "
                f"{count['traceback']} | {count['wrong image']} | {slow} | {max(r[2] for r in results):.1f} | "
                f"{max(r[3] for r in results)} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is left, and write the table once all is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--log", type=Path, default=ROOT / "artifacts" / "fuzz_reading.jsonl")
    options = parser.parse_args()
    if options.work:
        work()
        return
    options.log.parent.mkdir(parents=True, exist_ok=True)
    log = [tuple(json.loads(line)) for line in options.log.read_text().splitlines()] if options.log.exists() else []
    done = {json.dumps(job) for job, _ in log}
    todo = [job for job in jobs(options.mutations) if json.dumps(job) not in done]
    with options.log.open("a") as stream:
        for job, result in run(todo, time.monotonic() + 60 * options.minutes):
            stream.write(json.dumps([job, result]) + "\n")
            log.append((job, result))
            if result[0] not in ("image", "refused") or result[2] > SLOW:
                print(job, result)
    print(f"{len(log)} of {len(log) + len(todo) - (len(log) - len(done))} files read")
    if len(log) >= len(jobs(options.mutations)):
        about = [
            "# Fuzzing the reader",
            "",
            "A phantom of 160 x 144 pixels in every transfer syntax and picture format, damaged "
            f"{options.mutations} times (*mutation*: bits, bytes, pieces missing or twice, cut off, huge lengths), and",
            "with one header element changed or removed (*field*). Each file is read in a worker process. A *wrong",
            "image* is not finite or not in [0, 1]; seconds are processor time; the peak is that of the worker's whole",
            "life up to then.",
            "",
        ]
        after = ["", "`python benchmarks/fuzz_reading.py`, repeated until it is complete, makes this table."]
        write_table("fuzz_reading.md", [*about, table(log), *after])
        print("complete")


if __name__ == "__main__":
    main()
