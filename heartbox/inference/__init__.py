"""Weights and an X-ray -> the heart's box, its ratio to the chest, margins and quality flags."""

from heartbox.inference.detector import HeartDetector
from heartbox.inference.result import HeartDetection

__all__ = ["HeartDetection", "HeartDetector"]
