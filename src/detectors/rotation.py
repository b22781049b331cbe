"""RotPred: scores how sure a network is of the class of an image and of how it is turned."""

__all__ = ["RotPred"]

import math

import torch
from torch import Tensor

from src.detectors.base import Detector
from src.network import ForwardPass, Network


class RotPred(Detector):
    r"""Certainty of the class and of the angles by which the image is turned.

    \(\mathrm{KL}(U \| p) + \frac{1}{4} \sum_r \log_2 q_r(r)\): \(p\) are the probabilities of the
    classes and \(U\) is uniform; \(q_r\) are those of the four angles, of the image turned by
    \(r\) times 90 degrees. Both parts are in bits.

    Source:
        Hendrycks et al., "Using Self-Supervised Learning Can Improve Model Robustness and
        Uncertainty", NeurIPS 2019, https://arxiv.org/abs/1906.12340; as in OpenOOD v1.5,
        https://github.com/Jingkang50/OpenOOD.
    Fitted on:
        Nothing.
    Needs:
        A network with a rotation head, as objective=rot_pred trains it.
    Extra passes:
        Three forward passes.
    """

    def check(self, network: Network) -> None:
        """Checks that the network has a rotation head.

        Raises:
            ValueError: If it has none.
        """
        super().check(network)
        if network.rotation_head is None:
            raise ValueError(
                "expected a network with a rotation head, which RotPred scores, got one without; "
                "train with objective=rot_pred, or leave this detector out"
            )

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores in bits, of any sign; three more forward passes."""
        network = seen.network
        angles = [network.angle_of(seen.feature)]
        for times in range(1, 4):
            _, angle = network.class_and_angle(seen.image.rot90(times, (2, 3)))
            angles.append(angle)
        own = torch.stack(angles).log_softmax(dim=2).diagonal(dim1=0, dim2=2)  # (B, 4)
        certainty = -seen.logits.log_softmax(dim=1).mean(dim=1) - math.log(network.num_classes)
        return (certainty + own.mean(dim=1)) / math.log(2)
