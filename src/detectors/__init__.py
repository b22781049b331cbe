"""Post-hoc detectors; each turns a forward pass into scores, higher = more in-distribution."""

__all__ = [
    "ASH",
    "DICE",
    "MSP",
    "NAN",
    "SCALE",
    "VRA",
    "AdaSCALE",
    "Detector",
    "DividedByNAN",
    "Energy",
    "FeatureNorm",
    "MaxLogit",
    "Perturbed",
    "ReAct",
    "SelectedNorm",
    "expand_blocks",
]

from src.detectors.base import Detector, expand_blocks
from src.detectors.logits import MSP, Energy, MaxLogit
from src.detectors.norms import NAN, DividedByNAN, FeatureNorm
from src.detectors.perturbation import AdaSCALE, Perturbed
from src.detectors.rectification import DICE, VRA, ReAct
from src.detectors.shaping import ASH, SCALE, SelectedNorm
