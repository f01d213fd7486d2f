"""The synthetic hearts."""

import numpy as np

from companions.atrium.layouts import load_volumes
from companions.atrium.sample import make_phantom, write_sample


def test_phantoms_are_the_same_again_however_stored(tmp_path):
    one, other = (write_sample(tmp_path / name, count=3, seed=5) for name in ("one", "other"))
    for path in sorted(one.rglob("*.*")):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes(), path.name
    volumes, problems = load_volumes(one)
    assert problems == []
    assert ["".join(volume.axes) for volume in volumes] == ["RAS", "LPS", "PSR"]
    for i, volume in enumerate(volumes):
        np.testing.assert_array_equal(volume.mask, make_phantom(5, i)[1])
        assert 35 < volume.volume_ml < 180
        inside, outside = volume.image[volume.mask].mean(), volume.image[~volume.mask].mean()
        assert inside > 2 * outside
    assert not (tmp_path / "one.part").exists()
