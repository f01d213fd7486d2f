"""Pictures of volumes."""

import numpy as np
import pandas as pd
from helpers import make_atrium_volumes
from matplotlib.colors import to_rgb
from PIL import Image

from companions.atrium.metrics import measure
from companions.atrium.plots import draw_agreement, draw_dice_along, draw_planes, gif_through, page_of_slices
from heartbox.reporting.style import LABEL, PREDICTION


def test_pictures(tmp_path):
    volumes = make_atrium_volumes(3)
    answers = [np.roll(volume.mask, 1, axis=2) for volume in volumes]
    path = gif_through(tmp_path / "through.gif", volumes[0], answers[0], (-8, 8, -8, 8), margin=1)
    assert path.read_bytes()[:6] == b"GIF89a"
    with Image.open(path) as gif:
        assert gif.n_frames == 6  # four slices of atrium, a margin of one on each side
        assert gif.size == (16 * 25, 16 * 25 + 60)  # words stand below the image
        gif.seek(2)
        seen = {tuple(colour) for colour in np.asarray(gif.convert("RGB")).reshape(-1, 3).tolist()}
    for colour in (LABEL, PREDICTION):  # exactly, and no other colour
        assert tuple(np.rint(255 * np.array(to_rgb(colour))).astype(int).tolist()) in seen
    assert len({colour for colour in seen if max(colour) - min(colour) > 8}) == 2
    table = pd.DataFrame([measure(*pair) for pair in zip(volumes, answers, strict=True)])
    assert len(draw_agreement(table).axes) == 2
    assert len(draw_planes(volumes[0], answers[0]).axes) == 3
    images = [volume.image[2] for volume in volumes]
    assert len(page_of_slices(images, [s.mask[2] for s in volumes], titles=["a", "b", "c"], columns=2).axes) == 4
    assert len(draw_dice_along(["a", "b"], [np.array([0.5, 0.9]), np.array([np.nan, 0.8, 0.7])]).axes[0].lines) == 2
