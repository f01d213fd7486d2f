"""Networks that turn one grey image into the edges of boxes, and their weights files."""

from heartbox.models.build import build_model
from heartbox.models.config import Calibration, WeightsConfig
from heartbox.models.heads import BoxNet, EdgeDistributions
from heartbox.models.weights import load_weights, save_weights

__all__ = ["BoxNet", "Calibration", "EdgeDistributions", "WeightsConfig", "build_model", "load_weights", "save_weights"]
