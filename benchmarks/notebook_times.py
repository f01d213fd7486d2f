"""Measure how long each notebook takes, in full and in fast mode, and the README's first command after installation.

    python benchmarks/notebook_times.py [--at-most N] [--again]

Each of the eight notebooks runs in a fresh copy of the project with a fresh kernel, on its synthetic sample. Notebooks
02 to 04 find there what the notebooks before them left in `artifacts/`. Just before each run a bare reference, a fixed
training that needs neither Jupyter nor files, runs in a process of its own: where its time is longer than in the other
rows, the machine was busy and the row is not to be trusted.

Each result is kept in artifacts/notebook-times/ as soon as it is there, so a run that was stopped resumes with the next
notebook; --at-most measures only so many, --again starts over. A notebook that has changed since is measured again, and
so are those that build on it. After each the table is written to benchmarks/results/notebook_times.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import NOTEBOOKS, ROOT, ProcessTree, copy_project, user_environment, write_table

KEPT = ROOT / "artifacts" / "notebook-times"
COMPANIONS = sorted(f"companions/{path.name}" for path in (ROOT / "companions").glob("*.ipynb"))
# About ten seconds on two cores: a ResNet18 and its gradients, as in notebook 03.
REFERENCE = """
import torch, torchvision
torch.manual_seed(0)
model, x = torchvision.models.resnet18(), torch.randn(8, 3, 224, 224)
for _ in range(8):
    model(x).square().mean().backward()
print(torch.get_num_threads(), torch.__version__)
"""


@dataclass(frozen=True)
class Run:
    """One row of the table.

    Attributes
    ----------
    name : str
        What the table calls it.
    notebooks : tuple of str
        Executed one after the other by one command.
    fast : bool
        With ``CARDIAC_FAST=1``.
    after : str
        Name of the run of the same mode whose `artifacts/` it starts from, or nothing.
    """

    name: str
    notebooks: tuple[str, ...]
    fast: bool
    after: str = ""

    @property
    def key(self) -> str:
        """The name of its folder and of its result."""
        return re.sub(r"\W+", "-", f"{'fast' if self.fast else 'full'} {Path(self.name).stem}")


def all_runs() -> list[Run]:
    """Return what is measured, each after what it builds on."""
    found = []
    for fast in (True, False):
        found += [Run(name, (name,), fast, before) for before, name in zip(["", *NOTEBOOKS], NOTEBOOKS, strict=False)]
        found += [Run(name, (name,), fast) for name in COMPANIONS]
    return [*found, Run("README's first command", first_command(), fast=False)]


def first_command() -> tuple[str, ...]:
    """Return the notebooks that the README's first command executes."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python -m pip install .* && jupyter execute --inplace (.*)$", text, re.MULTILINE)
    return tuple(command.split())


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-most", type=int, default=1000, metavar="N", help="measure no more than N of the missing")
    parser.add_argument("--again", action="store_true", help="measure all of them again")
    arguments = parser.parse_args()
    if arguments.again:
        shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    runs = all_runs()
    missing = [run for run in runs if kept(run, runs) is None]
    for run in missing[: arguments.at_most]:
        result = {"fingerprint": fingerprint(run, runs), "reference": measure_reference(), **measure(run)}
        (KEPT / f"{run.key}.json").write_text(json.dumps(result, indent=1))
        print(f"{run.key}: {result['seconds']:.0f} s, CPU {result['cpu']:.0f} s", flush=True)
        write_table("notebook_times.md", table(runs))
    left = sum(kept(run, runs) is None for run in runs)
    print(f"{len(runs) - left} of {len(runs)} measured" + (": run it again for the rest" if left else ""))


def fingerprint(run: Run, runs: list[Run]) -> str:
    """Return a hash of the code cells of a run and of those that it builds on."""
    text = "".join(
        "".join(cell["source"])
        for name in run.notebooks
        for cell in json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    )
    before = [fingerprint(other, runs) for other in runs if (other.name, other.fast) == (run.after, run.fast)]
    return hashlib.sha256("".join([text, *before]).encode()).hexdigest()


def kept(run: Run, runs: list[Run]) -> dict | None:
    """Return an earlier result if it is of the notebook as it is, and if what the next ones build on is still there."""
    path = KEPT / f"{run.key}.json"
    result = json.loads(path.read_text()) if path.is_file() else None
    if result is None or result["fingerprint"] != fingerprint(run, runs):
        return None
    needed = run.name in {other.after for other in runs}
    return result if not needed or (KEPT / run.key).is_dir() else None


def measure(run: Run) -> dict[str, float]:
    """Execute a run in a fresh folder; return its seconds and CPU seconds."""
    with tempfile.TemporaryDirectory() as base:
        folder = copy_project(Path(base) / "copy", companions=True)
        if run.after:
            shutil.copytree(KEPT / Run(run.after, (), run.fast).key, folder / "artifacts")
        command = [sys.executable, "-m", "jupyter", "execute", "--inplace", *run.notebooks]
        result, _ = timed(command, cwd=folder, env=user_environment(run.fast))
        if run.name in NOTEBOOKS:  # the next one needs it
            shutil.rmtree(KEPT / run.key, ignore_errors=True)
            shutil.copytree(folder / "artifacts", KEPT / run.key)
    return result


def measure_reference() -> dict[str, float | str]:
    """Run the bare reference; return its seconds and CPU seconds, PyTorch's threads and its version."""
    result, printed = timed([sys.executable, "-c", REFERENCE], env=user_environment(fast=False))
    threads, version = printed.split()
    return result | {"threads": threads, "torch": version}


def timed(command: list[str], **options) -> tuple[dict[str, float], str]:
    """Run a command to its end; return its seconds and CPU seconds, and what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=errors, **options)
        tree = ProcessTree(process)
        while process.poll() is None:
            tree.look()
            time.sleep(0.5)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command[:6])} failed:\n{errors.read().decode(errors='replace')[-3000:]}")
        out.seek(0)
        return {"seconds": seconds, "cpu": tree.cpu_seconds}, out.read().decode()


def table(runs: list[Run]) -> list[str]:
    """Return the lines of the table, with a dash for what has not been measured."""
    results = {run: kept(run, runs) for run in runs}
    references = [result["reference"] for result in results.values() if result]
    threads = ", ".join(sorted({one["threads"] for one in references}))
    versions = ", ".join(sorted({one["torch"] for one in references}))
    lines = [
        "# How long the notebooks take",
        "",
        f"{os.cpu_count()} CPU cores, PyTorch {versions} with {threads} threads, synthetic samples. Each notebook ran",
        "in a fresh folder with a fresh kernel, whose start is included; installation is not. Wall and CPU time of",
        "all processes, in seconds. The *reference* is a fixed training that ran just before, in a process of its own:",
        "where it took longer than in the other rows, the machine was busy.",
        "",
        "Written by `python benchmarks/notebook_times.py`.",
        "",
        "| what | mode | wall, s | CPU, s | reference: wall, s | reference: CPU, s |",
        "|---|---|---|---|---|---|",
    ]
    for run, result in results.items():
        figures = ["-"] * 4
        if result:
            one = result["reference"]
            figures = [f"{result['seconds']:.0f}", f"{result['cpu']:.0f}", f"{one['seconds']:.1f}", f"{one['cpu']:.1f}"]
        mode = "fast" if run.fast else "full"
        lines.append(f"| {Path(run.name).stem} | {mode} | {' | '.join(figures)} |")
    return lines


if __name__ == "__main__":
    main()
