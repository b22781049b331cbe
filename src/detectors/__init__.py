"""Post-hoc detectors; each turns a forward pass into scores, higher = more in-distribution."""

__all__ = ["MSP", "Detector", "Energy", "FeatureNorm", "MaxLogit", "expand_blocks"]

from src.detectors.base import Detector, expand_blocks
from src.detectors.logits import MSP, Energy, MaxLogit
from src.detectors.norms import FeatureNorm
