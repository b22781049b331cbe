"""Evaluation loops that give each detector passes of its own, with our detectors in them.

Only the loop differs from ours: the formulas, the network and the batches are the same.
"""

import torch
from torch import Tensor

from bench.runners.case import Case
from bench.runners.detectors_of_ours import BUILD, network_of
from src.detectors import Detector
from src.network import ForwardPass, Network


def observed(network: Network, detector: Detector, image: Tensor) -> ForwardPass:
    """Returns what the detector needs of a forward pass."""
    detector.prepare(network)
    return network.observe(image, keep_maps=False, read=detector.reads(network))


@torch.no_grad()
def fitted(case: Case, network: Network, name: str) -> Detector:
    """Returns a detector after its own pass over the training images, if it needs one."""
    detector = BUILD[name]()
    detector.check(network)
    start = 0
    for image, label in case.loader("train") if detector.is_fitted_on_data else ():
        index = torch.arange(start, start := start + len(image))
        detector.update(observed(network, detector, image), label, index)
    detector.fit(network)
    return detector


@torch.no_grad()
def scored(case: Case, network: Network, detector: Detector, name: str) -> Tensor:
    """Returns the (N,) scores of a set after a pass of its own."""
    batches = [detector.score(observed(network, detector, x)) for x, _ in case.loader(name)]
    return torch.cat(batches).double()


@torch.no_grad()
def accuracy(case: Case, network: Network) -> float:
    """Returns the accuracy on the ID images after a pass of its own."""
    right = [(network(image).argmax(1) == label).float() for image, label in case.loader("id")]
    return float(torch.cat(right).mean())


__all__ = ["accuracy", "fitted", "network_of", "scored"]
