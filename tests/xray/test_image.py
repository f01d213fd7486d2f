"""Resizing: a box lands where scaling says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartbox.xray.image import resize_xray


def box_edges(image):
    """Sub-pixel box edges of a bright box on black: its mass and centroid along each axis, not a threshold."""
    edges = []
    for axis in (0, 1):
        profile = image.sum(axis=axis) / image.sum(axis=axis).max()
        centre = (profile * (np.arange(profile.size) + 0.5)).sum() / profile.sum()
        edges.append((centre - profile.sum() / 2, centre + profile.sum() / 2))
    (x_min, x_max), (y_min, y_max) = edges
    return np.array([x_min, y_min, x_max, y_max])


@pytest.mark.parametrize(
    ("rows", "columns", "size"),
    [
        (1000, 700, 224),
        (700, 1000, 224),
        (224, 224, 224),
        (120, 90, 224),
        (90, 500, 224),
        (500, 90, 224),
        (333, 517, 64),
    ],
)
@given(corner=st.tuples(*[st.floats(0.2, 0.45)] * 2), span=st.tuples(*[st.floats(0.2, 0.4)] * 2))
@settings(max_examples=20, deadline=None)
def test_boxes_land_where_scaling_says(rows, columns, size, corner, span):
    x_min, y_min = int(corner[0] * columns), int(corner[1] * rows)
    x_max, y_max = x_min + int(span[0] * columns), y_min + int(span[1] * rows)
    image = np.zeros((rows, columns), np.float32)
    image[y_min:y_max, x_min:x_max] = 1
    expected = np.array([x_min, y_min, x_max, y_max]) * size / np.array([columns, rows, columns, rows])
    small = resize_xray(image, size)
    assert small.shape == (size, size) and small.dtype == np.float32
    assert small.min() >= 0 and small.max() <= 1
    # A half-pixel shift would show as 0.28 and more here.
    np.testing.assert_allclose(box_edges(small), expected, atol=0.06)


@pytest.mark.parametrize(("rows", "columns"), [(1024, 800), (100, 150), (60, 900)])
def test_no_half_pixel_shift(rows, columns):
    """A linear ramp stays itself: the value at every output centre is the ramp's value there."""
    across = (np.arange(columns) + 0.5) / columns
    down = (np.arange(rows) + 0.5) / rows
    image = np.add.outer(down, across) / 2
    centres = (np.arange(224) + 0.5) / 224
    margin = slice(4, -4)  # interpolation has nothing to lean on beyond the border
    expected = (np.add.outer(centres, centres) / 2)[margin, margin]
    np.testing.assert_allclose(resize_xray(image, 224)[margin, margin], expected, atol=2e-4)


def test_shrinking_averages_all_pixels():
    checker = np.indices((448, 448)).sum(axis=0) % 2
    np.testing.assert_allclose(resize_xray(checker, 224), 0.5, atol=1e-6)
    stripes = np.tile(np.arange(900) % 2, (60, 1))  # shrinks across, grows down
    assert np.ptp(resize_xray(stripes, 225)) < 1e-6


def test_resize_refuses_what_is_no_image():
    for image, size in ((np.zeros((4, 4, 3)), 8), (np.zeros((0, 4)), 8), (np.zeros((4, 4)), 0)):
        with pytest.raises(ValueError, match="resize_xray wants"):
            resize_xray(image, size)
