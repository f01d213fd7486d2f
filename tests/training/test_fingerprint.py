"""What makes two runs the same: other settings, data or code start anew; comments and docstrings do not."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import pytest
import torch
from helpers import SMALL, train_small

from cardiac_dataset import CardiacDataset
from heartbox.imgaug_compat import augmenters as iaa
from heartbox.models.build import build_model
from heartbox.training import losses
from heartbox.training.fingerprint import FINGERPRINT_VERSION, code_digest, fingerprint
from heartbox.training.recipes import BoxTask


def trained_epochs(processed, folder, *arguments, **options) -> list[int]:
    epochs = []
    train_small(processed, folder, *arguments, on_epoch=lambda epoch, *_: epochs.append(epoch), **options)
    return epochs


def test_another_seed_is_another_run(processed, tmp_path):
    train_small(processed, tmp_path)
    assert trained_epochs(processed, tmp_path, seed=1) == [1, 2, 3]


def test_another_augmentation_is_another_run(processed, tmp_path, monkeypatch):
    train_small(processed, tmp_path)
    monkeypatch.setattr("cardiac_dataset.make_augmentation", lambda _: iaa.GammaContrast((0.5, 2.0)))
    assert trained_epochs(processed, tmp_path) == [1, 2, 3]


def test_an_edited_loss_is_another_run(processed, tmp_path, monkeypatch):
    """Even where the change is in a function that the loss only calls."""
    train_small(processed, tmp_path)
    assert trained_epochs(processed, tmp_path) == []

    def iou_of_pairs(predicted, boxes):
        return torch.zeros(len(predicted))

    iou_of_pairs.__module__ = losses.__name__
    monkeypatch.setattr(losses, "iou_of_pairs", iou_of_pairs)
    assert trained_epochs(processed, tmp_path) == [1, 2, 3]


@pytest.fixture
def fingerprint_of(processed):
    train = CardiacDataset(processed, "train", targets=SMALL.targets)
    val = CardiacDataset(processed, "val", targets=SMALL.targets)

    def of(task, model=None):
        return fingerprint(task, model or build_model("resnet18", "edges", size=64), 0, train, val)

    return of


def test_a_fingerprint_repeats_and_has_a_version(fingerprint_of):
    first = fingerprint_of(BoxTask(SMALL))
    assert first == fingerprint_of(BoxTask(SMALL))
    assert json.loads(first)["version"] == FINGERPRINT_VERSION


def test_settings_task_and_network_count(fingerprint_of):
    class OtherTask(BoxTask):
        def loss(self, *arguments):
            return 2 * super().loss(*arguments)

    OtherTask.__name__ = "BoxTask"
    fingerprints = [
        fingerprint_of(BoxTask(SMALL)),
        fingerprint_of(BoxTask(dataclasses.replace(SMALL, learning_rate=1e-3))),
        fingerprint_of(OtherTask(SMALL)),
        fingerprint_of(BoxTask(SMALL), build_model("resnet18", "regression", size=64)),
    ]
    assert len(set(fingerprints)) == len(fingerprints)


# ---------------------------------------------------------------- code, compiled from text


def compiled(text: str) -> dict:
    names = {"__name__": "made_here", "functools": functools, "torch": torch}
    exec(compile(text, "made.py", "exec"), names)
    return SimpleNamespace(**names)


TEXT = '''
FACTOR = 2.0
def helper(x):
    """Say something."""
    return [y * FACTOR for y in x]
class Base:
    def scale(self, x):
        return x + 1
class Task(Base):
    limits = (0, 1)
    @staticmethod
    def collate(samples):
        return samples
    @torch.no_grad()
    def loss(self, x, power=2):
        # a remark
        return sum(helper(self.scale(x))) ** power
'''


def digest(text: str) -> str:
    return code_digest([compiled(text).Task], {"made_here"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Say something.", "Say it better."),
        ("# a remark", "# another\n\n"),
        ("        return x + 1", "        return (x + 1)"),
    ],
)
def test_words_and_layout_do_not_count(old, new):
    assert old in TEXT
    assert digest(TEXT.replace(old, new)) == digest(TEXT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2.0", "FACTOR = 3.0"),
        ("y * FACTOR", "y - FACTOR"),
        ("x + 1", "x + 2"),
        ("(0, 1)", "(0, 2)"),
        ("return samples", "return samples[:1]"),
        ("power=2", "power=3"),
        ("** power", "* power"),
    ],
)
def test_code_and_constants_count(old, new):
    assert old in TEXT
    assert digest(TEXT.replace(old, new)) != digest(TEXT)


def test_code_of_libraries_does_not_count():
    assert code_digest([torch.nn.Linear], {"made_here"}) == code_digest([], set())
