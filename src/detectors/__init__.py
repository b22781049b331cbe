"""Detectors that score an image from one forward pass, with no change to the trained network.

To add one, write its class, and import it here under its own name: the tests and the generated
documentation then cover it.
"""

from src.detectors.actsub import ActSub as ActSub
from src.detectors.base import Detector as Detector
from src.detectors.base import expand_blocks as expand_blocks
from src.detectors.calibration import KLMatching as KLMatching
from src.detectors.calibration import OpenMax as OpenMax
from src.detectors.calibration import TempScale as TempScale
from src.detectors.combood import CombOOD as CombOOD
from src.detectors.conformal import Conformal as Conformal
from src.detectors.core import CORE as CORE
from src.detectors.fssd import FSSD as FSSD
from src.detectors.gaussians import RMDS as RMDS
from src.detectors.gaussians import Mahalanobis as Mahalanobis
from src.detectors.gaussians import MultiLayerMahalanobis as MultiLayerMahalanobis
from src.detectors.gram import Gram as Gram
from src.detectors.hdff import HDFF as HDFF
from src.detectors.kernel_pca import CoP as CoP
from src.detectors.kernel_pca import CoRP as CoRP
from src.detectors.logits import GEN as GEN
from src.detectors.logits import MSP as MSP
from src.detectors.logits import Energy as Energy
from src.detectors.logits import Entropy as Entropy
from src.detectors.logits import GradNorm as GradNorm
from src.detectors.logits import MaxLogit as MaxLogit
from src.detectors.nac import NAC as NAC
from src.detectors.neco import NECO as NECO
from src.detectors.neighbours import KNN as KNN
from src.detectors.neighbours import NNGuide as NNGuide
from src.detectors.nmd import NMD as NMD
from src.detectors.norm_profile import NormProfile as NormProfile
from src.detectors.norms import NAN as NAN
from src.detectors.norms import DividedByNAN as DividedByNAN
from src.detectors.norms import FeatureNorm as FeatureNorm
from src.detectors.perturbation import PRO as PRO
from src.detectors.perturbation import AdaSCALE as AdaSCALE
from src.detectors.perturbation import Perturbed as Perturbed
from src.detectors.prototype_fusion import PrototypeFusion as PrototypeFusion
from src.detectors.prototypes import FDBD as FDBD
from src.detectors.prototypes import NCI as NCI
from src.detectors.prototypes import SHE as SHE
from src.detectors.prototypes import CADRef as CADRef
from src.detectors.rankfeat import RankFeat as RankFeat
from src.detectors.rectification import DICE as DICE
from src.detectors.rectification import VRA as VRA
from src.detectors.rectification import ReAct as ReAct
from src.detectors.rotation import RotPred as RotPred
from src.detectors.selected_norm import MatchedNorm as MatchedNorm
from src.detectors.selected_norm import NormProduct as NormProduct
from src.detectors.selected_norm import RescaledMap as RescaledMap
from src.detectors.selected_norm import SelectedNorm as SelectedNorm
from src.detectors.selected_norm import StandardizedNormProduct as StandardizedNormProduct
from src.detectors.shaping import ASH as ASH
from src.detectors.shaping import SCALE as SCALE
from src.detectors.subspaces import Residual as Residual
from src.detectors.subspaces import ViM as ViM

__all__ = [
    "expand_blocks",
    *sorted(
        name
        for name, value in list(globals().items())
        if isinstance(value, type) and issubclass(value, Detector)
    ),
]
