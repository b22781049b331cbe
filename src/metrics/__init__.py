"""FeatureNorm and NormRatio, the score table, and the OOD metrics computed from it.

Statistics that detectors collect from ID images are in `src.metrics.statistics`.
"""

__all__ = [
    "BlockCriterion",
    "Estimate",
    "NormRatio",
    "ScoreShards",
    "ScoreTable",
    "Scores",
    "SelectionBootstrap",
    "SelectionStability",
    "feature_norm",
    "mean_activation",
    "ood_metrics",
    "ood_metrics_on_disk",
]

from src.metrics.criterion import BlockCriterion, Estimate
from src.metrics.norm_ratio import NormRatio, feature_norm, mean_activation
from src.metrics.on_disk import ScoreShards, ood_metrics_on_disk
from src.metrics.ood import ood_metrics
from src.metrics.score_table import Scores, ScoreTable
from src.metrics.stability import SelectionBootstrap, SelectionStability
