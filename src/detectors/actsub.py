"""Activation subspaces: what decides the logits, and the rest of the feature."""

__all__ = ["ActSub"]

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector
from src.detectors.logits import Energy
from src.detectors.neighbours import check_neighbours, nearest_similarities
from src.detectors.shaping import SCALE
from src.metrics.statistics import Bank
from src.network import ForwardPass, Network

SMALLEST_DISTANCE = 1e-6  # 1 - cosine of an image of the bank: rounding noise of float32


class ActSub(Detector):
    r"""Energy of the decisive part of the feature times nearness of the insignificant part.

    The singular vectors \(V\) of the head's weights, largest first, split the feature:
    \(h_d = V_k V_k^T h\), \(h_i = h - h_d\), with \(k\) such that both parts of ID images have the
    same mean length. With \(c\), the mean cosine of \(h_i\) to the nearest ones of ID images, the
    score is the energy of \(h_d\) shaped by `SCALE`, times \((-\log(1 - c))^\lambda\).

    Args:
        k: Number of neighbours.
        percent: Percentage of activations that the sum of `SCALE` leaves out.
        power: Exponent \(\lambda\), at least 0.
        bank_size: Number of ID images to keep, chosen by hashed index. None keeps all.

    Attributes:
        basis: (D, k) directions of the decisive part.
        bank: (N, D) insignificant parts of ID images, of length 1.

    Raises:
        ValueError: If an argument is out of range; in `check`, if the feature is a single value;
            in `fit`, if there are fewer images than neighbours.

    Source:
        Zöngür, Hesse and Roth, "Activation Subspaces for Out-of-Distribution Detection",
        ICCV 2025, https://arxiv.org/abs/2508.21695.
    Fitted on:
        5,000 ID training images. `bank_size` sets their number.
    Needs:
        Penultimate feature, linear head.
    Differs:
        The authors choose `percent` and the exponent for each network on OOD images; ours are
        those of their ResNet50 and CIFAR-10. Their bank is a tenth of the training images. Beyond
        the rank of the weights, where singular vectors are arbitrary, the directions are the
        principal ones of ID features. \(1 - c\) is at least 1e-6 and at most 1. As in `SCALE`, a
        negative activation counts as zero in both sums. An energy below zero reverses the effect
        of the second factor, as in theirs.
    """

    needs_linear_head = True

    def __init__(
        self,
        k: int = 10,
        *,
        percent: float = 95.0,
        power: float = 2.0,
        bank_size: int | None = 5000,
    ) -> None:
        super().__init__()
        if k < 1 or power < 0:
            raise ValueError(
                f"expected k of at least 1 and power of at least 0, got k={k}, power={power}; "
                "10 and 2 are usual"
            )
        self.k, self.percent, self.power, self.bank_size = k, percent, power, bank_size
        self.shaped = SCALE(Energy(), percent=percent)
        self.feature = Bank(bank_size)
        self.learns("basis", "bank")

    def check(self, network: Network) -> None:
        """Checks that the feature can be split.

        Raises:
            ValueError: If it is a single value.
        """
        super().check(network)
        if network.head.in_features < 2:
            raise ValueError("expected a feature of at least 2 values, got 1; leave ActSub out")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features."""
        self.feature.update(seen.feature.float(), index)

    def fit(self, network: Network) -> None:
        """Computes the directions of the decisive part, and the bank of the other."""
        self.check(network)
        feature = self.feature.compute().double()
        check_neighbours(self.k, feature)
        basis = directions(network.head.weight.detach().double(), feature)
        square = (feature @ basis).square()
        decisive = square.cumsum(dim=1).sqrt().mean(dim=0)[:-1]
        insignificant = square.flip(1).cumsum(dim=1).flip(1).sqrt().mean(dim=0)[1:]
        self.basis = basis[:, : int((decisive - insignificant).abs().argmin()) + 1].contiguous()
        self.bank = F.normalize(feature - feature @ self.basis @ self.basis.mT, dim=1)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) products of energies and nearness, in float64."""
        feature = seen.feature.double()
        decisive = feature @ self.basis @ self.basis.mT
        insignificant = F.normalize(feature - decisive, dim=1)
        cosine = nearest_similarities(insignificant, self.bank, self.k).mean(dim=1)
        nearness = -(1 - cosine).clamp(SMALLEST_DISTANCE, 1).log()
        return self.shaped.score(replace(seen, feature=decisive)) * nearness.pow(self.power)

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return (
            f"k={self.k}, percent={self.percent}, power={self.power}, bank_size={self.bank_size}"
        )


def directions(weight: Tensor, feature: Tensor) -> Tensor:
    """Returns (D, D) orthonormal columns, those that matter most for the logits first.

    They are the right singular vectors of the weights (K, D); within their null space, the
    eigenvectors of the second moment of the features (N, D).
    """
    _, singular, vector = torch.linalg.svd(weight, full_matrices=True)
    noise = max(weight.shape) * torch.finfo(torch.float32).eps  # rows may sum to zero
    rank = int((singular > noise * singular[0]).sum())
    row_space, null_space = vector[:rank].mT, vector[rank:].mT
    outside = feature @ null_space
    _, principal = torch.linalg.eigh(outside.mT @ outside)
    return torch.cat([row_space, null_space @ principal.flip(1)], dim=1)
