"""Evaluation that the training service and the SDK share: NumPy, and nothing of either."""

from lepton.evaluation.comparison import Comparison, Difference, NotComparable, compare
from lepton.evaluation.predictions import Predictions, PredictionsUnreadable
from lepton.evaluation.resampling import intervals

__all__ = [
    "Comparison",
    "Difference",
    "NotComparable",
    "Predictions",
    "PredictionsUnreadable",
    "compare",
    "intervals",
]
