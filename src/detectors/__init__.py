"""Post-hoc detectors; each turns a forward pass into scores, higher = more in-distribution."""

__all__ = [
    "ASH",
    "DICE",
    "FDBD",
    "FSSD",
    "GEN",
    "HDFF",
    "KNN",
    "MSP",
    "NAC",
    "NAN",
    "NCI",
    "RMDS",
    "SCALE",
    "SHE",
    "VRA",
    "AdaSCALE",
    "CADRef",
    "CombOOD",
    "Detector",
    "DividedByNAN",
    "Energy",
    "Entropy",
    "FeatureNorm",
    "GradNorm",
    "Gram",
    "KLMatching",
    "Mahalanobis",
    "MaxLogit",
    "MultiLayerMahalanobis",
    "NNGuide",
    "NormProduct",
    "OpenMax",
    "Perturbed",
    "RankFeat",
    "ReAct",
    "RescaledMap",
    "Residual",
    "SelectedNorm",
    "TempScale",
    "ViM",
    "expand_blocks",
]

from src.detectors.base import Detector, expand_blocks
from src.detectors.calibration import KLMatching, OpenMax, TempScale
from src.detectors.combood import CombOOD
from src.detectors.fssd import FSSD
from src.detectors.gaussians import RMDS, Mahalanobis, MultiLayerMahalanobis
from src.detectors.gram import Gram
from src.detectors.hdff import HDFF
from src.detectors.logits import GEN, MSP, Energy, Entropy, GradNorm, MaxLogit
from src.detectors.nac import NAC
from src.detectors.neighbours import KNN, NNGuide
from src.detectors.norms import NAN, DividedByNAN, FeatureNorm, NormProduct
from src.detectors.perturbation import AdaSCALE, Perturbed
from src.detectors.prototypes import FDBD, NCI, SHE, CADRef
from src.detectors.rankfeat import RankFeat
from src.detectors.rectification import DICE, VRA, ReAct
from src.detectors.shaping import ASH, SCALE, RescaledMap, SelectedNorm
from src.detectors.subspaces import Residual, ViM
