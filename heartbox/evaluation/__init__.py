"""How good the boxes are, how wide their margins must be, and which labels to check."""

from heartbox.evaluation.conformal import calibrate, coverage, margins, reliability
from heartbox.evaluation.label_audit import audit_labels
from heartbox.evaluation.metrics import evaluate, mean_box, predict, skill_over

__all__ = [
    "audit_labels",
    "calibrate",
    "coverage",
    "evaluate",
    "margins",
    "mean_box",
    "predict",
    "reliability",
    "skill_over",
]
