"""Detectors that score the norm of an activation."""

__all__ = ["NAN", "DividedByNAN", "FeatureNorm", "NormProduct"]

from collections.abc import Iterable

import torch
from torch import Tensor

from src.detectors.base import Detector, FeatureDetector, Wrapper
from src.metrics.statistics import Moments
from src.network import ForwardPass, Network, Reader

SMALLEST_NAN = 1e-6  # an image that activates nothing is far away, but not infinitely far


class FeatureNorm(Detector):
    """FeatureNorm of one block: ID images activate it more strongly.

    Args:
        at: a block's module path; "selected", the block of largest NormRatio; or "each_block",
            one column for every block.

    Source:
        Yu et al., "Block Selection Method for Using Feature Norm in Out-of-distribution
        Detection", CVPR 2023, https://arxiv.org/abs/2212.02295, section 3.
    """

    at: str

    def __init__(self, at: str = "selected") -> None:
        super().__init__()
        self.at = at

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) norms."""
        return seen.norm[seen.network.block(self.at)]

    def extra_repr(self) -> str:
        """Says where."""
        return f"at={self.at!r}"


def positive_mean(activation: Tensor) -> Tensor:
    """Returns the (B,) mean of the activations (B, ...) above zero; 0 where none is."""
    positive = activation.float().flatten(1).relu()
    return positive.sum(dim=1) / positive.count_nonzero(dim=1).clamp_min(1)


class NAN(FeatureDetector):
    r"""Negative-aware norm, \(\|a\|_1 / \|a\|_0\) of the rectified activation: its positive mean.

    Args:
        at: a block's module path, "selected", or "each_block"; None for the penultimate feature.
        pool_first: whether to take the spatial mean of a block's map before the norm; otherwise
            every position of the map counts.

    Raises:
        ValueError: if the penultimate feature, which is a vector, is not to be pooled first.

    Source:
        Park et al., "Understanding the Feature Norm for Out-of-Distribution Detection",
        ICCV 2023, https://arxiv.org/abs/2310.05316.
    Differs:
        Activations below zero, of a layer without ReLU, count as deactivated. The paper does not
        say whether pooling comes first.
    """

    def __init__(self, at: str | None = None, *, pool_first: bool = True) -> None:
        super().__init__(at)
        if at is None and not pool_first:
            raise ValueError(
                "expected a block whose map is not pooled, got at=None; set at: <block>"
            )
        self.pool_first = pool_first

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Names the mean, or the positive mean, of the block's map."""
        if self.pool_first:
            return super().reads(network)
        return ((network.block(str(self.at)), positive_mean),)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) norms, at least 0."""
        if self.pool_first:
            return positive_mean(self.feature(seen))
        return seen.read(seen.network.block(str(self.at)), positive_mean)

    def extra_repr(self) -> str:
        """Says where and of what."""
        return f"at={self.at!r}, pool_first={self.pool_first}"


class DividedByNAN(Wrapper):
    """A distance over NAN of the penultimate feature: far, and weakly activated, is OOD.

    Args:
        detector: scores a negative distance, as `KNN` does.

    Source:
        Park et al., ICCV 2023, https://arxiv.org/abs/2310.05316.
    Differs:
        A NAN below 1e-6 counts as 1e-6.
    """

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative distances, in units of the distance over the activation."""
        return self.detector.score(seen) / positive_mean(seen.feature).clamp_min(SMALLEST_NAN)


class NormProduct(Wrapper):
    """Another detector's score times the FeatureNorm of a block.

    Args:
        detector: gives a score above zero, unless standardised.
        at: a block's module path, "selected", or "each_block".
        standardize: whether both are standardised on ID images and mapped by the normal
            distribution function to (0, 1) first.

    Raises:
        ValueError: if the other detector is fitted too, which it would have to be before.

    Source:
        Experimental: two alternatives to `SelectedNorm`; `RescaledMap` is a third.
    Fitted on:
        All ID training images if standardised, else none; no labels.
    """

    at: str

    def __init__(
        self, detector: Detector, *, at: str = "selected", standardize: bool = False
    ) -> None:
        super().__init__(detector)
        if standardize and detector.is_fitted_on_data:
            raise ValueError(
                "expected a detector without fit to be standardised, got "
                f"{type(detector).__name__}; set standardize=False"
            )
        self.at, self.standardize = at, standardize
        self.moments = Moments()
        self.learns("mean", "deviation")

    @property
    def is_fitted_on_data(self) -> bool:
        """Whether it standardises, or the other one wants to see ID images."""
        return self.standardize or super().is_fitted_on_data

    def both(self, seen: ForwardPass) -> Tensor:
        """Returns (B, 2) norms and scores."""
        norm = seen.norm[seen.network.block(self.at)].double()
        return torch.stack([norm, self.detector.score(seen).double()], dim=1)

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in both."""
        if self.standardize:
            self.moments.update(self.both(seen))
        else:
            super().update(seen, label, index)

    def fit(self, network: Network) -> None:
        """Finds mean and deviation of both."""
        if self.standardize:
            moments = self.moments.compute()
            self.mean, self.deviation = moments.mean, moments.covariance.diagonal().sqrt()
        else:
            super().fit(network)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) products."""
        both = self.both(seen)
        if self.standardize:
            both = torch.special.ndtr((both - self.mean) / self.deviation)
        return both.prod(dim=1)

    def extra_repr(self) -> str:
        """Says where and how."""
        return f"at={self.at!r}, standardize={self.standardize}"
