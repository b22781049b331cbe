"""Our detectors with the arguments that the comparison gives every library."""

from collections.abc import Callable
from functools import partial

from bench.runners.case import Case
from src.detectors import (
    ASH,
    DICE,
    FDBD,
    GEN,
    KNN,
    MSP,
    NCI,
    RMDS,
    SCALE,
    SHE,
    Detector,
    Energy,
    Entropy,
    GradNorm,
    KLMatching,
    Mahalanobis,
    MaxLogit,
    NNGuide,
    Perturbed,
    ReAct,
    ViM,
)
from src.models import vgg11
from src.network import Network


def on_training_images(detector: Detector) -> Detector:
    """Returns the detector, which fits on the images that every library is given."""
    detector.fit_on = "train"
    return detector


BLOCKS = r"features\.(1|4|7|10|12|14|17|19)"  # of the paper
BUILD: dict[str, Callable[[], Detector]] = {
    "Energy": Energy, "MSP": MSP, "MaxLogit": MaxLogit, "Entropy": Entropy, "GEN": GEN,
    "KNN": partial(KNN, 50), "Mahalanobis": Mahalanobis, "RMDS": RMDS,
    "ViM": partial(ViM, 64), "DICE": partial(DICE, percent=90), "NCI": NCI, "FDBD": FDBD,
    "SHE": SHE, "NNGuide": partial(NNGuide, 10, bank_size=None),
    "KLMatching": lambda: on_training_images(KLMatching()),
    "ReAct": partial(ReAct, percent=90), "ASH": ASH, "SCALE": SCALE, "GradNorm": GradNorm,
    "ODIN": lambda: Perturbed(MSP(1000), epsilon=0.0014),
}  # fmt: skip


def network_of(case: Case) -> Network:
    """Returns the network of a case in evaluation mode, with its eight blocks."""
    net = vgg11()
    net.load_state_dict(case.state)
    return Network(net, BLOCKS).eval()
