"""How a film lies: each change and its inverse, examples of every class, and the head that reads the features."""

import numpy as np
import pytest
import torch

from heartbox.models.build import build_model
from heartbox.models.orientation import ORIENTATIONS, cut, make_examples, reorient
from heartbox.models.weights import load_weights, save_weights

INVERSE = {"turned-right": "turned-left", "turned-left": "turned-right"}  # each other one is its own
SUM = 0.4  # of the normalised values of black and white
STATS = {"mean": 0.5, "std": 0.25, "layout": "made"}
BOTH = ["heart", "thorax"]


@pytest.fixture
def films() -> torch.Tensor:
    return torch.randn(5, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def test_every_change_is_undone_by_its_inverse(films):
    made = {name: reorient(films, name, SUM) for name in ORIENTATIONS[:7]}
    for name, changed in made.items():
        torch.testing.assert_close(reorient(changed, INVERSE.get(name, name), SUM), films)
    assert torch.equal(made["upright"], films)
    assert len({changed.numpy().tobytes() for changed in made.values()}) == 7


def test_changes_are_named_after_what_they_do():
    film = torch.zeros(1, 1, 4, 4)
    film[..., 0, 0] = 1  # white, at the upper left
    place = {"mirrored": (0, 3), "turned-right": (0, 3), "turned-left": (3, 0), "turned-180": (3, 3)}
    for name, at in (place | {"upside-down": (3, 0)}).items():
        assert np.argwhere(reorient(film, name, 1.0)[0, 0].numpy() == 1).tolist() == [list(at)], name
    negative = reorient(film, "inverted", 1.0)
    assert negative[0, 0, 0, 0] == 0 and negative.sum() == 15


def test_a_part_is_enlarged_to_the_whole_side():
    film = torch.zeros(1, 1, 64, 64)
    film[..., :32] = 1
    for side, expected in (((0, 0.5), 1), ((0.5, 1), 0)):  # the left half, the right half
        assert torch.equal(cut(film, 0, 1, *side), torch.full((1, 1, 64, 64), float(expected)))
    for part in ((0, 0.5), (0.5, 1)):  # the upper half, the lower half
        torch.testing.assert_close(cut(film, *part, 0, 1), film)
    torch.testing.assert_close(cut(film, 0, 1, 0, 1), film)


def test_every_film_gives_an_example_of_every_class(films):
    x, classes = make_examples(films, SUM, seed=3)
    assert x.shape == (45, 1, 64, 64) and x.isfinite().all()
    assert torch.bincount(classes).tolist() == [5] * 9
    for k, name in enumerate(ORIENTATIONS[:7]):
        assert torch.equal(x[classes == k], reorient(films, name, SUM))
    lying = [reorient(films, name, SUM) for name in ORIENTATIONS[:7]]
    for k in (7, 8):  # cropped, other: none of the rest
        for film, known in zip(x[classes == k], zip(*lying, strict=True), strict=True):
            assert min((film - one).abs().max() for one in known) > 0.1


def test_examples_follow_the_seed(films):
    x, _ = make_examples(films, SUM, seed=3)
    assert torch.equal(x, make_examples(films, SUM, seed=3)[0])
    other, classes = make_examples(films, SUM, seed=4)
    same = (x == other).flatten(1).all(dim=1)
    assert same[classes < 7].all()
    assert not same[classes == 7].any()
    assert not same[classes == 8].all()  # a film may be transposed both times


def test_other_films_are_of_several_kinds():
    """Transposed ones and negatives have the film's own greys; clouds have its mean and standard deviation."""
    film = torch.linspace(-1, 2, 64 * 64).reshape(1, 1, 64, 64) ** 3
    x, classes = make_examples(film.repeat(60, 1, 1, 1), SUM, seed=0)
    others, greys = x[classes == 8], film.flatten().sort().values
    own = [torch.allclose(one.flatten().sort().values, greys, atol=1e-5) for one in others]
    negative = [torch.allclose((SUM - one).flatten().sort().values, greys, atol=1e-5) for one in others]
    clouds = others[~(torch.tensor(own) | torch.tensor(negative))]
    assert min(sum(own), sum(negative), len(clouds)) >= 8
    torch.testing.assert_close(clouds.mean(dim=(1, 2, 3)), film.mean().repeat(len(clouds)), atol=1e-3, rtol=0)
    torch.testing.assert_close(clouds.std(dim=(1, 2, 3)), film.std().repeat(len(clouds)), atol=1e-3, rtol=0)


def test_the_head_is_one_more_answer():
    torch.manual_seed(0)
    model, x = build_model(head="edges", targets=BOTH, size=64).eval(), torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        features = model.features(x)
        before = model.coordinates(features)
        assert model.predict_orientation(features) is None
        model.add_orientation_head()
        assert torch.equal(model(x), before)
        told = model.predict_orientation(features)
        assert told.shape == (3, 9)
        # Where a film is bright must not be lost: the average over all of it would be the same.
        assert not torch.allclose(told, model.predict_orientation(features.flip(3)), atol=1e-3)


def test_a_head_without_a_map_refuses():
    with pytest.raises(ValueError, match="the regression head cannot tell how a film lies: use the edges head"):
        build_model(head="regression", size=64).add_orientation_head()


@pytest.mark.parametrize("half", [False, True])
def test_weights_keep_the_head(tmp_path, half):
    torch.manual_seed(0)
    model, path = build_model(head="edges", targets=BOTH, size=64).eval(), tmp_path / "m.pt"
    model.add_orientation_head()
    save_weights(path, model, STATS, half=half, targets=BOTH)
    again, config = load_weights(path)
    assert config.orientations == ORIENTATIONS
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected, told = (one.predict_orientation(one.features(x)) for one in (model, again))
    torch.testing.assert_close(told, expected, atol=0.02 if half else 0.0, rtol=0)


def test_weights_without_the_head_say_nothing_of_it(tmp_path):
    model, path = build_model(head="edges", targets=BOTH, size=64), tmp_path / "m.pt"
    save_weights(path, model, STATS, targets=BOTH)
    again, config = load_weights(path)
    assert again.orientation_head is None and config.orientations == ()
    saved = torch.load(path, weights_only=True)
    assert "orientations" not in saved["config"]
    saved["config"]["orientations"] = list(ORIENTATIONS)
    torch.save(saved, path)
    with pytest.raises(ValueError, match="m.pt: the weights do not fit"):
        load_weights(path)
