"""Post-hoc detectors; each turns a forward pass into scores, higher = more in-distribution."""

__all__ = [
    "ASH",
    "DICE",
    "FSSD",
    "HDFF",
    "KNN",
    "MSP",
    "NAC",
    "NAN",
    "RMDS",
    "SCALE",
    "VRA",
    "AdaSCALE",
    "Detector",
    "DividedByNAN",
    "Energy",
    "FeatureNorm",
    "Gram",
    "Mahalanobis",
    "MaxLogit",
    "MultiLayerMahalanobis",
    "NNGuide",
    "NormProduct",
    "Perturbed",
    "RankFeat",
    "ReAct",
    "Residual",
    "SelectedNorm",
    "ViM",
    "expand_blocks",
]

from src.detectors.base import Detector, expand_blocks
from src.detectors.fssd import FSSD
from src.detectors.gaussians import RMDS, Mahalanobis, MultiLayerMahalanobis
from src.detectors.gram import Gram
from src.detectors.hdff import HDFF
from src.detectors.logits import MSP, Energy, MaxLogit
from src.detectors.nac import NAC
from src.detectors.neighbours import KNN, NNGuide
from src.detectors.norms import NAN, DividedByNAN, FeatureNorm, NormProduct
from src.detectors.perturbation import AdaSCALE, Perturbed
from src.detectors.rankfeat import RankFeat
from src.detectors.rectification import DICE, VRA, ReAct
from src.detectors.shaping import ASH, SCALE, SelectedNorm
from src.detectors.subspaces import Residual, ViM
