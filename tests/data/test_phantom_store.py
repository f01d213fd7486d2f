"""Phantoms straight into a processed folder."""

import numpy as np
import pytest

from cardiac_dataset import CardiacDataset
from heartbox.boxes import box_iou, scale_boxes
from heartbox.data import phantom_store
from heartbox.data.phantom_store import write_phantom_store
from heartbox.data.store import Statistics, load_labels
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


def test_a_share_of_the_phantoms_is_ill(tmp_path):
    """The healthy ones among them are those of a store without ill ones, to the bit."""
    healthy, mixed = tmp_path / "healthy", tmp_path / "mixed"
    write_phantom_store(healthy, 8, size=64, seed=5, validation_share=0.25, progress=False)
    write_phantom_store(mixed, 8, size=64, seed=5, validation_share=0.25, ill_share=0.5, progress=False)
    names = [list(load_labels(folder)["name"]) for folder in (healthy, mixed)]
    ill = np.array([name.endswith("-ill") for name in names[1]])
    assert ill.tolist() == [False, True] * 4
    assert [name.removesuffix("-ill") for name in names[1]] == names[0]
    images = [np.load(folder / "images.npy") for folder in (healthy, mixed)]
    assert np.array_equal(*(stack[~ill] for stack in images))
    assert all(not np.array_equal(*pair) for pair in zip(images[0][ill], images[1][ill], strict=True))


@pytest.mark.parametrize(("share", "ill"), [(0.0, 0), (0.3, 3), (1.0, 10)])
def test_the_share_of_ill_phantoms_is_kept(tmp_path, share, ill, monkeypatch):
    drawn = []

    def note(jobs, *_args, **_kwargs):
        drawn.extend(jobs)
        raise InterruptedError  # what is to be rendered is known; rendering it is the other test's

    monkeypatch.setattr(phantom_store, "parallel_map", lambda work, jobs, *args, **kwargs: note(jobs))
    with pytest.raises(InterruptedError):
        write_phantom_store(tmp_path, 10, ill_share=share)
    assert sum(job[-1] for job in drawn) == ill


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_an_impossible_share_is_named(tmp_path, share):
    with pytest.raises(ValueError, match="ill_share"):
        write_phantom_store(tmp_path, 4, ill_share=share)
