"""Augmentation: boxes, outlines and masks go where the image goes."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, draw_disc

from cardiac_dataset import augment_pair, make_augmentation
from heartbox.augmentation import augment_image, move_boxes, move_masks
from heartbox.data.store import outlines_and_coverage
from heartbox.imgaug_compat import augmenters as iaa


def measured_box(image: np.ndarray) -> np.ndarray:
    """Box of a bright ellipse, to a part of a pixel: its centroid and its second moments."""
    weight = image / image.sum()
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    centre = np.array([(weight * x).sum(), (weight * y).sum()])
    # A filled ellipse's variance along an axis is a quarter of its half-width squared (for any orientation).
    half = 2 * np.sqrt([(weight * (x - centre[0]) ** 2).sum(), (weight * (y - centre[1]) ** 2).sum()])
    return np.concatenate([centre - half, centre + half])


@pytest.mark.parametrize(
    "step",
    [
        iaa.Affine(rotate=10),
        iaa.Affine(rotate=-10),
        iaa.Affine(scale=1.2),
        iaa.Affine(scale=0.8),
        iaa.Affine(translate_px={"x": 7, "y": -10}),
        iaa.Affine(scale=0.85, rotate=8, translate_px={"x": -9, "y": 4}),
        iaa.GammaContrast(1.7),
    ],
    ids=["right", "left", "larger", "smaller", "moved", "all", "gamma"],
)
@pytest.mark.parametrize(("centre", "half"), [((112, 112), (45, 30)), ((90, 130.5), (25.25, 40))])
def test_the_box_goes_where_the_image_goes(step, centre, half):
    image = draw_disc(224, centre, half)
    box = np.array([[centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]])
    moved, boxes = augment_pair(image, box, step, seed=1)
    assert measured_box(moved) == pytest.approx(boxes[0], abs=0.35)


def test_the_published_ranges():
    """Over many draws: scale, rotation and translation fill the ranges of the recipe and no more."""
    flat = np.full((224, 224), 0.5, dtype=np.float32)
    augmentation = make_augmentation()
    widths, centres, greys = [], [], []
    for seed in range(400):
        image, (box,) = augment_pair(flat, np.array([[82.0, 82, 142, 142]]), augmentation, seed)
        widths.append((box[2] - box[0]) / 60)  # a circle's box knows no rotation
        centres.append((box[:2] + box[2:]) / 2 - 112)
        greys.append(image[112, 112])
    assert 0.80 <= min(widths) < 0.83
    assert 1.17 < max(widths) <= 1.2 + 1e-6
    assert np.min(centres, axis=0) == pytest.approx([-10, -10], abs=1e-3)
    assert np.max(centres, axis=0) == pytest.approx([10, 10], abs=1e-3)
    assert np.corrcoef(np.transpose(centres))[0, 1] == pytest.approx(0, abs=0.15)  # x and y are drawn apart
    # gamma contrast: 0.5 ** 0.7 = 0.616, 0.5 ** 1.7 = 0.3078
    assert 0.3077 <= min(greys) < 0.33
    assert 0.59 < max(greys) <= 0.616


def test_rotation_reaches_ten_degrees():
    """The corner rule gives the angle away: a square of half-side 40 grows by cos + sin of it, over the scale."""
    augmentation, growth = make_augmentation(), []
    flat, box = np.zeros((224, 224), dtype=np.float32), np.array([[72.0, 72, 152, 152]])
    for seed in range(300):
        corners = augment_pair(flat, box, augmentation, seed, "corners")[1][0]
        ellipse = augment_pair(flat, box, augmentation, seed, "ellipse")[1][0]
        growth.append((corners[2] - corners[0]) / (ellipse[2] - ellipse[0]))
    most = np.cos(np.deg2rad(10)) + np.sin(np.deg2rad(10))
    assert most - 0.01 < max(growth) <= most + 1e-3


def test_boxes_are_clipped_and_unknown_ones_stay_unknown():
    image = np.zeros((100, 100), dtype=np.float32)
    _, boxes = augment_pair(
        image, np.array([[60.0, 5, 98, 40], [np.nan] * 4]), iaa.Affine(translate_px={"x": 10, "y": -10}), 0
    )
    assert boxes[0].tolist() == pytest.approx([70, 0, 100, 30])
    assert np.isnan(boxes[1]).all()


@pytest.mark.parametrize("seed", range(6))
def test_masks_and_outlines_go_where_the_image_goes(seed):
    """The image is the mask itself: moved by imgaug, by move_masks and as an outline, all three agree."""
    y, x = np.mgrid[:224, :224] + 0.5
    mask = (np.hypot((x - 110) / 40, (y - 120) / 30) < 1) & ~(np.hypot(x - 90, y - 95) < 15)
    outlines, coverage = outlines_and_coverage([[mask]], 224)
    steps = iaa.Affine(scale=(0.8, 1.2), rotate=(-15, 15), shear=(-5, 5), translate_px=(-9, 9))
    image, matrix = augment_image(mask.astype(np.float32), steps, seed)
    moved = move_masks(coverage.astype(np.float32) / 255, matrix, 224)[0]
    assert np.abs(image.reshape(112, 2, 112, 2).mean(axis=(1, 3)) - moved).mean() < 0.004
    box = move_boxes(np.array([[0.0, 0, 1, 1]]), matrix, (224, 224), outlines=outlines)[0]
    columns, rows = np.flatnonzero((image > 0.5).any(axis=0)), np.flatnonzero((image > 0.5).any(axis=1))
    assert box == pytest.approx([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], abs=1.2)


def test_strong_augmentation_changes_much_and_never_inverts():
    ramp = np.tile(np.linspace(0.1, 0.9, 224, dtype=np.float32), (224, 1))
    augmentation, widths, shapes, lows = make_augmentation("strong"), [], [], []
    for seed in range(300):
        image, matrix = augment_image(ramp, augmentation, seed)
        assert image.dtype == np.float32
        assert image.shape == (224, 224)
        assert 0 <= image.min() <= image.max() <= 1
        # Where the right is brighter before, it is brighter after: look along the row through the middle.
        middle = np.median(image[100:124], axis=0)
        assert np.corrcoef(np.arange(60, 164), middle[60:164])[0, 1] > 0 or np.ptp(middle[60:164]) < 0.05
        box = move_boxes(np.array([[92.0, 92, 132, 132]]), matrix, (224, 224))[0]
        widths.append((box[2] - box[0]) / 40)
        shapes.append((box[2] - box[0]) / (box[3] - box[1]))
        lows.append(image.min())
    assert min(widths) < 0.75
    assert max(widths) > 1.25
    assert min(shapes) < 0.85
    assert max(shapes) > 1.15
    assert len(np.unique(np.round(lows, 3))) > 20


def test_the_shim_for_imgaug_is_still_needed():
    """Fails on the day imgaug imports without help: then heartbox/imgaug_compat.py can go."""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", "import imgaug"], capture_output=True, text=True)
    assert run.returncode != 0, "imgaug imports by itself now: take heartbox/imgaug_compat.py out"
    assert "sctypes" in run.stderr
    root = ROOT
    code = "from heartbox.imgaug_compat import imgaug; print(imgaug.__version__)"
    helped = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(helped, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
    assert run.stdout.startswith("0.4"), run.stderr
