"""How a film lies: the classes, the ways to turn an upright film into each, and the small head that tells them apart.

The head reads the same features as the edges, so that asking costs next to nothing. Knows torch; no files, no labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# "cropped": about half of a film. "other": none of these, such as a transposed film, a turned negative or no X-ray.
ORIENTATIONS = (
    *("upright", "mirrored", "turned-right", "turned-left", "turned-180", "upside-down", "inverted"),
    *("cropped", "other"),
)
# Turned films are undone by the other turn; every other orientation by itself.
UNDONE_BY = {"turned-right": "turned-left", "turned-left": "turned-right"}


class OrientationHead(nn.Module):
    """Features averaged over a 7 x 7 grid, and one linear layer: the logits of :data:`ORIENTATIONS`.

    Parameters
    ----------
    width : int
        Channels of the feature map.
    """

    grid = 7

    def __init__(self, width: int):
        super().__init__()
        self.classify = nn.Linear(width * self.grid**2, len(ORIENTATIONS))

    def pool(self, features: Tensor) -> Tensor:
        """Average features, (N, width, h, w), over the cells of the grid -> (N, width * 49)."""
        return F.adaptive_avg_pool2d(features, self.grid).flatten(1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features, (N, width, h, w), to logits, (N, orientations)."""
        return self.classify(self.pool(features))


def reorient(x: Tensor, orientation: str, black_and_white: float) -> Tensor:
    """Make films lie wrong, or undo it: mirrored, 180, upside down and inverted films are undone by the same change.

    Parameters
    ----------
    x : Tensor, shape (N, 1, size, size)
        Normalised, upright films.
    orientation : str
        One of :data:`ORIENTATIONS`, but not ``"cropped"`` or ``"other"``.
    black_and_white : float
        Sum of the normalised values of black and white, which the negative is subtracted from.

    Returns
    -------
    Tensor, shape (N, 1, size, size)
    """
    changes = {
        "upright": lambda films: films,
        "mirrored": lambda films: films.flip(3),
        "turned-right": lambda films: films.rot90(-1, (2, 3)),
        "turned-left": lambda films: films.rot90(1, (2, 3)),
        "turned-180": lambda films: films.flip(2, 3),
        "upside-down": lambda films: films.flip(2),
        "inverted": lambda films: black_and_white - films,
    }
    return changes[orientation](x)


def cut(x: Tensor, top: float, bottom: float, left: float, right: float) -> Tensor:
    """Cut films, (N, 1, size, size), to a part, in shares of the side, and enlarge it to the whole size."""
    size = x.shape[-1]
    rows, columns = (slice(round(low * size), round(high * size)) for low, high in ((top, bottom), (left, right)))
    return F.interpolate(x[..., rows, columns], size=size, mode="bilinear", antialias=True)


def make_examples(x: Tensor, black_and_white: float, seed: int) -> tuple[Tensor, Tensor]:
    """Make an example of every orientation from each upright film.

    Parameters
    ----------
    x : Tensor, shape (N, 1, size, size)
        Normalised, upright films.
    black_and_white : float
        As for :func:`reorient`.
    seed : int
        Decides what is cut off and which other images there are.

    Returns
    -------
    tuple of Tensor
        Films, (N * 9, 1, size, size), and their classes, (N * 9,), indices into :data:`ORIENTATIONS`.
    """
    generator = torch.Generator().manual_seed(seed)
    whole = [reorient(x, name, black_and_white) for name in ORIENTATIONS[:7]]
    cropped, other = [], []
    for film in x.split(1):
        share = 0.35 + 0.25 * torch.rand((), generator=generator).item()  # of the film that is left
        side = int(torch.randint(4, (), generator=generator))
        box = [(0, share, 0, 1), (1 - share, 1, 0, 1), (0, 1, 0, share), (0, 1, 1 - share, 1)][side]
        cropped.append(cut(film, *box))
        other.append(_other(film, black_and_white, generator))
    films = torch.cat([*whole, torch.cat(cropped), torch.cat(other)])
    return films, torch.arange(len(ORIENTATIONS)).repeat_interleave(len(x))


def _other(film: Tensor, black_and_white: float, generator: torch.Generator) -> Tensor:
    """Return a transposed film, a negative that is turned as well, or clouds and noise of the film's own greys."""
    kind = torch.rand((), generator=generator).item()
    if kind < 0.35:
        transposed = film.transpose(2, 3)
        return transposed if kind < 0.2 else transposed.flip(2, 3)
    if kind < 0.7:
        names = ORIENTATIONS[1:6]
        turned = reorient(film, names[int(torch.randint(5, (), generator=generator))], black_and_white)
        return black_and_white - turned
    size, grain = film.shape[-1], int(2 ** (1 + 6 * torch.rand((), generator=generator).item()))
    noise = torch.randn((1, 1, max(size // grain, 3), max(size // grain, 3)), generator=generator)
    clouds = F.interpolate(noise, size=size, mode="bicubic")
    return film.mean() + film.std() * (clouds - clouds.mean()) / clouds.std().clamp_min(1e-6)
