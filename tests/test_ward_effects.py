"""What a ward does to a film: each effect stays in range, is repeatable, does what it says and moves no box."""

import numpy as np
import pytest
from helpers import write_processed

import heartbox.augmentation
from cardiac_dataset import CardiacDataset, make_augmentation
from heartbox.augmentation import augment_image
from heartbox.ward_effects import add_consolidation, add_effusion, add_lines, add_ward_effects, add_writing

EFFECTS = [add_effusion, add_consolidation, add_lines, add_writing]


@pytest.fixture
def film() -> np.ndarray:
    """Return lungs crossed by ribs, (120, 90), with the darkest and the brightest grey in two corners."""
    ribs = 0.25 + 0.1 * np.sin(np.arange(120) * 1.3)
    image = np.tile(ribs[:, None], (1, 90)).astype(np.float32)
    image[0, 0], image[0, -1] = 0, 1
    return image


@pytest.mark.parametrize("effect", [*EFFECTS, add_ward_effects])
def test_effects_are_images_and_follow_the_seed(film, effect):
    before, made = film.copy(), []
    for seed in range(12):
        image = effect(film, np.random.default_rng(seed))
        assert image.shape == film.shape and image.dtype == np.float32
        assert np.isfinite(image).all() and 0 <= image.min() <= image.max() <= 1
        np.testing.assert_array_equal(image, effect(film, np.random.default_rng(seed)))
        made.append(image)
    np.testing.assert_array_equal(film, before)  # the film itself is left as it was
    changed = [image for image in made if not np.array_equal(image, film)]
    assert len({image.tobytes() for image in changed}) == len(changed) >= 5


def test_fluid_hides_what_lies_at_the_base_of_a_lung(film):
    """Ribs are seen less at the base of one lung at least, and more at the top; some films keep a healthy lung."""
    kept = []
    for seed in range(40):
        image = add_effusion(film, np.random.default_rng(seed))
        sides = [
            [image[rows, columns].std() / film[rows, columns].std() for rows in (slice(2, 14), slice(-14, None))]
            for columns in (slice(2, 30), slice(-30, -2))
        ]
        kept.append(sides)
        assert image[-14:].mean() > film[-14:].mean()  # fluid is bright
    top, base = np.moveaxis(kept, 2, 0)
    assert (base.min(axis=1) < 0.95).all()
    assert base.min(axis=1).mean() < 0.6 < 0.85 < top.min(axis=1).mean()
    assert 0.2 < (base.max(axis=1) > 0.98).mean() < 0.8


def test_consolidation_lies_in_the_middle_of_the_film(film):
    veils = np.mean([add_consolidation(film, np.random.default_rng(seed)) - film for seed in range(60)], axis=0)
    assert veils[50:90, 30:60].mean() > 2 * veils[:20].mean()


def test_lines_and_writing_cover_little(film):
    drawn = [add_lines(film, np.random.default_rng(seed)) - film for seed in range(30)]
    assert min(change.min() for change in drawn) >= 0  # metal and plastic are bright
    assert np.mean([change > 0.05 for change in drawn]) < 0.15
    written = np.array([add_writing(film, np.random.default_rng(seed)) != film for seed in range(60)])
    assert written.any(axis=(1, 2)).mean() > 0.9
    assert written.mean(axis=0)[40:80].mean() < 0.2 * written.mean(axis=0)[90:].mean()  # above and below the lungs


def test_some_films_stay_as_they_are(film):
    same = [np.array_equal(add_ward_effects(film, np.random.default_rng(seed)), film) for seed in range(300)]
    assert np.mean(same) == pytest.approx(0.75 * 0.75 * 0.65 * 0.8, abs=0.08)


def test_effects_move_no_box(film, monkeypatch):
    """With the effects and without, one seed gives one map of points, and images that differ."""
    maps, images = {}, {}
    for effects in (True, False):
        if not effects:
            monkeypatch.setattr(heartbox.augmentation, "add_ward_effects", lambda image, rng: image)
        each = [augment_image(film, make_augmentation("ward"), seed) for seed in range(12)]
        images[effects], maps[effects] = [image for image, _ in each], np.array([matrix for _, matrix in each])
    np.testing.assert_array_equal(maps[True], maps[False])
    differ = [not np.array_equal(*pair) for pair in zip(images[True], images[False], strict=True)]
    assert 5 <= sum(differ) < 12
    assert np.abs(maps[True][:, :, :2] - np.eye(2)).max() > 0.1  # they were changed as strongly as ever
    again, matrix = augment_image(film, make_augmentation("ward"), 3)
    np.testing.assert_array_equal(again, images[False][3])
    np.testing.assert_array_equal(matrix, maps[False][3])


def test_the_dataset_takes_the_ward(tmp_path):
    pairs = CardiacDataset(write_processed(tmp_path, 2, 1), "train", "ward", ("heart", "thorax"))
    x, boxes = pairs[0]
    assert x.shape == (1, 64, 64) and x.isfinite().all()
    assert boxes.shape == (8,) and boxes.isfinite().all()
    with pytest.raises(ValueError, match="unknown augmentation 'hospital': choose 'published', 'strong' or 'ward'"):
        make_augmentation("hospital")
