"""Weights and an X-ray -> the heart's box, its ratio to the chest, margins and quality flags."""

from heartbox.inference.detector import HeartDetector
from heartbox.inference.quality_checks import FLAG_CODES, QualityFlag
from heartbox.inference.result import HeartDetection

__all__ = ["FLAG_CODES", "HeartDetection", "HeartDetector", "QualityFlag"]
