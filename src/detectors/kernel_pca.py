"""Kernel PCA: distance from the principal subspace of ID images, after a non-linear map."""

__all__ = ["CoP", "CoRP"]

from math import pi, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector
from src.detectors.subspaces import collapsed_dimension, principal_directions
from src.metrics.statistics import Moments
from src.network import ForwardPass, Network


class CoP(Detector):
    r"""Negative reconstruction error of PCA with a cosine kernel: of features of length 1.

    This is \(-\|(I - U U^\top)(f - \mu)\|_2\) with \(f = h / \|h\|_2\). The columns of \(U\) are
    the directions in which ID images vary most.

    Args:
        share: Part of the variance of ID images to explain, with as few directions as can be. None
            explains 0.9, with at least one direction less than there are classes.

    Raises:
        ValueError: If the share is not between 0 and 1; in `fit`, if the mapped features of ID
            images are constant.

    Source:
        Fang et al., "Kernel PCA for Out-of-Distribution Detection", NeurIPS 2024,
        https://arxiv.org/abs/2402.02949; https://github.com/fanghenshaometeor/ood-kernel-pca.
    Fitted on:
        All ID training images.
    Needs:
        Penultimate feature.
    Differs:
        The authors set the share for each network, from 0.7 to 0.99. At least one direction is
        left out. A feature of zero has no direction and stays zero.
    """

    usual = 0.9  # share of the variance if none is given

    def __init__(self, share: float | None = None) -> None:
        super().__init__()
        if share is not None and not 0 < share < 1:
            raise ValueError(
                f"expected a share of the variance between 0 and 1, got {share}; "
                "set None for the usual one"
            )
        self.share = share
        self.moments = Moments()
        self.learns("mean", "basis")

    def mapped(self, feature: Tensor) -> Tensor:
        """Returns the (B, M) mapped features of (B, D), in float64."""
        return F.normalize(feature.double(), dim=1)

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds mapped features."""
        self.moments.update(self.mapped(seen.feature))

    def fit(self, network: Network) -> None:
        """Computes the mean and the subspace."""
        moments = self.moments.compute()
        self.mean = moments.mean
        if self.share is not None:
            self.basis = principal_directions(moments.covariance, self.share)
        else:
            fewest = collapsed_dimension(network)
            self.basis = principal_directions(moments.covariance, self.usual, at_least=fewest)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative errors, at most 0."""
        centred = self.mapped(seen.feature) - self.mean
        error: Tensor = (centred - centred @ self.basis @ self.basis.mT).norm(dim=1)
        return -error

    def extra_repr(self) -> str:
        """Describes the share."""
        return f"share={self.share}"


class CoRP(CoP):
    r"""`CoP` with a Gaussian kernel on top, approximated by random Fourier features.

    It maps \(g = h / \|h\|_2\) to \(f = \sqrt{2 / M} \cos(A g + c)\), with \(A_{ij} \sim N(0, 2
    \gamma)\) and \(c_i \sim U(0, 2 \pi)\), so that \(\langle f, f' \rangle \approx
    \exp(-\gamma \|g - g'\|^2)\).

    Args:
        share: See `CoP`. None explains 0.8.
        gamma: Inverse width of the kernel.
        width: Number M of random features.
        seed: Seed of the random features.

    Raises:
        ValueError: If an argument is out of range; in `fit`, as `CoP`.

    Source:
        Fang et al., "Kernel PCA for Out-of-Distribution Detection", NeurIPS 2024,
        https://arxiv.org/abs/2402.02949; https://github.com/fanghenshaometeor/ood-kernel-pca.
    Fitted on:
        All ID training images.
    Needs:
        Penultimate feature.
    Differs:
        The defaults are those of the authors for ResNet18 on CIFAR-10; they set share, gamma and
        width for each network.
    """

    usual = 0.8

    def __init__(
        self,
        share: float | None = None,
        *,
        gamma: float = 2.0,
        width: int = 2048,
        seed: int = 0,
    ) -> None:
        super().__init__(share)
        if gamma <= 0 or width < 2:
            raise ValueError(
                "expected gamma above 0 and a width of at least 2, got "
                f"gamma={gamma}, width={width}; 2 and 2048 are usual"
            )
        self.gamma, self.width, self.seed = gamma, width, seed
        self.learns("frequency", "phase")

    def mapped(self, feature: Tensor) -> Tensor:
        """Returns the (B, M) random features of (B, D), in float64."""
        angle: Tensor = super().mapped(feature) @ self.frequency + self.phase
        return sqrt(2 / self.width) * angle.cos()

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds random features."""
        self.draw(seen.feature)
        super().update(seen, label, index)

    def fit(self, network: Network) -> None:
        """Computes the mean and the subspace."""
        self.draw(network.head.weight)
        super().fit(network)

    def draw(self, row: Tensor) -> None:
        """Draws frequencies and phases for the width of rows (N, D), unless they are known."""
        if self._buffers["frequency"] is not None:
            return
        generator = torch.Generator().manual_seed(self.seed)
        shape = (row.shape[1], self.width)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        uniform = torch.rand(self.width, generator=generator, dtype=torch.float64)
        self.frequency = (sqrt(2 * self.gamma) * normal).to(row.device)
        self.phase = (2 * pi * uniform).to(row.device)

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"share={self.share}, gamma={self.gamma}, width={self.width}, seed={self.seed}"
