"""The search for settings of the small CNN: interrupted, continued, diverging."""

import optuna
import pytest
import torch

from companions.chestxdet import tuning
from companions.chestxdet.data import AbnormalityDataset

torch.set_num_threads(1)  # so that a training does not depend on the machine


def test_an_interrupted_study_continues(small, tmp_path, monkeypatch):
    """A study killed in its second trial ends with the trials of an uninterrupted one."""
    train, val = AbnormalityDataset(small, "train", 32, augment=True), AbnormalityDataset(small, "val", 32)
    whole = tuning.tune(train, val, tmp_path / "whole", 3, 1, 0.5, progress=False)
    real, calls = tuning.train_small_cnn, []

    def stopped(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(tuning, "train_small_cnn", stopped)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(train, val, tmp_path / "cut", 3, 1, 0.5, progress=False)
    again = tuning.tune(train, val, tmp_path / "cut", 3, 1, 0.5, progress=False)
    assert len(calls) == 4  # one whole, one killed, two more
    done = [trial for trial in again.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert [trial.params for trial in done] == [trial.params for trial in whole.trials]
    assert [trial.value for trial in done] == [trial.value for trial in whole.trials]
    tuning.tune(train, val, tmp_path / "cut", 3, 1, 0.5, progress=False)
    assert len(calls) == 4  # nothing is left to do
    tuning.tune(train, val, tmp_path / "cut", 1, 1, 0.6, progress=False)
    assert len(calls) == 5  # another floor is another study
    with pytest.raises(ValueError, match="between 0 and 1"):
        tuning.tune(train, val, tmp_path, 1, 1, 0.0)


def test_a_trial_that_diverges_is_worth_nothing_and_ends_nothing(small, tmp_path, monkeypatch):
    """Not counted, it would be drawn again by the same seed for ever."""
    real, calls = tuning.train_small_cnn, []

    def diverging(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise FloatingPointError("the loss became nan in epoch 1")
        return real(*args, **kwargs)

    monkeypatch.setattr(tuning, "train_small_cnn", diverging)
    train, val = AbnormalityDataset(small, "train", 32, augment=True), AbnormalityDataset(small, "val", 32)
    study = tuning.tune(train, val, tmp_path, 2, 1, 0.5, progress=False)
    assert len(calls) == 2
    assert study.trials[0].value == 0
    assert study.trials[0].params != study.trials[1].params
