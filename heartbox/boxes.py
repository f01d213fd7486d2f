"""Geometry of boxes: scale, move and rotate them, measure their overlap and the cardiothoracic ratio.

A box is ``x_min, y_min, x_max, y_max`` in pixels, x to the right, y down, maxima exclusive: a box over the
pixels 0..9 is 0..10. Knows NumPy only: no images, no files, no networks.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

EDGES = ("x_min", "y_min", "x_max", "y_max")
EDGE_NAMES = ("left border", "top border", "right border", "bottom border")  # of the picture, for people to read
EDGES_PER_BOX = len(EDGES)
# Where the edges of each target stand in an array of (..., 4) or (..., 8) edges: the heart's, then the thorax's.
HEART, THORAX = slice(0, 4), slice(4, 8)

Rule = Literal["ellipse", "corners"]


def has_thorax(edges: ArrayLike) -> bool:
    """Tell whether the last axis of an array of edges holds those of the thorax beside those of the heart."""
    return np.shape(edges)[-1] >= THORAX.stop


def is_vertical(edge_index: int) -> bool:
    """Tell whether the edge at this place of :data:`EDGES` (or of eight edges) is a vertical line, at an x."""
    return edge_index % 2 == 0


def as_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """Return `boxes` as a float64 array of shape (..., 4), or say what is wrong with them.

    Raises
    ------
    ValueError
        If the last axis does not hold four numbers.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != 4:
        raise ValueError(f"a box is four numbers {', '.join(EDGES)}; got an array of shape {array.shape}")
    return array


def box_from_xywh(xywh: ArrayLike) -> NDArray[np.float64]:
    """Turn ``x, y, width, height`` (as the RSNA csv writes a box) into a corner pair, shape (..., 4)."""
    array = as_boxes(xywh)
    return np.concatenate([array[..., :2], array[..., :2] + array[..., 2:]], axis=-1)


def box_from_mask(*masks: ArrayLike) -> NDArray[np.float64]:
    """Return the smallest box, shape (4,), that holds every true pixel of one or several masks.

    Parameters
    ----------
    *masks : array_like of bool, shape (rows, columns)
        The heart's mask gives the heart's box, both lungs' masks together the thorax's.

    Raises
    ------
    ValueError
        If no pixel of any mask is true, or the masks differ in shape.
    """
    together = np.zeros(np.shape(masks[0]), dtype=bool)
    for mask in masks:
        if np.shape(mask) != together.shape:
            raise ValueError(f"masks of different shapes: {together.shape} and {np.shape(mask)}")
        together |= np.asarray(mask, dtype=bool)
    columns = np.flatnonzero(together.any(axis=0))
    rows = np.flatnonzero(together.any(axis=1))
    if columns.size == 0:
        raise ValueError("the mask is empty: it has no box")
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def scale_boxes(boxes: ArrayLike, from_shape: tuple[int, int], to_shape: tuple[int, int]) -> NDArray[np.float64]:
    """Scale boxes from an image of one shape to the same image resized to another.

    Each axis has its own factor, because a square network input squeezes an oblong film. Boxes are measured between
    pixel borders, not pixel centres, so there is no half-pixel term and the way back is exact.

    Parameters
    ----------
    boxes : array_like, shape (..., 4)
        Boxes in pixels of the image of `from_shape`.
    from_shape, to_shape : tuple of int
        ``(rows, columns)`` before and after, as in ``image.shape``.

    Returns
    -------
    ndarray of float64, shape (..., 4)
        Boxes in pixels of the image of `to_shape`.
    """
    y = to_shape[0] / from_shape[0]
    x = to_shape[1] / from_shape[1]
    return as_boxes(boxes) * np.array([x, y, x, y])


def clip_boxes(boxes: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Clip boxes, shape (..., 4), to the borders of an image of shape ``(rows, columns)``."""
    rows, columns = shape
    return np.clip(as_boxes(boxes), 0.0, np.array([columns, rows, columns, rows], dtype=np.float64))


def transform_box(box: ArrayLike, matrix: ArrayLike, rule: Rule = "ellipse") -> NDArray[np.float64]:
    """Move a box by an affine map and return the upright box around its moved content.

    A rotated rectangle is not upright, so the new box depends on the shape assumed inside the old one.
    ``"corners"`` bounds the four rotated corners. That is right for an object that fills its box to the corners.
    A heart does not, so every side is pushed out (by about 3 px of 224 at 5 degrees). ``"ellipse"`` bounds the
    rotated ellipse inscribed in the box, which touches the four sides as a heart does, and does not grow.

    Parameters
    ----------
    box : array_like, shape (4,)
        Box in pixels.
    matrix : array_like, shape (2, 3)
        Affine map of points: ``(x', y') = matrix @ (x, y, 1)``.
    rule : {"ellipse", "corners"}
        Shape assumed inside the box.

    Returns
    -------
    ndarray of float64, shape (4,)
        The upright box after the map, not clipped to any image.

    Raises
    ------
    ValueError
        If `rule` is not one of the two names.

    Notes
    -----
    The ellipse's bound needs no points on its outline: with half-axes a, b and the linear part
    ``((m11, m12), (m21, m22))`` its half-width is ``hypot(m11 a, m12 b)`` and its half-height
    ``hypot(m21 a, m22 b)``.
    """
    x_min, y_min, x_max, y_max = as_boxes(box)
    matrix = np.asarray(matrix, dtype=np.float64)
    centre = matrix @ np.array([(x_min + x_max) / 2, (y_min + y_max) / 2, 1.0])
    reach = matrix[:, :2] * np.array([(x_max - x_min) / 2, (y_max - y_min) / 2])
    if rule == "ellipse":
        half = np.hypot(reach[:, 0], reach[:, 1])
    elif rule == "corners":
        half = np.abs(reach).sum(axis=1)
    else:
        raise ValueError(f"unknown rule {rule!r} for a rotated box: choose 'ellipse' or 'corners'")
    return np.concatenate([centre - half, centre + half])


def outline_from_mask(*masks: ArrayLike, directions: int = 64) -> NDArray[np.float64]:
    """Return the outermost points of one or several masks, as seen from evenly spaced directions.

    An affine map keeps the outermost points outermost, so these points give the box of a moved mask without moving
    the mask itself: exactly without rotation, and to well under a tenth of a pixel with it.

    Parameters
    ----------
    *masks : array_like of bool, shape (rows, columns)
        As for :func:`box_from_mask`; here too, a pixel reaches from its index to the next.
    directions : int
        Number of directions, a multiple of four.

    Returns
    -------
    ndarray of float64, shape (directions, 2)
        Points x, y in pixels; neighbours may coincide.

    Raises
    ------
    ValueError
        As :func:`box_from_mask`.
    """
    box_from_mask(*masks)  # raises for empty and for mismatched masks
    together = np.logical_or.reduce([np.asarray(mask, dtype=bool) for mask in masks])
    rows = np.flatnonzero(together.any(axis=1))
    first = together[rows].argmax(axis=1)
    last = together.shape[1] - together[rows, ::-1].argmax(axis=1)
    corners = np.concatenate(
        [np.column_stack([x, y]) for x in (first, last) for y in (rows, rows + 1)], dtype=np.float64
    )
    angles = 2 * np.pi * np.arange(directions) / directions
    towards = np.round(np.stack([np.cos(angles), np.sin(angles)]), 12)  # exactly 0 and 1 along the axes
    return corners[(corners @ towards).argmax(axis=0)]


def transform_outline(points: ArrayLike, matrix: ArrayLike) -> NDArray[np.float64]:
    """Move an outline by an affine map and return its upright box, not clipped to any image.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        From :func:`outline_from_mask`.
    matrix : array_like, shape (2, 3)
        Affine map of points: ``(x', y') = matrix @ (x, y, 1)``.

    Returns
    -------
    ndarray of float64, shape (4,)
        NaN where the points are.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    moved = np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([moved.min(axis=0), moved.max(axis=0)])


def rotation_matrix(degrees: float, centre: tuple[float, float]) -> NDArray[np.float64]:
    """Affine map, shape (2, 3), that rotates points clockwise on the screen about ``centre = (x, y)``."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    middle = np.asarray(centre, dtype=np.float64)
    return np.column_stack([linear, middle - linear @ middle])


def box_areas(boxes: ArrayLike) -> NDArray[np.float64]:
    """Areas of boxes, shape (..., 4) -> (...), in square pixels; 0 for a box whose edges are in the wrong order."""
    boxes = as_boxes(boxes)
    return np.prod(np.clip(boxes[..., 2:] - boxes[..., :2], 0.0, None), axis=-1)


def box_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of boxes, pair by pair.

    Parameters
    ----------
    first, second : array_like, shape (..., 4)
        Boxes in pixels; the leading shapes broadcast.

    Returns
    -------
    ndarray of float64, shape (...)
        1 for equal boxes, 0 for boxes that do not overlap or are both empty.
    """
    first, second = as_boxes(first), as_boxes(second)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=-1)
    union = box_areas(first) + box_areas(second) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def ratio_std(boxes: ArrayLike, std: ArrayLike) -> NDArray[np.float64]:
    """Propagate the standard deviations of the four vertical edges to the cardiothoracic ratio.

    Parameters
    ----------
    boxes, std : array_like, shape (..., 8)
        Edges of heart and thorax in pixels, and the standard deviation of each. The errors of the edges are taken
        as independent.

    Returns
    -------
    ndarray of float64, shape (...)
        First-order standard deviation of the ratio; NaN where there is no ratio.
    """
    boxes, std = np.asarray(boxes, dtype=np.float64), np.asarray(std, dtype=np.float64)
    heart_std, thorax_std = std[..., HEART], std[..., THORAX]
    ratio = cardiothoracic_ratio(boxes[..., HEART], boxes[..., THORAX])
    thorax_width = boxes[..., THORAX][..., 2] - boxes[..., THORAX][..., 0]
    heart = np.hypot(heart_std[..., 0], heart_std[..., 2])
    thorax = np.hypot(thorax_std[..., 0], thorax_std[..., 2])
    unknown = np.full(ratio.shape, np.nan)
    return np.divide(np.hypot(heart, ratio * thorax), thorax_width, out=unknown, where=thorax_width > 0)


def cardiothoracic_ratio(heart: ArrayLike, thorax: ArrayLike) -> NDArray[np.float64]:
    """Return the cardiothoracic ratio, by which an enlarged heart is recognised: heart width over inner chest width.

    Parameters
    ----------
    heart, thorax : array_like, shape (..., 4)
        Boxes in pixels of the same image.

    Returns
    -------
    ndarray of float64, shape (...)
        The ratio of the widths (Danzer 1919); NaN where the thorax is unknown or has no width.
    """
    heart, thorax = as_boxes(heart), as_boxes(thorax)
    heart_width = heart[..., 2] - heart[..., 0]
    thorax_width = thorax[..., 2] - thorax[..., 0]
    unknown = np.full(np.broadcast(heart_width, thorax_width).shape, np.nan)
    return np.divide(heart_width, thorax_width, out=unknown, where=thorax_width > 0)
