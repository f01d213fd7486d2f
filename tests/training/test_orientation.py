"""The orientation head learns on features that stay as they are."""

import numpy as np
import pytest
import torch
from helpers import draw_disc, same_weights

from heartbox.models.build import build_model
from heartbox.models.orientation import ORIENTATIONS, reorient
from heartbox.training.orientation import fit_orientation

SUM = 0.0  # of the normalised values of black and white


def made_films(count: int, seed: int) -> torch.Tensor:
    """Return grey films, brighter below, with a bright disc right of the middle; (count, 1, 64, 64), normalised."""
    rng, films = np.random.default_rng(seed), []
    for _ in range(count):
        centre = rng.uniform(-3, 3, 2) + [42, 36]
        film = 0.3 + 0.2 * np.linspace(0, 1, 64)[:, None] + 0.4 * draw_disc(64, tuple(centre), (9, 12))
        films.append(film + rng.normal(0, 0.02, (64, 64)))
    return ((torch.from_numpy(np.array(films)) - 0.5) / 0.25).float()[:, None]


@pytest.fixture(scope="module")
def trained():
    """Return a network with a trained head, and what it was before."""
    torch.manual_seed(0)
    model = build_model(head="edges", targets=("heart", "thorax"), size=64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit_orientation(model, [(film,) for film in made_films(16, 0)], SUM, copies=2, seed=1, device="cpu")
    return model, before


@pytest.mark.parametrize("name", ["upright", "mirrored", "turned-180", "inverted"])
def test_it_learns_how_films_lie(trained, name):
    model, _ = trained
    films = reorient(made_films(12, 1), name, SUM)
    with torch.no_grad():
        told = model.predict_orientation(model.features(films)).argmax(dim=1)
    assert (told == ORIENTATIONS.index(name)).float().mean() >= 0.75


def test_the_rest_of_the_network_stays_as_it_was(trained):
    model, before = trained
    after = {name: value for name, value in model.state_dict().items() if not name.startswith("orientation_head.")}
    assert same_weights(before, after)
    assert not model.training


def test_the_seed_decides_everything():
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = build_model(head="edges", size=64)
        fit_orientation(model, [(film,) for film in made_films(3, 0)], SUM, copies=1, seed=seed, device="cpu")
        heads.append(model.orientation_head.state_dict())
    assert same_weights(heads[0], heads[1])
    assert not same_weights(heads[0], heads[2])


def test_a_head_without_a_map_refuses():
    with pytest.raises(ValueError, match="regression head cannot tell how a film lies"):
        fit_orientation(build_model(head="regression", size=64), [(made_films(1, 0)[0],)], SUM, device="cpu")
