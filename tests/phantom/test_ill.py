"""Ill phantoms: opacities hide borders and leave boxes and masks alone; what changes the anatomy changes them too."""

import hashlib
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from heartbox.phantom import boxes, dicom, make_ill, render, sample_subject
from heartbox.phantom.anatomy import LEFT, RIGHT
from heartbox.phantom.body import build
from heartbox.phantom.burnt_in import burn_in
from heartbox.phantom.illness import DEVICES, OPACITY_KINDS, Illness, Opacity
from heartbox.phantom.opacity import ACROSS, CELLS, hidden_sides, opacity_map

SIZE = 256
CALM = sample_subject(0, 5)  # PA, level, without devices


@lru_cache
def with_illness(subject=CALM, size=SIZE, **what):
    return render(replace(subject, illness=Illness(**what)), size)


@lru_cache
def healthy(subject=CALM, size=SIZE):
    return render(subject, size)


def covered(kind, side, density=1.0, size=0.6):
    return with_illness(opacities=(Opacity(kind, side, density, size),))


def step_across(film, truth, side):
    """Grey of the heart minus grey of the lung, 2 to 7 px to either side of the widest part of the heart's mask."""
    mask = truth.heart_mask
    rows = np.arange(*np.quantile(np.nonzero(mask)[0], [0.45, 0.75]).astype(int))
    steps = []
    for row in rows:
        columns = np.flatnonzero(mask[row])
        edge = columns[0] if side == RIGHT else columns[-1]
        at = np.arange(2, 8)
        steps.append(film.image[row, edge - side * at].mean() - film.image[row, edge + side * at].mean())
    return np.mean(steps)


def fingerprint(film):
    return hashlib.sha256(film.image.tobytes() + film.heart_mask.tobytes()).hexdigest()


def test_an_ill_subject_depends_on_the_healthy_one_only():
    ill = make_ill(sample_subject(3, 17))
    for index in range(5):
        make_ill(sample_subject(3, index))
    assert make_ill(sample_subject(3, 17)) == ill
    assert make_ill(ill) == ill
    assert ill != make_ill(sample_subject(3, 16))
    assert sample_subject(3, 17).illness is None
    assert ill.film_id == "phantom-3-000017-ill"


def test_the_same_ill_subject_gives_the_same_picture():
    ill = make_ill(sample_subject(1, 2))
    assert fingerprint(render(ill, SIZE)) == fingerprint(render(ill, SIZE))


def test_an_illness_that_changes_nothing_changes_no_pixel():
    assert fingerprint(with_illness()) == fingerprint(healthy())


@pytest.mark.parametrize("kind", OPACITY_KINDS)
def test_opacities_change_the_picture_but_not_the_truth(kind):
    film = covered(kind, LEFT)
    assert film.heart == healthy().heart
    assert film.thorax == healthy().thorax
    for mask in ("heart_mask", "left_lung_mask", "right_lung_mask"):
        assert np.array_equal(getattr(film, mask), getattr(healthy(), mask))
    change = np.abs(film.image - healthy().image)[film.left_lung_mask | film.heart_mask]
    assert change.max() > 0.05


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_is_seen_and_leaves_the_truth_alone(device):
    film = with_illness(devices=(device,))
    assert (film.heart, film.thorax) == (healthy().heart, healthy().thorax)
    assert (np.abs(film.image - healthy().image) > 0.03).sum() > 10


@pytest.mark.parametrize(("side", "name"), [(RIGHT, "x_min"), (LEFT, "x_max")])
def test_a_lung_without_air_hides_the_border_beside_it(side, name):
    film = covered("opaque lung", side, size=1.0)
    assert film.hidden_sides == (name,)
    assert step_across(healthy(), film, side) > 0.12
    assert abs(step_across(film, film, side)) < 0.1 * step_across(healthy(), film, side)
    assert step_across(film, film, -side) > 0.5 * step_across(healthy(), film, -side)


def test_what_is_thin_hides_nothing():
    assert healthy().hidden_sides == ()
    film = covered("opaque lung", LEFT, density=0.4, size=1.0)
    assert film.hidden_sides == ()
    assert step_across(film, film, LEFT) > 0.3 * step_across(healthy(), film, LEFT)


def test_a_raised_diaphragm_hides_the_heart_behind_it():
    film = with_illness(raised_domes=(0.45, 0.0))
    assert film.hidden_sides == ("x_min",)
    assert film.heart[0] > film.thorax[0]


def test_fluid_of_an_upright_patient_is_highest_at_the_chest_wall():
    for size in (0.2, 0.5, 0.8):
        subject = replace(CALM, illness=Illness(opacities=(Opacity("effusion", LEFT, 1.0, size),)))
        fluid = opacity_map(subject, build(subject, SIZE)) > 0.5
        middle = CELLS // 2
        column = {share: middle + round(share / (2 * ACROSS) * CELLS) for share in (0.3, 0.6, 0.93)}
        top = {share: fluid[:, at].argmax() for share, at in column.items()}
        assert top[0.93] < top[0.6] - 4 < top[0.3] + 2  # a curve that rises ever steeper
        assert fluid[top[0.6] :, column[0.6]].all()
        assert not fluid[:, : middle - 4].any()


def test_a_swaying_trunk_takes_masks_boxes_and_image_along():
    subject = replace(CALM, illness=Illness(sway=(15.0, 0.0)))
    film = render(subject, 512)
    straight = healthy(size=512)
    assert np.abs(np.array(film.thorax) - straight.thorax).max() > 4
    assert (film.heart[2] - film.heart[0]) / (film.thorax[2] - film.thorax[0]) == pytest.approx(subject.ctr, abs=2e-3)
    rows, columns = np.nonzero(film.heart_mask)
    np.testing.assert_allclose((columns.min(), columns.max() + 1), (film.heart[0], film.heart[2]), atol=0.75)
    # The image has its border where the mask has it: no other place within 8 px fits better by more than a pixel.
    for side in (RIGHT, LEFT):
        steps = [
            step_across(film, replace(film, heart_mask=np.roll(film.heart_mask, k, axis=1)), side) for k in range(-8, 9)
        ]
        reference = [
            step_across(straight, replace(straight, heart_mask=np.roll(straight.heart_mask, k, axis=1)), side)
            for k in range(-8, 9)
        ]
        assert abs(int(np.argmax(steps)) - int(np.argmax(reference))) <= 1


def test_ill_patients_of_a_ward():
    """On 200 subjects: every ratio as asked for, heart and lungs within the film, all kinds there, borders hidden."""
    subjects = [make_ill(sample_subject(1, index)) for index in range(200)]
    hidden = Counter()
    for subject in subjects:
        heart, thorax = boxes(subject, 224)
        assert (heart[2] - heart[0]) / (thorax[2] - thorax[0]) == pytest.approx(subject.ctr, abs=2e-3)
        assert thorax[0] < heart[0] < heart[2] < thorax[2]
        assert thorax.min() >= 0 and thorax.max() <= 224
        body = build(subject, 224)
        hidden.update(hidden_sides(body, opacity_map(subject, body)))
    assert all(0.1 < hidden[name] / len(subjects) < 0.4 for name in ("x_min", "x_max"))
    opacities = [each for subject in subjects for each in subject.illness.opacities]
    assert {each.kind for each in opacities} == set(OPACITY_KINDS)
    assert {name for subject in subjects for name in subject.illness.devices} == set(DEVICES)
    assert 0.3 < np.mean([subject.illness.source is not None for subject in subjects]) < 0.6
    assert np.mean([abs(subject.rotation_deg) > 6 for subject in subjects]) > 0.2


def test_text_is_burnt_in_and_nothing_else_changes():
    subject = replace(CALM, illness=Illness(text=("PORTABLE", "L")))
    image = np.full((SIZE, SIZE), 0.5, np.float32)
    burnt = burn_in(image, subject)
    assert burnt is image
    assert {0.0, 0.5} <= set(np.unique(burnt).round(3))
    assert 20 < (burnt > 0.7).sum() < 0.05 * burnt.size
    plain = np.full((SIZE, SIZE), 0.5, np.float32)
    assert (burn_in(plain, replace(CALM, illness=Illness())) == 0.5).all()


def test_an_ill_film_in_dicom_is_another_film_than_the_healthy_one():
    ill = make_ill(CALM)
    written, other = dicom.dataset(render(ill, 64)), dicom.dataset(render(CALM, 64))
    for level in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        assert written[level].value != other[level].value
    assert written.PatientID == other.PatientID
    assert written.BurnedInAnnotation == ("YES" if ill.illness.text else "NO")


@pytest.mark.parametrize(
    ("index", "heart", "thorax", "grey"),
    [
        (0, (100.5066, 88.0701, 190.3634, 167.2872), (35.1169, 28.0229, 220.1648, 198.0089), (0.48924, 0.29775)),
        (5, (106.0398, 89.2783, 207.1097, 172.7653), (35.4674, 27.2259, 240.4104, 200.5079), (0.67262, 0.28135)),
        (6, (88.7997, 75.5281, 217.872, 161.081), (25.0293, 20.1534, 236.9588, 179.3418), (0.56777, 0.25195)),
    ],
)
def test_healthy_films_are_those_on_which_the_committed_results_rest(index, heart, thorax, grey):
    """Boxes and greys from before phantoms could be ill; a change to them makes every committed figure stale."""
    film = healthy(sample_subject(0, index))
    np.testing.assert_allclose(film.heart, heart, atol=1e-3)
    np.testing.assert_allclose(film.thorax, thorax, atol=1e-3)
    np.testing.assert_allclose((film.image.mean(), film.image.std()), grey, atol=1e-4)
