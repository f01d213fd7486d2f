"""Geometry against numbers worked out by hand, and properties that must hold for any box."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbox.boxes import (
    as_boxes,
    box_areas,
    box_from_mask,
    box_from_xywh,
    box_iou,
    cardiothoracic_ratio,
    clip_boxes,
    outline_from_mask,
    ratio_std,
    rotation_matrix,
    scale_boxes,
    transform_box,
    transform_outline,
)

SIDE = st.floats(1, 500)
PLACE = st.floats(-500, 500)


@st.composite
def a_box(draw):
    x, y, width, height = draw(PLACE), draw(PLACE), draw(SIDE), draw(SIDE)
    return np.array([x, y, x + width, y + height])


def test_xywh_becomes_corners():
    assert box_from_xywh([91, 71, 77, 102]).tolist() == [91, 71, 168, 173]


def test_a_box_has_four_numbers():
    with pytest.raises(ValueError, match="four numbers"):
        as_boxes([1, 2, 3])


def test_mask_box_has_exclusive_maxima():
    mask = np.zeros((20, 30), dtype=bool)
    mask[3:8, 10:25] = True
    assert box_from_mask(mask).tolist() == [10, 3, 25, 8]


def test_thorax_box_is_of_both_lungs():
    left, right = np.zeros((2, 20, 30), dtype=bool)
    left[2:12, 20:28] = True
    right[4:15, 3:9] = True
    assert box_from_mask(left, right).tolist() == [3, 2, 28, 15]


def test_empty_mask_and_unequal_masks_are_refused():
    with pytest.raises(ValueError, match="empty"):
        box_from_mask(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="different shapes"):
        box_from_mask(np.ones((4, 4)), np.ones((4, 5)))


def test_scaling_an_oblong_film_is_anisotropic():
    # 1000 rows x 500 columns -> 224 x 224: x by 0.448, y by 0.224
    scaled = scale_boxes([100, 100, 300, 600], (1000, 500), (224, 224))
    assert scaled == pytest.approx([44.8, 22.4, 134.4, 134.4])


@given(a_box(), st.tuples(st.integers(1, 5000), st.integers(1, 5000)), st.tuples(st.integers(1, 5000), st.just(224)))
def test_scaling_there_and_back(box, shape, size):
    back = scale_boxes(scale_boxes(box, shape, size), size, shape)
    assert np.abs(back - box).max() < 1e-3


def test_clipping():
    assert clip_boxes([-5, 10, 300, 90], (100, 224)).tolist() == [0, 10, 224, 90]


def test_a_quarter_turn_swaps_width_and_height():
    matrix = rotation_matrix(90, (50, 50))
    for rule in ("ellipse", "corners"):
        assert transform_box([40, 30, 60, 70], matrix, rule) == pytest.approx([30, 40, 70, 60])


def test_clockwise_on_the_screen():
    # with y down, a quarter turn clockwise takes the right-hand side to the bottom
    matrix = rotation_matrix(90, (0, 0))
    assert matrix @ [1, 0, 1] == pytest.approx([0, 1])


def test_ten_degrees_by_hand():
    # A square with half-sides of 40: the ellipse is a circle and does not care; the corners go out to
    # 40 (cos 10 + sin 10) = 46.338, by 6.338 px on each side.
    matrix = rotation_matrix(10, (112, 112))
    square = [72, 72, 152, 152]
    assert transform_box(square, matrix, "ellipse") == pytest.approx(square)
    assert transform_box(square, matrix, "corners") == pytest.approx([65.662, 65.662, 158.338, 158.338], abs=1e-3)
    # half-axes 50 and 30: hypot(50 cos, 30 sin) = 49.516, hypot(50 sin, 30 cos) = 30.793
    assert transform_box([62, 82, 162, 142], matrix) == pytest.approx([62.484, 81.207, 161.516, 142.793], abs=1e-3)


def test_unknown_rule():
    with pytest.raises(ValueError, match="'ellipse' or 'corners'"):
        transform_box([0, 0, 1, 1], rotation_matrix(0, (0, 0)), "diagonal")


@given(a_box(), st.floats(-180, 180), PLACE, PLACE)
def test_the_ellipse_lies_within_the_corners(box, degrees, x, y):
    matrix = rotation_matrix(degrees, (x, y))
    inner, outer = transform_box(box, matrix, "ellipse"), transform_box(box, matrix, "corners")
    assert (inner[:2] >= outer[:2] - 1e-6).all()
    assert (inner[2:] <= outer[2:] + 1e-6).all()


@given(a_box(), st.floats(-45, 45), st.floats(0.5, 2), PLACE, PLACE)
def test_the_ellipse_rule_bounds_the_points_of_the_ellipse(box, degrees, scale, x, y):
    matrix = rotation_matrix(degrees, (x, y)) * scale
    angles = np.linspace(0, 2 * np.pi, 2000)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    points = centre + half * np.column_stack([np.cos(angles), np.sin(angles)])
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    bound = [*moved.min(axis=0), *moved.max(axis=0)]
    assert transform_box(box, matrix) == pytest.approx(bound, abs=0.01)


def test_iou_by_hand():
    assert box_iou([0, 0, 10, 10], [0, 0, 10, 10]) == 1
    assert box_iou([0, 0, 10, 10], [5, 0, 15, 10]) == pytest.approx(50 / 150)
    assert box_iou([0, 0, 10, 10], [20, 20, 30, 30]) == 0
    assert box_iou([10, 10, 0, 0], [0, 0, 10, 10]) == 0  # inside out: no area, no overlap
    assert box_iou([[0, 0, 2, 2], [0, 0, 4, 1]], [0, 0, 2, 1]).tolist() == pytest.approx([0.5, 0.5])
    assert box_iou([3, 3, 3, 3], [3, 3, 3, 3]) == 0


@given(a_box(), a_box())
def test_iou_is_symmetric_and_between_0_and_1(first, second):
    iou = box_iou(first, second)
    assert 0 <= iou <= 1 + 1e-12
    assert iou == pytest.approx(box_iou(second, first))


def test_areas():
    assert box_areas([[0, 0, 3, 4], [5, 5, 4, 9]]).tolist() == [12, 0]


def test_ratio():
    assert cardiothoracic_ratio([40, 0, 100, 9], [10, 0, 130, 9]) == pytest.approx(0.5)
    assert np.isnan(cardiothoracic_ratio([40, 0, 100, 9], [np.nan] * 4))
    assert np.isnan(cardiothoracic_ratio([40, 0, 100, 9], [10, 0, 10, 9]))


def test_ratio_spread_by_hand_and_by_throwing_dice():
    boxes = np.array([40.0, 0, 100, 9, 10, 0, 130, 9])  # 60 / 120
    spread = np.array([3.0, 0, 4, 0, 0, 0, 0, 0])
    assert ratio_std(boxes, spread) == pytest.approx(5 / 120)
    spread[[4, 6]] = 2.0
    thrown = boxes + np.random.default_rng(0).normal(size=(20000, 8)) * spread
    assert ratio_std(boxes, spread) == pytest.approx(cardiothoracic_ratio(thrown[:, :4], thrown[:, 4:]).std(), rel=0.05)


def blob(seed: int) -> np.ndarray:
    """A mask that is no ellipse and not convex: a disc with a bite and a bump."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:300, :300] + 0.5
    mask = np.hypot((x - 150) / 70, (y - 150) / 50) < 1
    mask |= np.hypot(x - 150 - 60 * rng.uniform(-1, 1), y - 150 - 60 * rng.uniform(-1, 1)) < 20
    return mask & ~(np.hypot(x - 150 - 70 * rng.uniform(-1, 1), y - 110) < 18)


def test_an_outline_has_the_box_of_its_mask():
    mask = blob(0)
    assert transform_outline(outline_from_mask(mask), np.eye(2, 3)).tolist() == box_from_mask(mask).tolist()
    both = outline_from_mask(mask, np.roll(mask, 40, axis=1))
    assert transform_outline(both, np.eye(2, 3)).tolist() == (box_from_mask(mask) + [0, 0, 40, 0]).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_turned_outline_has_the_box_of_the_turned_mask(seed):
    """Against every pixel's four corners, moved one by one."""
    mask, rng = blob(seed), np.random.default_rng(seed)
    matrix = rotation_matrix(rng.uniform(-40, 40), (150, 150))
    matrix[:, :2] = matrix[:, :2] @ [[rng.uniform(0.7, 1.3), rng.uniform(-0.2, 0.2)], [0, rng.uniform(0.7, 1.3)]]
    rows, columns = np.nonzero(mask)
    corners = np.concatenate([np.column_stack([columns + i, rows + j]) for i in (0, 1) for j in (0, 1)])
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    exact = np.concatenate([moved.min(axis=0), moved.max(axis=0)])
    assert transform_outline(outline_from_mask(mask), matrix) == pytest.approx(exact, abs=0.15)
    assert transform_outline(outline_from_mask(mask, directions=512), matrix) == pytest.approx(exact, abs=0.02)


def test_an_empty_mask_has_no_outline():
    with pytest.raises(ValueError, match="empty"):
        outline_from_mask(np.zeros((4, 4), dtype=bool))


def test_an_unknown_outline_has_an_unknown_box():
    assert np.isnan(transform_outline(np.full((64, 2), np.nan), np.eye(2, 3))).all()
