"""The networks of the ChestX-Det companion: what they start from, and that they learn."""

import pytest
import torch
from chestxdet_films import detections

from companions.chestxdet import model
from companions.chestxdet.data import AbnormalityDataset, FindingsDataset
from companions.chestxdet.metrics import average_precision, mean_boxes
from companions.chestxdet.model import (
    AbnormalityTask,
    DetectionRecipe,
    DetectionTask,
    SmallCNN,
    detect_findings,
    make_detector,
    predict_scores,
)
from companions.pneumonia.metrics import auroc
from heartbox.training.loop import fit
from heartbox.training.task import Schedule

torch.set_num_threads(1)  # so that a training does not depend on the machine


def test_small_network_learns(small, tmp_path):
    train, val, test = (AbnormalityDataset(small, split, 32) for split in ("train", "val", "test"))
    torch.manual_seed(0)
    model = SmallCNN(8, 3, 0.0)
    history = fit(model, train, val, AbnormalityTask(Schedule(12, 8, 1e-2), 0.8), tmp_path, progress=False)
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
    # Any constant score has an area of 0.5, whatever the seed and the number of threads.
    assert auroc(test.abnormal, predict_scores(model, test)) > 0.75


def test_detector_learns_and_continues(small, tmp_path):
    train, test = FindingsDataset(small, "train"), FindingsDataset(small, "test")
    recipe = DetectionRecipe(epochs=8, batch_size=2, learning_rate=2e-3, size=64)
    task = DetectionTask(recipe, small.findings)
    model = make_detector(recipe, 1)
    assert model.started_from == "heart"
    history = fit(model, train, FindingsDataset(small, "val"), task, tmp_path, progress=False)
    assert history["train_loss"].iloc[-1] < 0.75 * history["train_loss"].iloc[0]
    # A square is 24 px wide and lies anywhere, so the mean boxes hardly ever overlap it by half.
    truths = test.truths()
    baseline = average_precision(mean_boxes(train, len(test)), truths, small.findings).map(0.5)
    assert average_precision(detect_findings(model, test), truths, small.findings).map(0.5) > baseline + 0.1
    again = fit(make_detector(recipe, 1), train, FindingsDataset(small, "val"), task, tmp_path, progress=False)
    assert again["train_loss"].tolist() == history["train_loss"].tolist()  # loaded, not trained


def test_missing_start_weights(monkeypatch, tmp_path):
    """Missing weights are reported, and the network starts as if none had been asked for."""
    monkeypatch.setattr(model, "released_weights", lambda: tmp_path / "absent.pt")
    with pytest.warns(UserWarning, match="heart weights for resnet18 are not available .*starting from random weights"):
        without = make_detector(DetectionRecipe(start="heart", size=64), 2)
    assert without.started_from == ""
    nothing = make_detector(DetectionRecipe(start="", size=64), 2)
    assert all(torch.equal(a, b) for a, b in zip(without.parameters(), nothing.parameters(), strict=True))
    with pytest.raises(ValueError, match="'resnet50' cannot start from 'heart'"):
        make_detector(DetectionRecipe(backbone="resnet50", start="heart"), 2)


def test_resnet50_takes_grey_films():
    model = make_detector(DetectionRecipe(backbone="resnet50", start="", size=64), 10).train()
    target = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([3])}
    losses = model([torch.rand(1, 64, 64), torch.rand(1, 64, 64)], [target, detections()])
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert model.roi_heads.box_predictor.cls_score.out_features == 11
