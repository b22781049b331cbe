"""NECO: how much of a feature lies within the subspace to which ID features collapse."""

__all__ = ["NECO"]

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector
from src.detectors.subspaces import collapsed_dimension, principal_directions
from src.metrics.statistics import Moments
from src.network import ForwardPass, Network

SHARE = 0.9  # of the variance that the subspace explains unless its dimension is given
CONSTANT = 1e-12  # variance relative to the squared mean: what rounding leaves of a constant


class NECO(Detector):
    r"""Part of the standardised feature that lies within the principal subspace of ID images.

    This is \(\|P^\top t\|_2 / \|t\|_2\), where \(t = (h - \mu) / \sigma\) in each dimension, and
    the columns of \(P\) are the directions in which \(t\) of ID images varies most.

    Args:
        dimension: Number of directions. None takes as few as explain 90 % of the variance, but
            at least one less than there are classes.
        max_logit: Whether to multiply by the largest logit, as the authors do for transformers.

    Raises:
        ValueError: If the dimension is below 1; in `check`, if it is not below the width of the
            feature; in `fit`, if ID images vary in fewer directions.

    Source:
        Ben Ammar et al., "NECO: NEural Collapse Based Out-of-distribution detection", ICLR 2024,
        https://arxiv.org/abs/2310.06823.
    Fitted on:
        All ID training images.
    Needs:
        Penultimate feature, logits.
    Differs:
        The authors take 100 of 768 dimensions, and name 90 % of the variance as a rule; in a
        network that has collapsed it leaves out the direction of a class. For DeiT and Swin they
        divide by the length of the raw feature. A dimension that is constant among ID images is
        centred, not rescaled. A feature that equals the mean scores 0. With `max_logit`, logits
        below zero reverse the score.
    """

    def __init__(self, dimension: int | None = None, *, max_logit: bool = False) -> None:
        super().__init__()
        if dimension is not None and dimension < 1:
            raise ValueError(
                f"expected a dimension of at least 1, got {dimension}; set None for the usual one"
            )
        self.dimension, self.max_logit = dimension, max_logit
        self.moments = Moments()
        self.learns("mean", "deviation", "basis")

    def check(self, network: Network) -> None:
        """Checks that the dimension is below the width of the feature.

        Raises:
            ValueError: If the subspace is the whole space, where the score is constant.
        """
        super().check(network)
        size = network.head.in_features
        if (self.dimension or 1) >= size:
            raise ValueError(
                f"expected a dimension below that of the feature, {size}, got "
                f"{self.dimension or 1}; set dimension=None, or use MaxLogit"
            )

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features."""
        self.moments.update(seen.feature)

    def fit(self, network: Network) -> None:
        """Computes mean, deviation and subspace."""
        self.check(network)
        moments = self.moments.compute()
        variance = moments.covariance.diagonal()
        varies = variance > CONSTANT * moments.mean.square()
        self.mean, self.deviation = moments.mean, torch.where(varies, variance, 1).sqrt()
        covariance = moments.covariance / torch.outer(self.deviation, self.deviation)
        covariance = torch.where(torch.outer(varies, varies), covariance, 0)
        self.basis = principal_directions(
            covariance, SHARE, at_least=collapsed_dimension(network), dimension=self.dimension
        )

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) shares in [0, 1], or these times the largest logits."""
        standard = (seen.feature.double() - self.mean) / self.deviation
        share: Tensor = (F.normalize(standard, dim=1) @ self.basis).norm(dim=1)
        return share * seen.logits.double().amax(dim=1) if self.max_logit else share

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"dimension={self.dimension}, max_logit={self.max_logit}"
