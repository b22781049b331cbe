"""Detectors that fit Gaussians to features of ID images."""

__all__ = ["RMDS", "Mahalanobis", "MultiLayerMahalanobis"]

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.detectors.base import Detector, FeatureDetector
from src.metrics.statistics import ClassMoments, Gaussian
from src.network import ForwardPass, Network, Reader

# of the largest variance plus squared mean, from whose sums rounding leaves that much and no more:
# directions below it never varied, and are left out
SMALLEST_VARIANCE = 1e-12


def whitening(gaussian: Gaussian) -> Tensor:
    """Returns (D, R): rows times it have distances in the covariance's pseudo-inverse.

    Raises:
        ValueError: if nothing varies.
    """
    variance, direction = torch.linalg.eigh(gaussian.covariance)
    square = gaussian.mean.nan_to_num().square().sum(dim=-1).amax()
    kept = variance > SMALLEST_VARIANCE * (variance[-1].clamp_min(0) + square)
    if not kept.any():
        raise ValueError(
            "expected features that vary among ID images, got constant ones; give more images or "
            "another block"
        )
    whitened: Tensor = direction[:, kept] / variance[kept].sqrt()
    return whitened


def total(within: Gaussian) -> Gaussian:
    """Returns the moments of all rows from those of the classes."""
    count = within.count.sum()
    share = (within.count / count)[:, None]
    mean = (share * within.mean).nansum(dim=0)
    offset = (share.sqrt() * (within.mean - mean)).nan_to_num()
    return Gaussian(count, mean, within.covariance + offset.mT @ offset)


class Mahalanobis(FeatureDetector):
    r"""Negative squared Mahalanobis distance to the nearest class mean.

    \(\max_k -(h - \mu_k)^\top \Sigma^{-1} (h - \mu_k)\) with one covariance for all classes.

    Args:
        at: a block's module path, "selected", or "each_block"; None for the penultimate feature.
        normalize: whether features are divided by their length first (Mahalanobis++).

    Raises:
        ValueError: in `update`, if an image is unlabelled; in `fit`, if the features are constant.

    Source:
        Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", NeurIPS 2018, https://arxiv.org/abs/1807.03888, Eq. 2; normalised:
        Mueller and Hein, "Mahalanobis++", ICML 2025, https://arxiv.org/abs/2505.18032.
    Fitted on:
        All ID training images, with labels; a class without images is left out.
    Differs:
        One layer, no input step. In a direction that never varied, distances do not count. With
        one class it is the distance from that class's Gaussian.
    """

    def __init__(self, at: str | None = None, *, normalize: bool = False) -> None:
        super().__init__(at)
        self.normalize = normalize
        self.moments = ClassMoments()
        self.learns("whitening", "mean")

    def feature(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) features in float64."""
        feature = super().feature(seen).double()
        return F.normalize(feature, dim=1) if self.normalize else feature

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in features and labels."""
        self.moments.update(self.feature(seen), label, seen.network.num_classes)

    def fit(self, network: Network) -> None:
        """Whitens."""
        moments = self.moments.compute()
        self.whitening = whitening(moments)
        self.mean = moments.mean[moments.count > 0] @ self.whitening

    def squared_distance(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) squared distances to the nearest class mean."""
        return nearest(self.feature(seen) @ self.whitening, self.mean)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative squared distances, at most 0."""
        return -self.squared_distance(seen)

    def extra_repr(self) -> str:
        """Says where and how."""
        return f"at={self.at!r}, normalize={self.normalize}"


def nearest(row: Tensor, mean: Tensor) -> Tensor:
    """Returns (B,) squared distances of rows (B, R) to the nearest of (K, R) means."""
    centre = mean.mean(dim=0)  # far from the origin, matrix products would lose the distance
    return torch.cdist(row - centre, mean - centre).amin(dim=1).square()


class RMDS(Mahalanobis):
    r"""Mahalanobis distance relative to that from one Gaussian of all images.

    \(\max_k -(d_k - d_0)\) with the squared distances \(d_k\) of `Mahalanobis` and \(d_0\).

    Args:
        at: a block's module path, "selected", or "each_block"; None for the penultimate feature.
        normalize: whether features are divided by their length first (the `++` form).

    Raises:
        ValueError: as of `Mahalanobis`; in `fit`, if all images are of one class, of which every
            score would be 0.

    Source:
        Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection", 2021,
        https://arxiv.org/abs/2106.09022.
    Fitted on:
        All ID training images, with labels.
    """

    def __init__(self, at: str | None = None, *, normalize: bool = False) -> None:
        super().__init__(at, normalize=normalize)
        self.learns("background_whitening", "background_mean")

    def fit(self, network: Network) -> None:
        """Whitens within classes and over all of them."""
        super().fit(network)
        if len(self.mean) < 2:
            raise ValueError(
                "expected ID images of at least two classes, got one, from which RMDS cannot tell "
                "its background apart; use Mahalanobis"
            )
        background = total(self.moments.compute())
        self.background_whitening = whitening(background)
        self.background_mean = background.mean[None] @ self.background_whitening

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) differences of squared distances."""
        row = self.feature(seen) @ self.background_whitening
        return nearest(row, self.background_mean) - self.squared_distance(seen)


class MultiLayerMahalanobis(Detector):
    r"""Mean over blocks of the Mahalanobis score, each divided by its mean on ID images.

    The squared distance of a training image to its own class mean is the rank of the covariance
    on average, so that each block counts alike and no OOD image is needed to weigh them.

    Args:
        blocks: module paths; None for all blocks of the network.
        normalize: whether features are divided by their length first.

    Raises:
        ValueError: if `blocks` is empty; else as of `Mahalanobis`.

    Source:
        Lee et al., NeurIPS 2018, https://arxiv.org/abs/1807.03888, section 2.2.
    Fitted on:
        All ID training images, with labels.
    Differs:
        The paper weighs layers by logistic regression on OOD images, and adds an input step.
    """

    def __init__(self, blocks: Sequence[str] | None = None, *, normalize: bool = False) -> None:
        super().__init__()
        self.blocks = None if blocks is None else tuple(blocks)
        if self.blocks == ():
            raise ValueError("expected at least one block, got none; blocks=None takes all")
        self.normalize = normalize
        self.layers = nn.ModuleList()

    def of_blocks(self, network: Network) -> list[Mahalanobis]:
        """Returns one detector per block, made when the network is first seen."""
        blocks = network.blocks if self.blocks is None else self.blocks
        self._have(len(blocks))
        layers = cast(list[Mahalanobis], list(self.layers))
        for layer, block in zip(layers, blocks, strict=True):
            layer.at = network.block(block)
        return layers

    def _have(self, count: int) -> None:
        while len(self.layers) < count:
            self.layers.append(Mahalanobis(normalize=self.normalize))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        saved = [key for key in state_dict if key.startswith(f"{prefix}layers.")]
        self._have(len({key.removeprefix(f"{prefix}layers.").split(".")[0] for key in saved}))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Names the means of the blocks' maps."""
        return [pair for layer in self.of_blocks(network) for pair in layer.reads(network)]

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in the features of each block."""
        for layer in self.of_blocks(seen.network):
            layer.update(seen, label, index)

    def fit(self, network: Network) -> None:
        """Fits each block."""
        for layer in self.of_blocks(network):
            layer.fit(network)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative relative distances; about -1 for ID images."""
        relative = [
            layer.score(seen) / layer.whitening.shape[1] for layer in self.of_blocks(seen.network)
        ]
        return torch.stack(relative).mean(dim=0)

    def extra_repr(self) -> str:
        """Says where and how."""
        return f"blocks={self.blocks!r}, normalize={self.normalize}"
