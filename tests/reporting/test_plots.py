"""Pictures that everybody can read: narrow enough for a page, text large enough, colours told apart by everyone."""

import dataclasses
import itertools

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.text import Text
from PIL import Image

from heartbox.inference.quality_checks import QualityFlag
from heartbox.inference.result import HeartDetection
from heartbox.reporting.detection_plots import draw_attention, draw_detection, draw_evidence
from heartbox.reporting.plots import LARGEST_DRAWN, draw_histograms, image_grid, page_of_xrays, save_gif
from heartbox.reporting.style import CHEST, LABEL, PREDICTION, TEXT, WIDTH
from heartbox.reporting.training_plots import TrainingAnimation, draw_distributions, draw_history, draw_reliability
from heartbox.xray.reader import as_xray

RNG = np.random.default_rng(0)
BOXES = np.array([[20.0, 16, 40, 40, 12, 8, 52, 56]]).repeat(6, axis=0)
HISTORY = pd.DataFrame({"epoch": [1, 2], "train_loss": [3.0, 2], "val_loss": [3.0, 2], "val_mae": [9.0, 5]})
HISTORY["val_iou"] = [0.4, 0.6]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def found() -> HeartDetection:
    film = as_xray(RNG.uniform(0, 1, (300, 240)))
    heart, thorax = np.array([80.0, 100, 160, 220]), np.array([20.0, 30, 220, 240])
    flags = tuple(QualityFlag("undecided", f"Reason {i} is a sentence of quite some words.") for i in range(12))
    interval = np.stack([heart - 4, heart + 4], axis=1)
    return HeartDetection(film, heart, interval, thorax, 0.4, (0.35, 0.45), 0.9, flags, ("A header may say $5 or $6.",))


def figures(found):
    images = list(RNG.uniform(0, 1, (6, 64, 64)))
    maps = RNG.normal(size=(4, 300, 240))
    positions = np.arange(64.0)
    probabilities = np.exp(-((positions - np.array([[20.0], [16], [40], [40]])) ** 2) / 8)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    yield draw_detection(found)
    yield draw_evidence(found, maps)
    yield draw_attention(found, np.abs(maps[:, ::10, ::10]))
    yield page_of_xrays(images, BOXES, BOXES + 2, [f"film {i}" for i in range(6)], columns=7, side=1.9)
    yield page_of_xrays(images[:1], BOXES[:1, :4])
    yield draw_histograms(images[0], images[1], ("before", "after"))
    yield draw_history(HISTORY, 12.0)
    yield draw_distributions(images[0], BOXES[0, :4], positions, probabilities)
    yield draw_distributions(images[0], None, positions, probabilities)
    yield draw_reliability({level: np.full(4, level) for level in (0.5, 0.9)}, ("a", "b", "c", "d"), 100)


def test_every_picture_fits_the_page_and_has_large_text(found):
    for figure in figures(found):
        figure.canvas.draw()
        assert figure.get_figwidth() <= WIDTH + 1e-6
        texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        assert min((text.get_fontsize() for text in texts), default=TEXT) >= TEXT >= 12


def test_axes_of_curves_are_named(found):
    curves = [draw_history(HISTORY, 12.0), draw_reliability({0.9: np.full(4, 0.9)}, ("a",), 100)]
    for figure in [*curves, draw_histograms(np.zeros((4, 4)), np.ones((4, 4)), ("before", "after"))]:
        assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)


def test_an_error_that_stays_at_the_baseline_is_seen():
    _, middle, _ = draw_history(HISTORY.assign(val_mae=12.0), 12.0).axes
    assert middle.get_ylim()[1] > 13


def test_text_beside_the_film_stays_on_the_picture(found):
    figure = draw_detection(found)
    figure.canvas.draw()
    (words,) = [text for text in figure.texts if "Heart:" in text.get_text()]
    box, page = words.get_window_extent(), figure.bbox
    assert box.x1 <= page.x1 and box.y0 >= page.y0
    assert words.get_text().count(r"\$") == 2  # drawn as dollars, not as a formula


# What people with the three kinds of missing cone see, in linear RGB (Machado et al. 2009, severity 1).
COLOUR_BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(rgb) -> np.ndarray:
    return cv2.cvtColor(np.float32([[rgb]]), cv2.COLOR_RGB2LAB)[0, 0]


def seen_by(kind: str, colour: str) -> np.ndarray:
    linear = np.power(to_rgb(colour), 2.2)
    return np.power(np.clip(np.array(COLOUR_BLIND[kind]) @ linear, 0, 1), 1 / 2.2)


def test_the_colours_are_told_apart_by_everyone_and_in_grey_print():
    for one, other in itertools.combinations((LABEL, PREDICTION, CHEST), 2):
        assert abs(lab(to_rgb(one))[0] - lab(to_rgb(other))[0]) > 12  # lightness, of 100
        for kind in COLOUR_BLIND:
            assert np.linalg.norm(lab(seen_by(kind, one)) - lab(seen_by(kind, other))) > 25  # 2.3 is just noticeable


@pytest.mark.parametrize(
    ("count", "columns", "side", "shape"), [(6, 4, None, (2, 4)), (3, 4, None, (1, 3)), (14, 7, 1.9, (4, 4))]
)
def test_a_grid_wraps_where_it_would_become_too_wide(count, columns, side, shape):
    figure, axes = image_grid(count, columns, side)
    assert len(axes) == count
    assert axes[0].get_gridspec().get_geometry() == shape
    assert sum(not ax.axison for ax in figure.axes) == shape[0] * shape[1] - count


def test_the_legend_names_what_is_drawn():
    def names(figure):
        return [text.get_text() for legend in figure.legends for text in legend.get_texts()]

    images = [np.zeros((64, 64))]
    assert names(page_of_xrays(images)) == []
    assert names(page_of_xrays(images, BOXES[:1, :4])) == ["heart"]
    both = ["heart", "heart, as found", "chest", "chest, as found"]
    assert names(page_of_xrays(images, BOXES[:1], BOXES[:1])) == both


def test_opposite_borders_have_lines_of_their_own(found):
    positions = np.arange(64.0)
    spread = np.exp(-((positions - np.array([[30.0], [30], [33], [33]])) ** 2) / 50)  # they overlap
    figure = draw_distributions(np.zeros((64, 64)), None, positions, spread / spread.sum(axis=1, keepdims=True))
    _, top, side = figure.axes
    for ax in (top, side):
        assert len({line.get_linestyle() for line in ax.lines}) == 2
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["left, top border", "right, bottom border"]


def test_the_sign_of_the_evidence_is_seen_in_grey_print(found):
    maps = np.zeros((4, 300, 240))
    maps[0, 90:110, 70:90], maps[0, 150:170, 70:90], maps[1, 90:110, 70:90] = 1, -1, -1
    left, top, right, _ = draw_evidence(found, maps).axes[:4]
    assert [are_dashed(ax) for ax in (left, top, right)] == [[True, False], [True], []]


def test_a_film_of_a_single_row_is_drawn_too(found):
    row = dataclasses.replace(found, xray=as_xray(np.linspace(0, 1, 300, dtype=np.float32)[None]))
    figure = draw_evidence(row, np.random.default_rng(0).normal(size=(4, 1, 300)))
    figure.canvas.draw()
    draw_detection(row).canvas.draw()


def test_maps_of_a_cropped_film_lie_over_the_part_that_was_shown(found):
    film = np.random.default_rng(0).uniform(0, 1, (300, 240)).astype(np.float32)
    padded = dataclasses.replace(found, xray=as_xray(np.pad(film, ((60, 0), (0, 40)))))
    inside = [0, 240, 360, 60]  # left, right, bottom, top
    whole = [0, 280, 360, 0]
    on_grid = np.random.default_rng(0).normal(size=(4, 7, 7))
    for figure, expected in (
        (draw_evidence(padded, on_grid), inside),
        (draw_evidence(padded, np.ones((4, 360, 280))), whole),
        (draw_attention(padded, np.abs(on_grid)), inside),
    ):
        picture, over = figure.axes[0].get_images()
        assert (list(picture.get_extent()), list(over.get_extent())) == (whole, expected)


def are_dashed(ax) -> list[bool]:
    contours = [child for child in ax.get_children() if isinstance(child, ContourSet)]
    return [bool(pattern) for contour in contours for _, pattern in contour.get_linestyle()]


def test_an_animation_of_a_resumed_run_is_complete(tmp_path):
    images = RNG.uniform(0, 1, (4, 64, 64))
    for epoch in (1, 2):  # a new instance for each, as after an interruption
        animation = TrainingAnimation(tmp_path / "frames", images, BOXES[:4])
        animation(epoch, BOXES + epoch, HISTORY[:epoch])
        assert animation.drawn == 1
    with Image.open(animation.save(tmp_path / "a.gif", 2)) as gif:
        assert gif.n_frames == 2
        assert gif.width <= 100 * WIDTH
    with pytest.raises(FileNotFoundError, match="no frames to join"):
        TrainingAnimation(tmp_path / "none", images, BOXES[:4]).save(tmp_path / "b.gif", 2)
    assert not (tmp_path / "b.gif").exists()


def test_the_last_picture_of_a_gif_may_be_shown_longer(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("black", "white")]
    with Image.open(save_gif(tmp_path / "a.gif", frames, 120, last=900)) as gif:
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
    assert durations == [120, 900]


def test_a_large_film_is_shrunk_before_it_is_drawn(found, tmp_path):
    """Matplotlib's copies of 49 million pixels filled eight gigabytes."""
    small = found.xray.image
    large = dataclasses.replace(found, xray=dataclasses.replace(found.xray, image=np.kron(small, np.ones((9, 9)))))
    figure = draw_evidence(large, np.ones((4, *large.xray.image.shape), np.float32))
    drawn = [picture for ax in figure.axes for picture in ax.images]
    assert max(max(picture.get_array().shape) for picture in drawn) == LARGEST_DRAWN < max(large.xray.image.shape)
    rows, columns = large.xray.image.shape
    assert all(picture.get_extent() == [0, columns, rows, 0] for picture in drawn)  # boxes stay where they are
    figure = draw_detection(large)
    assert max(figure.axes[0].images[0].get_array().shape) == LARGEST_DRAWN
