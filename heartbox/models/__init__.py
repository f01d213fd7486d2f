"""Networks that turn one grey image into the edges of boxes, and their weights files."""

from heartbox.models.build import build_model
from heartbox.models.weights import load_weights, save_weights

__all__ = ["build_model", "load_weights", "save_weights"]
