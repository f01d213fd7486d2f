"""Measure what everything costs beside the bare work that it cannot do without, as ratios.

    python benchmarks/speed.py [SECTION ...] [--threads N] [--films N ...] [--before CHECKOUT]

Sections: start, reading, detect, explanations, training, gpu, prepare, folders, together, notebooks; all by default.
Each figure is a ratio of medians, of work and bare work timed by turns in the same run: of processor time within a
process, which other programs change little, and of wall time where several processes work and on a card. Each section
keeps its rows in artifacts/speed/, and the table is made of all that are there, so that a long run can be done in
pieces. Phantoms are used throughout. Writes benchmarks/results/speed.md.

With --before, each section is also measured in the checkout of an earlier version, just before its turn here; this
script, and what it imports from benchmarks/, are copied there.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import fuzz_reading
import imagecodecs
import numpy as np
import psutil
import pydicom
import torch
from common import ROOT, write_table
from pydicom.encaps import generate_frames
from torch.utils.data import DataLoader
from torchvision.models import resnet18

from cardiac_dataset import CardiacDataset
from heartbox import HeartDetector
from heartbox.data.layouts import list_xrays
from heartbox.data.phantom_store import write_phantom_store
from heartbox.data.prepare import prepare
from heartbox.explain.attribution import occlusion_map, smooth_gradients
from heartbox.models.weights import released_weights
from heartbox.phantom import render, sample_subject, write_phantoms
from heartbox.training.device import mixed_precision
from heartbox.training.loop import Learner
from heartbox.training.recipes import RECIPES, BoxTask, make_model
from heartbox.xray.reader import load_xray

PARTS = ROOT / "artifacts" / "speed"
SIDE = 1024  # of a film, in pixels
REPEATS = 15
FILMS = (100, 1000)  # in a folder; --films 10000 takes a quarter of an hour for each number of workers
DISTINCT = 20  # phantoms that are rendered; the other films of a folder are links to these
NOTEBOOKS = sorted(path.name for path in ROOT.glob("0*.ipynb"))
STEPS, PATCHES = 16, 256  # of integrated gradients and of the occlusion map, at their defaults
Row = tuple[str, str, str]  # what was measured, beside what, the ratio or figure


# ---------------------------------------------------------------- timing


def by_turns(works: dict[str, Callable[[], object]], repeats: int = REPEATS, clock=time.process_time) -> dict:
    """Return the median seconds of each work; one round runs all of them, and the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = clock()
            work()
            times[name].append(clock() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def ratio(seconds: dict[str, float], name: str, bare: str = "bare") -> str:
    """Return one ratio as the table has it."""
    return f"{seconds[name] / seconds[bare]:.2f}"


# ---------------------------------------------------------------- films


@functools.cache
def phantom_pixels() -> np.ndarray:
    """Return a phantom's pixels, 12 bits, (SIDE, SIDE)."""
    return np.rint(render(sample_subject(0, 0), SIDE).image * 4095).astype(np.uint16)


def write_films(folder: Path) -> dict[str, Path]:
    """Write the same film in the kinds of pixels that films come in."""
    fuzz_reading.pixels = phantom_pixels
    films = {}
    for bits in (8, 12, 16):
        ds, stored = fuzz_reading.film("Explicit VR Little Endian"), fuzz_reading.at_depth(bits)
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * stored.dtype.itemsize, bits, bits - 1
        ds.WindowCenter, ds.WindowWidth, ds.PixelData = (2**bits - 1) / 2, 2**bits - 1, stored.tobytes()
        films[f"uncompressed, {bits} bits"] = ds
    for name in ("JPEG Baseline", "JPEG Lossless SV1", "JPEG 2000 Lossless"):
        films[name] = fuzz_reading.film(name)
    for number, (name, ds) in enumerate(films.items()):
        films[name] = folder / f"{number}.dcm"
        ds.save_as(films[name], enforce_file_format=True)
    return films


def bare_decode(path: Path) -> np.ndarray:
    """Decode a film as pydicom does, or as imagecodecs where pydicom has no decoder of its own."""
    ds = pydicom.dcmread(path)
    if ds.file_meta.TransferSyntaxUID.endswith("4.70"):
        return imagecodecs.jpeg8_decode(next(generate_frames(ds.PixelData, number_of_frames=1)))
    return ds.pixel_array


# ---------------------------------------------------------------- sections


def start(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare importing the package and the command's help with a Python that does nothing, in processor time."""
    commands = {
        "bare": ["-c", "pass"],
        "`import heartbox`": ["-c", "import heartbox"],
        "`heartbox --help`": ["-m", "heartbox", "--help"],
    }

    def children() -> float:
        used = os.times()
        return used.children_user + used.children_system

    def run(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)

    works = {name: functools.partial(run, arguments) for name, arguments in commands.items()}
    seconds = by_turns(works, 7, clock=children)
    names = [name for name in commands if name != "bare"]
    return [(name, "`python -c pass`", f"{ratio(seconds, name)} ({seconds[name]:.2f} s)") for name in names]


def reading(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare reading a film with decoding it."""
    rows = []
    for name, path in write_films(work).items():
        works = {"bare": functools.partial(bare_decode, path), name: functools.partial(load_xray, path)}
        rows.append((f"`load_xray`: {name}", "bare decoding", ratio(by_turns(works), name)))
    return rows


def detect(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare finding a box in a file and in an array with decoding and one pass of ResNet18."""
    film = write_films(work)["uncompressed, 12 bits"]
    detector, image = HeartDetector.from_weights(released_weights()), load_xray(film).image
    fast = onnx_detector(work / "heart.onnx")
    network, x = resnet18().eval(), torch.randn(1, 3, 224, 224)

    @torch.inference_mode()
    def bare_pass() -> None:
        network(x)

    def bare() -> None:
        bare_decode(film)
        bare_pass()

    works = {"bare": bare, "pass": bare_pass, "file": lambda: detector.detect(film)}
    works |= {"array": lambda: detector.detect(image)}
    if fast:
        works |= {"onnx": lambda: fast.detect(film)}
    seconds = by_turns(works)
    rows = [
        ("`detect(file)`", "bare decoding and one pass of ResNet18", ratio(seconds, "file")),
        ("`detect(array)`", "one pass of ResNet18", ratio(seconds, "array", "pass")),
    ]
    if fast:
        rows.append(
            ("`detect(file)`, weights as ONNX", "bare decoding and one pass of ResNet18", ratio(seconds, "onnx"))
        )
        rows.append(("`detect(file)`, weights as ONNX", "`detect(file)`", ratio(seconds, "onnx", "file")))
    return rows


def onnx_detector(path: Path) -> HeartDetector | None:
    """Return a detector of the released weights as ONNX; None in a version that cannot export them."""
    try:
        from heartbox.models.onnx_files import export_onnx
    except ImportError:
        return None
    return HeartDetector.from_weights(export_onnx(released_weights(), path))


def explanations(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare the maps of a film with as many bare passes as their method has points or patches."""
    detector = HeartDetector.from_weights(released_weights())
    model, x = detector.model, torch.randn(1, 1, 224, 224)
    network = getattr(detector, "network", model)  # folded; earlier versions had none
    batch = x.repeat(16, 1, 1, 1)

    def forward_backward() -> None:
        for _ in range(4 * STEPS):
            point = x.clone().requires_grad_()
            torch.autograd.grad(model(point)[:, 0].sum(), point)

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(PATCHES // 16):
            model(batch)

    works = {
        "64": forward_backward,
        "gradients": lambda: smooth_gradients(network, x),
        "256": forward,
        "occlusion": lambda: occlusion_map(network, x),
    }
    seconds = by_turns(works, 2)
    return [
        ("integrated gradients", "64 forward and backward passes", ratio(seconds, "gradients", "64")),
        ("occlusion", "256 passes in batches of 16", ratio(seconds, "occlusion", "256")),
    ]


def training(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare a step of the released recipe with a forward and backward pass of its network."""
    return training_rows(work, torch.device("cpu"), time.process_time)


def gpu(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare, on a CUDA card, the same training step with the same bare passes, in wall time."""
    if not torch.cuda.is_available():
        print("gpu: there is no CUDA card; the rows of an earlier run, if any, stay")
        return []
    return training_rows(work, torch.device("cuda"), time.perf_counter)


def training_rows(work: Path, device: torch.device, clock: Callable[[], float]) -> list[Row]:
    """Return the rows of a training step on a device."""
    recipe = RECIPES["edges"]
    write_phantom_store(work / "processed", 24, validation_share=0.2, progress=False)
    pairs = CardiacDataset(work / "processed", "train", recipe.augment, recipe.targets, recipe.rule, masks=True)
    model = make_model(recipe, pairs)
    learner = Learner(model, BoxTask(recipe), steps=100, device=device)
    learner.model.train()
    order = np.arange(REPEATS * 4 * recipe.batch_size) % len(pairs)

    def batches_by(workers: int) -> Iterator:
        return iter(DataLoader(pairs, recipe.batch_size, sampler=order, num_workers=workers))

    batches = batches_by(0)
    x = torch.randn(recipe.batch_size, 1, 224, 224).to(device, memory_format=torch.channels_last)
    batch, epoch = [], recipe.epochs  # the last epochs use images of full size

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def bare() -> None:
        with mixed_precision(device):
            features = learner.model.features(x)
        learner.model.zero_grad()
        learner.model.coordinates(features.float()).sum().backward()
        finish()

    def load() -> None:
        batch[:] = next(batches)

    def step() -> None:
        learner.optimizer.zero_grad()
        learner.task.loss(learner.model, batch, epoch, device).backward()
        learner.optimizer.step()
        learner.average.update_parameters(learner.model)
        finish()

    def wall_seconds(workers: int, steps: int = 6) -> float:
        source = batches_by(workers)
        next(source)  # a process that loads ahead is running now
        begun = time.perf_counter()
        for _ in range(steps):
            batch[:] = next(source)
            step()
        return (time.perf_counter() - begun) / steps

    seconds = by_turns({"bare": bare, "loader": load, "step": step}, 5, clock)
    rounds = [
        (by_turns({"bare": bare}, 6, time.perf_counter)["bare"], wall_seconds(0), wall_seconds(1)) for _ in range(3)
    ]
    wall = dict(zip(("bare", "here", "apart"), map(statistics.median, zip(*rounds, strict=True)), strict=True))
    whole = seconds | {"whole": seconds["loader"] + seconds["step"]}
    beside = "forward and backward pass, same precision"
    return [
        ("training step without its loader", beside, ratio(seconds, "step")),
        ("training step with its loader in the same process", beside, ratio(whole, "whole")),
        ("the same in wall time", beside, ratio(wall, "here")),
        ("the same in wall time, its loader in a process of its own", beside, ratio(wall, "apart")),
        ("wait for the loader", "the whole step", f"{seconds['loader'] / whole['whole']:.0%}"),
        ("bare pass", "-", f"{seconds['bare'] * 1000:.0f} ms a batch of {recipe.batch_size}"),
    ]


def preparing(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare preparing a folder, by one worker process and by two that already run, with reading its films."""
    write_phantoms(work / "raw", 100, size=SIDE, progress=False)
    paths, rows = [film.path for film in list_xrays(work / "raw")[0]], []
    for count in (1, 2):
        works = {
            "bare": lambda: [load_xray(path) for path in paths],
            "prepare": functools.partial(prepare, work / "raw", work / "out", processes=count, progress=False),
        }
        seconds = by_turns(works, 5, clock=time.perf_counter)
        rows.append((f"`prepare`, processes: {count}", "reading its films in one process", ratio(seconds, "prepare")))
    return rows


def run_watched(arguments: list[str], environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Run a Python command; return its seconds and the most memory that it and its children took, in GiB."""
    begun, most = time.perf_counter(), 0.0
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            most = max(most, sum(one.memory_info().rss for one in family) / 2**30)
        except psutil.Error:  # one has just ended
            continue
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}; nothing to report")
    return time.perf_counter() - begun, most


def folders(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare a film of a folder, by the command with one and two processes, with a film alone."""
    write_phantoms(work / "raw", DISTINCT, size=SIDE, progress=False)
    drawn = sorted((work / "raw").rglob("*.dcm"))
    detector, rows = HeartDetector.from_weights(released_weights()), []
    for count in options.films:
        films = work / f"films-{count}"
        films.mkdir()
        for number in range(count):
            os.link(drawn[number % DISTINCT], films / f"{number:05d}.dcm")
        for workers in (1, 2):
            alone = by_turns({"alone": lambda: detector.detect(drawn[0])}, clock=time.perf_counter)["alone"]
            command = ["-m", "heartbox", str(films), "--csv", str(work / "out.csv"), "--workers", str(workers)]
            empty, _ = run_watched([*command[:2], str(drawn[0]), *command[3:]])  # start and weights, once
            seconds, memory = run_watched(command)
            (work / "out.csv").unlink()
            each = max(seconds - empty, 0) / count
            figures = f"{each / alone:.2f} ({1 / each:.1f} films/s, {memory:.1f} GiB at most)"
            rows.append((f"a film in a folder of {count:,}, processes: {workers}", "a film alone", figures))
    return rows


TOGETHER = """
import time{imports}
from heartbox import HeartDetector
from heartbox.models.weights import released_weights
detector = HeartDetector.from_weights(released_weights())
detector.detect({film!r})
begun = time.perf_counter()
for _ in range(40):
    detector.detect({film!r})
print(time.perf_counter() - begun)
"""


def together(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare each of several runs at once with a run alone, 40 films each, torch imported after heartbox or before."""
    film, rows = str(write_films(work)["uncompressed, 12 bits"]), []
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}

    def at_once(code: str, count: int) -> float:
        runs = [
            subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        return statistics.mean(float(run.communicate()[0]) for run in runs)

    for order, imports in (
        ("heartbox first", ", heartbox, torch"),
        ("torch first, as in notebooks", ", torch, heartbox"),
    ):
        code = TOGETHER.format(imports=imports, film=film)
        alone = at_once(code, 1)
        for count in (2, 4):
            rows.append((f"{count} runs at once, {order}", "one run alone", f"{at_once(code, count) / alone:.2f}"))
    return rows


def notebooks(work: Path, options: argparse.Namespace) -> list[Row]:
    """Compare the four notebooks in fast mode with importing what they import."""
    for name in ("heartbox", "weights"):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cardiac_dataset.py", *NOTEBOOKS):
        shutil.copy(ROOT / name, work)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CARDIAC_")}
    environment["CARDIAC_FAST"] = "1"
    bare, rows = run_watched(["-c", "import torch, torchvision, matplotlib.pyplot, pandas"])[0], []
    for name in NOTEBOOKS:
        path = str(work / name)
        seconds, memory = run_watched(["-m", "jupyter", "execute", "--inplace", path], environment)
        figures = f"{seconds / bare:.0f} ({seconds:.0f} s, {memory:.1f} GiB)"
        rows.append((f"{name}, fast mode", "importing torch, torchvision, Matplotlib and pandas", figures))
    return rows


SECTIONS: dict[str, Callable[[Path, argparse.Namespace], list[Row]]] = {
    "start": start,
    "reading": reading,
    "detect": detect,
    "explanations": explanations,
    "training": training,
    "gpu": gpu,
    "prepare": preparing,
    "folders": folders,
    "together": together,
    "notebooks": notebooks,
}


# ---------------------------------------------------------------- the table


def table() -> Iterator[str]:
    """Yield the lines of the table of all sections that were measured."""
    yield "Each figure is a ratio: work beside bare work, medians, timed by turns in the same run; of processor time"
    yield "within a process, and of wall time for `prepare`, folders, runs at once and notebooks. Phantoms of"
    yield f"{SIDE} x {SIDE} pixels. Seconds, where there are any, are those of the machine at hand."
    yield ""
    yield "Written by `python benchmarks/speed.py`."
    for name in SECTIONS:
        if (path := PARTS / f"{name}.json").is_file():
            part = json.loads(path.read_text())
            title = name.upper() if name == "gpu" else name.capitalize()
            yield from ("", f"## {title}", "", SECTIONS[name].__doc__, "", part["conditions"], "")
            before = {tuple(row[:2]): row[2] for row in part.get("before", [])}
            yield "| work | bare work | before | ratio |" if before else "| work | bare work | ratio |"
            yield "|---" * (4 if before else 3) + "|"
            for work, bare, now in part["rows"]:
                yield f"| {' | '.join([work, bare, *([before.get((work, bare), '-')] if before else []), now])} |"


def measure_before(checkout: Path, name: str, options: argparse.Namespace) -> tuple[list[Row], str]:
    """Measure a section in another checkout; return its rows, and that checkout's commit."""
    for script in ("speed.py", "common.py", "fuzz_reading.py"):
        shutil.copy(Path(__file__).with_name(script), checkout / "benchmarks" / script)
    command = [sys.executable, str(checkout / "benchmarks" / "speed.py"), name, f"--threads={options.threads}"]
    subprocess.run([*command, "--films", *map(str, options.films)], check=True, cwd=checkout)
    revision = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(revision, check=True, capture_output=True, text=True).stdout.strip()
    rows = json.loads((checkout / PARTS.relative_to(ROOT) / f"{name}.json").read_text())["rows"]
    return rows, commit


def main() -> None:
    """Measure the sections, keep their rows and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of this process")
    parser.add_argument("--films", type=int, nargs="+", default=FILMS, help="sizes of the folders")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier version to measure as well")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}: choose of {', '.join(SECTIONS)}")
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    PARTS.mkdir(parents=True, exist_ok=True)
    for name in options.sections or SECTIONS:
        before, commit = measure_before(options.before, name, options) if options.before else ([], "")
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            rows = SECTIONS[name](Path(work), options)
        if not rows:
            continue
        busy = psutil.getloadavg()[0]
        card = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
        conditions = (
            f"{card}{os.cpu_count()} cores, threads of this process: {options.threads}, PyTorch {torch.__version__}, "
            f"load of the machine {busy:.1f}, {time.perf_counter() - begun:.0f} s."
        )
        conditions += f" Before: commit {commit}." if before else ""
        part = {"conditions": conditions, "rows": rows, "before": before}
        (PARTS / f"{name}.json").write_text(json.dumps(part, indent=1))
        print(f"{name}: {conditions}", *(" | ".join(row) for row in rows), sep="\n", flush=True)
    write_table("speed.md", list(table()))


if __name__ == "__main__":
    main()
