"""Phantoms straight into a processed folder."""

import numpy as np
import pytest

from cardiac_dataset import CardiacDataset
from heartbox.boxes import box_iou, scale_boxes
from heartbox.data.phantom_store import write_phantom_store
from heartbox.data.store import Statistics
from heartbox.phantom import boxes, sample_subject
from heartbox.xray.borders import Window


def test_phantoms_without_dicom(tmp_path):
    """The boxes of the masks are those that the phantom knows of itself, to the size of a rendered pixel."""
    write_phantom_store(tmp_path, 4, size=96, seed=5, validation_share=0.25, progress=False)
    train, val = (CardiacDataset(tmp_path, side, targets=("heart", "thorax"), masks=True) for side in ("train", "val"))
    assert (len(train), len(val)) == (3, 1)
    cropped = Statistics.load(tmp_path).cropped
    assert 0 < len(cropped) < 4  # some phantoms are collimated
    for index in range(3):
        part = Window(*cropped.get(train.labels["name"].iloc[index], (0, 192, 0, 192)))
        rendered = np.stack(boxes(sample_subject(5, index), 192))
        truth = scale_boxes(rendered - part.corner, part.shape, (96, 96))
        assert (box_iou(train.boxes[index], truth) > 0.95).all()
        mask = train.raw_masks(index)[0] > 0.5
        assert mask.sum() * 4 == pytest.approx(0.75 * np.prod(truth[0, 2:] - truth[0, :2]), rel=0.25)
