"""The U-Net, its loss, and how its output becomes a mask."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import make_atrium_volumes

from companions.atrium.data import AtriumSlices, learn_window
from companions.atrium.metrics import dice
from companions.atrium.model import (
    SCHEDULES,
    AtriumTask,
    UNet,
    as_mask,
    dice_loss,
    largest_part,
    load_unet,
    save_unet,
    segment,
)
from heartbox.training.loop import fit


def test_the_unet_answers_each_pixel_and_learns():
    torch.manual_seed(0)
    model = UNet(channels=1, width=4, levels=3)
    x = torch.zeros(2, 1, 16, 32)
    x[0, 0, 4:9, 10:20], x[1, 0, 8:15, 2:9] = 1, 1
    assert model(x).shape == (2, 1, 16, 32)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        loss = dice_loss(model(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    # Distant pixels have an influence too: the purpose of the way down.
    seen = torch.zeros(1, 1, 16, 32, requires_grad=True)
    model.eval()(seen)[0, 0, 0, 0].backward()
    assert seen.grad[0, 0, 6:, 6:].abs().sum() > 0


def test_dice_loss_by_hand():
    truth = torch.tensor([0.0, 1, 1, 1]).reshape(2, 1, 1, 2)  # two slices of one row: they count as one volume
    probabilities = torch.tensor([0.5, 0.5, 0.75, 0.25]).reshape(2, 1, 1, 2)
    # shared 0.5 + 0.75 + 0.25 = 1.5; sums 2 and 3; (2 x 1.5 + 1) / (2 + 3 + 1)
    assert dice_loss(probabilities.logit(), truth).item() == pytest.approx(1 - 4 / 6, abs=1e-6)
    assert dice_loss(torch.full_like(truth, -20.0), torch.zeros_like(truth)).item() == pytest.approx(0, abs=1e-6)
    logits = torch.zeros_like(truth, requires_grad=True)
    dice_loss(logits, truth).backward()
    assert (logits.grad.flatten()[1:] < 0).all()
    assert logits.grad.flatten()[0] > 0


def test_a_trained_network_is_kept_with_its_window(tmp_path):
    model = UNet(channels=1, width=4, levels=2).eval()
    save_unet(tmp_path / "model.pt", model, (-8, 8, -16, 16))
    loaded, window = load_unet(tmp_path / "model.pt")
    x = torch.rand(1, 1, 16, 32)
    assert torch.equal(loaded(x), model(x))
    assert window == (-8, 8, -16, 16)


def test_the_task_measures_in_three_dimensions():
    volumes = make_atrium_volumes(2)
    val = AtriumSlices(volumes, learn_window(volumes))
    answers, figures = AtriumTask(SCHEDULES["quick"], {}).validate(BrightIsAtrium(), val, torch.device("cpu"))
    assert [answer.shape for answer in answers] == [masks.shape for masks in val.masks]
    assert figures["val_dice"] > 0.99
    assert figures["val_loss"] < 0.05


class BrightIsAtrium(torch.nn.Module):
    """A network that needs no training: the made atria are brighter than everything else."""

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.33))

    def forward(self, x):
        return 400 * (x[:, 2:3] - self.level)


def cross_entropy(self, model, batch, epoch, device):
    x, masks = batch
    return torch.nn.functional.binary_cross_entropy_with_logits(model(x), masks)


EditedTask = type("AtriumTask", (AtriumTask,), {"loss": cross_entropy})  # as if the loss had been edited in place


def test_another_network_or_loss_starts_anew(tmp_path):
    volumes = make_atrium_volumes(3)
    window = learn_window(volumes[:2])
    train, val = AtriumSlices(volumes[:2], window, augment=True), AtriumSlices(volumes[2:], window)
    schedule, trained, lengths = dataclasses.replace(SCHEDULES["quick"], epochs=1), [], []
    for width, task_class in ((4, AtriumTask), (4, AtriumTask), (6, AtriumTask), (6, EditedTask), (6, EditedTask)):
        model = UNet(width=width, levels=3)
        task = task_class(schedule, model.config)
        fit(model, train, val, task, tmp_path, on_epoch=lambda *_: trained.append(1), progress=False)
        lengths.append(len(trained))
    assert lengths == [1, 1, 2, 3, 3]


def test_answers_lie_in_the_whole_volume():
    volumes = make_atrium_volumes(3)
    slices = AtriumSlices(volumes, learn_window(volumes, margin_mm=2.0, multiple=4))
    for volume, answer in zip(volumes, segment(BrightIsAtrium(), slices, smooth_mm=0), strict=True):
        assert answer.shape == volume.mask.shape
        assert dice(answer, volume.mask) > 0.99


def test_only_the_largest_part_is_kept():
    mask = np.zeros((4, 8, 8), dtype=bool)
    mask[0:2, 1:4, 1:4] = True
    mask[3, 6, 6] = True
    kept = largest_part(mask)
    assert kept.sum() == 18
    assert not kept[3].any()
    assert not largest_part(mask & False).any()


def test_a_flicker_from_slice_to_slice_is_smoothed_away():
    predicted = np.zeros((20, 4, 4))
    predicted[5:15, 1:3, 1:3] = 0.9
    predicted[9, 1, 1] = 0.1  # a hole one slice deep
    predicted[17, 1:3, 1:3] = 0.9  # and a single slice elsewhere
    assert not as_mask(predicted, keep_largest=False)[9, 1, 1]
    assert as_mask(predicted, keep_largest=False)[17, 1, 1]
    smooth = as_mask(predicted, keep_largest=False, smooth=1.5)
    assert smooth[6:14, 1:3, 1:3].all()
    assert not smooth[17:].any()
    assert not as_mask(predicted)[17].any()
