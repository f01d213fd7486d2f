"""The embedded sample of .npy images."""

from companions.vgg16.data import prepare_npy
from companions.vgg16.sample import write_sample


def test_the_sample(tmp_path):
    write_sample(tmp_path, 6, 64)
    before = (tmp_path / "labels.csv").read_bytes()
    done = prepare_npy(tmp_path, tmp_path / "out", 64)
    assert len(done.labels) == 6
    assert len(done.skipped) == 0
    assert 0 <= done.labels["heart_x_min"].min() < done.labels["heart_x_max"].max() <= 64
    write_sample(tmp_path, 4, 64)  # another sample takes its place, without leftovers
    assert len(list((tmp_path / "images").iterdir())) == 4
    write_sample(tmp_path, 6, 64)
    assert (tmp_path / "labels.csv").read_bytes() == before
