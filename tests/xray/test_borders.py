"""The film inside its borders: a padded film has the content of the film before, and no anatomy is ever cut."""

import csv

import cv2
import numpy as np
import pytest

from heartbox.boxes import box_from_mask
from heartbox.phantom import make_ill, render, sample_subject
from heartbox.xray.borders import Window, find_content, plain_border
from heartbox.xray.reader import read_xray

SIDE = 256
SIDES = {
    "top": (1, 0, 0, 0),
    "bottom": (0, 1, 0, 0),
    "left": (0, 0, 1, 0),
    "right": (0, 0, 0, 1),
    "all round": (1,) * 4,
}
BLOCK = 8  # pixels; JPEG smears the edge of a film, and that of its own collimation, over the block it lies in


@pytest.fixture(scope="module")
def phantoms():
    """Return phantoms with and without collimation."""
    return [render(sample_subject(1, index), SIDE) for index in range(6)]


def pad(film: np.ndarray, grey: float, sides: tuple[int, ...], depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad a film and say where each edge of a window in it goes."""
    top, bottom, left, right = (depth * side for side in sides)
    padded = np.pad(film, ((top, bottom), (left, right)), constant_values=np.float32(grey))
    return padded, np.array([top, top, left, left])


def jpeg(image: np.ndarray, quality: int = 75) -> np.ndarray:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    coded = cv2.imencode(".jpg", np.rint(image * 255).astype(np.uint8), options)[1]
    return cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255


def write(image: np.ndarray, text: str, corner: tuple[int, int], grey: float, scale: float = 0.4) -> None:
    ink = np.zeros(image.shape, np.uint8)
    cv2.putText(ink, text, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1)
    image[:] = image + (grey - image) * (ink / np.float32(255))


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("grey", [0.0, 1.0, 0.5, 0.23])
def test_padding_changes_nothing(phantoms, grey, sides):
    for phantom in phantoms:
        before = np.array(find_content(phantom.image))
        for depth in (3, SIDE // 4, SIDE // 2):
            padded, moved = pad(phantom.image, grey, sides, depth)
            assert find_content(padded) == tuple(before + moved)


def test_films_with_and_without_collimation_are_among_them(phantoms):
    whole = [find_content(phantom.image) == Window.whole((SIDE, SIDE)) for phantom in phantoms]
    assert any(whole) and not all(whole)


def test_nested_frames_come_off(phantoms):
    for phantom in phantoms:
        image = phantom.image
        for grey, depth in ((1, 2), (0, 20), (0.5, 7), (1, 40), (0, 1)):  # a picture in a window on a page
            image = np.pad(image, depth, constant_values=np.float32(grey))
        assert find_content(image) == tuple(np.array(find_content(phantom.image)) + 70)


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("grey", [0.0, 1.0, 0.5])
def test_jpeg_leaves_at_most_two_of_its_blocks(phantoms, grey, sides):
    for phantom in phantoms:
        padded, moved = pad(phantom.image, grey, sides, 70)  # not a multiple of a block
        change = np.array(find_content(jpeg(padded))) - moved - find_content(phantom.image)
        assert np.abs(change).max() <= 2 * BLOCK


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_text_and_a_ruler_come_off(phantoms, grey):
    ink = 1 - grey
    for phantom in phantoms:
        padded, moved = pad(phantom.image, grey, SIDES["all round"], 64)
        write(padded, "DOE JOHN 1950-01-02 PORTABLE AP", (10, 24), ink)
        write(padded, "R", (12, 200), ink, 0.6)
        for number, row in enumerate(range(20, len(padded) - 20, 20)):  # ticks of two lengths
            padded[row : row + 2, -40 : -40 + (24 if number % 5 == 0 else 12)] = ink
        change = np.array(find_content(padded)) - moved - find_content(phantom.image)
        assert np.abs(change).max() <= 1


def test_burnt_in_bars_come_off(phantoms):
    for phantom in phantoms:
        barred = np.pad(phantom.image, ((40, 40), (0, 0)), constant_values=np.float32(0.05))
        write(barred, "HOSPITAL  W 4096 L 2048", (6, 24), 0.9, 0.45)
        write(barred, "R 12 cm  Zoom 88%", (6, len(barred) - 12), 0.9)
        change = np.array(find_content(barred)) - [40, 40, 0, 0] - find_content(phantom.image)
        assert np.abs(change).max() <= 1


@pytest.mark.parametrize("noise", [0.004, 0.01, 0.02])
@pytest.mark.parametrize("grey", [0.1, 0.5, 0.9])
def test_noise_in_a_border_does_not_stop_it(phantoms, grey, noise):
    rng = np.random.default_rng(0)
    for phantom in phantoms:
        padded, moved = pad(phantom.image, grey, SIDES["all round"], 60)
        outside = np.ones(padded.shape, bool)
        outside[60:-60, 60:-60] = False
        padded[outside] += rng.normal(0, noise, outside.sum()).astype(np.float32)
        change = np.array(find_content(padded)) - moved - find_content(phantom.image)
        assert np.abs(change).max() <= (1 if noise < 0.02 else 6)


def test_a_border_that_brightens_evenly_comes_off(phantoms):
    for phantom in phantoms:
        padded, moved = pad(phantom.image, 0.0, SIDES["all round"], 60)
        shade = np.linspace(0.05, 0.25, padded.shape[1], dtype=np.float32) * np.ones((len(padded), 1), np.float32)
        shade[60:-60, 60:-60] = phantom.image
        change = np.array(find_content(shade)) - moved - find_content(phantom.image)
        assert np.abs(change).max() <= 1


def test_copies_of_the_outermost_line_come_off(phantoms):
    for phantom in phantoms:
        window = find_content(phantom.image)
        film = window.of(phantom.image)
        assert find_content(np.pad(film, 50, mode="edge")) == (50, 50 + len(film), 50, 50 + film.shape[1])
        enlarged = film.repeat(4, axis=0).repeat(4, axis=1)
        assert find_content(enlarged) == Window.whole(enlarged.shape)


def test_a_ruler_along_a_whole_side_comes_off(phantoms):
    for phantom in phantoms:
        padded, moved = pad(phantom.image, 0.0, SIDES["all round"], 60)
        padded[25:-25, 20:22] = 1.0
        for number, row in enumerate(range(25, len(padded) - 25, 10)):
            padded[row : row + 2, 20 : 36 if number % 5 else 44] = 1.0
        change = np.array(find_content(padded)) - moved - find_content(phantom.image)
        assert np.abs(change).max() <= 1


def test_heart_and_lungs_are_never_cut():
    for index in range(20):
        phantom = render(sample_subject(2, index), SIDE)
        window = find_content(phantom.image)
        for mask in (phantom.heart_mask, phantom.left_lung_mask, phantom.right_lung_mask):
            assert window.of(mask).sum() == mask.sum()


def test_nothing_is_cut_that_can_be_seen_on_ill_phantoms():
    """Their collimation may hide the top of a lung; fluid and white bases must not be taken for a border."""
    for index in range(20):
        phantom = render(make_ill(sample_subject(3, index)), SIDE)
        outside = np.ones((SIDE, SIDE), bool)
        find_content(phantom.image).of(outside)[...] = False
        assert not (outside & phantom.heart_mask).any()
        for lung in (phantom.left_lung_mask, phantom.right_lung_mask):
            assert not phantom.image[outside & lung].any()  # black: not exposed


def test_the_window_does_not_depend_on_the_range_of_greys(phantoms):
    for phantom in phantoms:
        padded, _ = pad(phantom.image, 0.4, SIDES["left"], 50)
        assert find_content(0.6 + 0.125 * padded) == find_content(padded)
        assert find_content(1 - padded) == find_content(padded)


def test_a_dark_film_on_a_white_page():
    """The page must not widen the range by which greys of the film count as one."""
    dark = 0.06 * np.random.default_rng(0).uniform(0, 1, (100, 120))
    assert find_content(np.pad(dark, 40, constant_values=1.0)) == (40, 140, 40, 160)


def test_too_little_is_not_believed():
    film = np.random.default_rng(0).uniform(0, 1, (100, 100))
    assert find_content(np.pad(film, 190)) == (190, 290, 190, 290)  # 100 of 480 pixels
    assert find_content(np.pad(film, ((0, 0), (210, 210)))) == (0, 100, 0, 520)  # 100 of 520
    assert plain_border(np.pad(film, ((0, 0), (210, 210)))) == 420 / 520
    assert find_content(np.pad(film[:12, :12], 4)) == (0, 20, 0, 20)  # an icon


@pytest.mark.parametrize("grey", [0.0, 0.4, 1.0])
def test_an_image_of_one_grey_is_not_cropped(grey):
    assert find_content(np.full((50, 70), grey)) == (0, 50, 0, 70)
    assert find_content(np.pad(np.full((50, 70), grey), 20, constant_values=0.5)) == (0, 90, 0, 110)


def test_real_hearts_and_lungs_are_never_cut(real_data):
    for collection in ("jsrt", "wingspan"):
        folder = real_data / "ctr" / collection
        for path in sorted((folder / "png").glob("*.png"))[::4]:
            window = find_content(read_xray(path))
            for part in ("heart", "left_lung", "right_lung"):
                mask = read_xray(folder / "mask" / part / path.name)
                box = box_from_mask(mask > 0.5 * mask.max()) - window.corner
                assert (box[:2] >= 0).all() and (box[2:] <= window.shape[::-1]).all(), (path.name, part)


def test_borders_read_by_eye_are_never_cut(real_data):
    with (real_data / "nih" / "heart_borders.csv").open() as stream:
        films = list(csv.DictReader(stream))
    cropped = 0
    for film in films:
        image = read_xray(real_data / "nih" / "images" / film["file"])
        window = find_content(image)
        cropped += window != Window.whole(image.shape)
        read = [float(film[f"{part}_{side}"] or "nan") for part in ("heart", "thorax") for side in ("left", "right")]
        columns = np.array(read) * image.shape[1] / 224
        # A side that lies on the edge of the film was read to the pixel that holds it.
        assert not (columns < window.left - image.shape[1] / 224).any(), film["file"]
        assert not (columns > window.right + image.shape[1] / 224).any(), film["file"]
    assert 0.1 < cropped / len(films) < 0.6
