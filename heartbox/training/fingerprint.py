"""What tells one training run from another: its settings, its data and the code that computes its loss.

A checkpoint is continued only by the run whose fingerprint it carries. Knows tasks and code objects; no files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import zlib
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from heartbox.training.task import Task

# Raise it when what a fingerprint covers changes. Version 1 did not cover the code.
FINGERPRINT_VERSION = 2
SAMPLED_IMAGES = 8  # of each dataset: enough to notice other images or another augmentation
CONSTANTS = (bool, int, float, complex, str, bytes, type(None))


def fingerprint(task: Task, model: nn.Module, seed: int, train: Dataset, val: Dataset) -> str:
    """Return what must be the same for a run to go on from a checkpoint, as JSON.

    It covers the task and its settings, the seed, all labels, some images as they are served (so that another
    augmentation is another run too), and the code of task, schedule and network (:func:`code_digest`).
    """
    layers = {type(layer) for layer in model.modules()}
    about = {
        "version": FINGERPRINT_VERSION,
        "task": type(task).__name__,
        **task.settings(),
        "seed": seed,
        "data": _data_checksum(task, train, val),
        "code": code_digest([type(task), type(task.schedule), *layers], packages=_packages(task)),
    }
    return json.dumps(about, sort_keys=True)


def _data_checksum(task: Task, train: Dataset, val: Dataset) -> int:
    checksum = zlib.crc32(task.labels(val).tobytes(), zlib.crc32(task.labels(train).tobytes()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for dataset in (train, val):
            for i in np.linspace(0, len(dataset) - 1, min(len(dataset), SAMPLED_IMAGES)).astype(int):
                checksum = zlib.crc32(dataset[int(i)][0].numpy().tobytes(), checksum)
    return checksum


def _packages(task: Task) -> set[str]:
    """Return the packages whose code counts: this one and that of the task. Libraries are taken as they are."""
    return {__package__.split(".")[0], *(cls.__module__.split(".")[0] for cls in type(task).__mro__[:-1])}


# ---------------------------------------------------------------- code


def code_digest(roots: Iterable[Any], packages: set[str]) -> str:
    """Return a SHA-256 over the compiled code of classes and functions and of everything of `packages` they use.

    A function leads to the functions, classes and plain constants that it names, and a class to its methods and its
    base classes. Compiled code is what runs, even where a file was edited since it was imported; comments, layout and
    docstrings do not change it. (A new version of Python does, and starts a run anew.)
    """
    found: dict[int, list[str]] = {}
    waiting = list(roots)
    kept = []  # keeps what is looked at alive, so that no two have one id
    while waiting:
        one = _unwrap(waiting.pop())
        if id(one) in found or not _counts(one, packages):
            continue
        kept.append(one)
        found[id(one)] = parts = [one.__qualname__]
        for part in _parts_of_class(one) if inspect.isclass(one) else _parts_of_function(one):
            if isinstance(part, str):
                parts.append(part)
            else:
                waiting.append(part)
    text = json.dumps(sorted(found.values()))
    return hashlib.sha256(text.encode()).hexdigest()


def _unwrap(one: Any) -> Any:
    """Return the function behind a method, a property or a decorator such as ``torch.no_grad()``."""
    if isinstance(one, property):
        one = one.fget
    elif isinstance(one, staticmethod | classmethod):
        one = one.__func__
    return inspect.unwrap(one) if callable(one) else one


def _counts(one: Any, packages: set[str]) -> bool:
    return isinstance(one, FunctionType | type) and one.__module__.split(".")[0] in packages


def _parts_of_class(cls: type) -> Iterator[Any]:
    """Yield base classes and methods, which are looked at in turn, and constants, as text."""
    yield from cls.__bases__
    generated = dataclasses.is_dataclass(cls)  # its __init__ follows from its fields, which settings() has
    for name, member in vars(cls).items():
        if name.startswith("__") and (generated or name not in ("__init__", "__call__")):
            continue
        yield from _parts_of_value(name, member)


def _parts_of_function(function: FunctionType) -> Iterator[Any]:
    """Yield the compiled code, as text, and what it names in its module and in the functions around it."""
    codes = list(_nested(function.__code__))
    for code in codes:
        constants = [_as_text(c) for c in code.co_consts if not isinstance(c, CodeType) and c != function.__doc__]
        yield json.dumps([code.co_code.hex(), constants, code.co_names])
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield from _parts_of_value("default", default)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from _parts_of_value(name, cell.cell_contents)
    names = {name for code in codes for name in code.co_names}
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, ModuleType):  # module.function
            for attribute in sorted(names & vars(value).keys()):
                yield from _parts_of_value(attribute, vars(value)[attribute])
        else:
            yield from _parts_of_value(name, value)


def _parts_of_value(name: str, value: Any) -> Iterator[Any]:
    parts = value if isinstance(value, tuple | frozenset) else [value]
    if all(isinstance(part, CONSTANTS) for part in parts):
        yield f"{name} = {_as_text(value)}"
    elif callable(value) or isinstance(value, property | staticmethod | classmethod):
        yield value


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _as_text(constant: Any) -> str:
    # The order of a set of strings differs from process to process.
    return repr(sorted(constant, key=repr)) if isinstance(constant, frozenset) else repr(constant)
