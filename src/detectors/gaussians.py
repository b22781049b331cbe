"""Detectors that fit Gaussians to features of ID images."""

__all__ = ["RMDS", "Mahalanobis", "MultiLayerMahalanobis"]

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.detectors.base import BlocksDetector, FeatureDetector, mean_pool
from src.metrics.statistics import ClassMoments, Gaussian
from src.network import ForwardPass, Network, Reader

# relative to the largest variance plus squared mean: what rounding leaves of a constant direction,
# which is dropped
SMALLEST_VARIANCE = 1e-12


def whitening(gaussian: Gaussian) -> Tensor:
    """Returns the (D, R) matrix that turns Euclidean distances of rows into Mahalanobis distances.

    Raises:
        ValueError: If every feature is constant.
    """
    variance, direction = torch.linalg.eigh(gaussian.covariance)
    square = gaussian.mean.nan_to_num().square().sum(dim=-1).amax()
    kept = variance > SMALLEST_VARIANCE * (variance[-1].clamp_min(0) + square)
    if not kept.any():
        raise ValueError(
            "expected features that vary among ID images, got constant ones; use more images or "
            "another block"
        )
    whitened: Tensor = direction[:, kept] / variance[kept].sqrt()
    return whitened


def total(within: Gaussian) -> Gaussian:
    """Returns the moments of all rows, computed from those of the classes."""
    count = within.count.sum()
    share = (within.count / count)[:, None]
    mean = (share * within.mean).nansum(dim=0)
    offset = (share.sqrt() * (within.mean - mean)).nan_to_num()
    return Gaussian(count, mean, within.covariance + offset.mT @ offset)


class Mahalanobis(FeatureDetector):
    r"""Negative squared Mahalanobis distance to the nearest class mean.

    \(\max_k -(h - \mu_k)^\top \Sigma^{-1} (h - \mu_k)\), with one covariance for all classes.

    Args:
        at: Module path of a block, "selected" or "each_block". None reads the penultimate
            feature.
        normalize: Whether to divide features by their length first (Mahalanobis++).

    Raises:
        ValueError: In `update`, if an image is unlabelled; in `fit`, if the features are constant.

    Source:
        Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", NeurIPS 2018, https://arxiv.org/abs/1807.03888, Eq. 2.
        `normalize`: Mueller and Hein, "Mahalanobis++", ICML 2025,
        https://arxiv.org/abs/2505.18032.
    Fitted on:
        All ID training images, with labels. A class without images is ignored.
    Needs:
        Penultimate feature, or feature map of a block.
    Differs:
        One layer and no input step. Directions in which ID images do not vary are ignored. With a
        single class, the score is the distance from the Gaussian of that class.
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
        """Adds features and labels."""
        self.moments.update(self.feature(seen), label, seen.network.num_classes)

    def fit(self, network: Network) -> None:
        """Computes the whitening and the class means."""
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
        """Describes the block and the normalisation."""
        return f"at={self.at!r}, normalize={self.normalize}"


def nearest(row: Tensor, mean: Tensor) -> Tensor:
    """Returns (B,) squared distances of rows (B, R) to the nearest of (K, R) means."""
    centre = mean.mean(dim=0)  # without it, rows far from the origin lose their digits
    return distances(row - centre, mean - centre).amin(dim=1).square()


def distances(row: Tensor, mean: Tensor, **options: Any) -> Tensor:
    """Returns (B, K) Euclidean distances of rows (B, R) to (K, R) means.

    Args:
        row: Rows.
        mean: Means.
        options: Of `torch.cdist`, which chooses its way by the number of rows. A graph that is
            exported has no number of rows yet, and goes the plain way.
    """
    if torch.compiler.is_exporting():
        return (row[:, None] - mean).square().sum(dim=2).sqrt()
    return torch.cdist(row, mean, **options)


class RMDS(Mahalanobis):
    r"""Mahalanobis distance relative to the distance from one Gaussian of all images.

    \(\max_k -(d_k - d_0)\), with the squared distances \(d_k\) of `Mahalanobis` and the squared
    distance \(d_0\) from the Gaussian of all images.

    Args:
        at: Module path of a block, "selected" or "each_block". None reads the penultimate
            feature.
        normalize: Whether to divide features by their length first.

    Raises:
        ValueError: See `Mahalanobis`; also in `fit`, if all images belong to one class, for which
            every score would be 0.

    Source:
        Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
        arXiv 2021, https://arxiv.org/abs/2106.09022.
    Fitted on:
        All ID training images, with labels.
    Needs:
        Penultimate feature, or feature map of a block.
    """

    compares_classes = True

    def __init__(self, at: str | None = None, *, normalize: bool = False) -> None:
        super().__init__(at, normalize=normalize)
        self.learns("background_whitening", "background_mean")

    def fit(self, network: Network) -> None:
        """Computes the whitening within classes and over all images."""
        super().fit(network)
        if len(self.mean) < 2:
            raise ValueError(
                "expected ID images of at least two classes, got one, for which RMDS is always 0; "
                "use Mahalanobis"
            )
        background = total(self.moments.compute())
        self.background_whitening = whitening(background)
        self.background_mean = background.mean[None] @ self.background_whitening

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) differences of squared distances."""
        row = self.feature(seen) @ self.background_whitening
        return nearest(row, self.background_mean) - self.squared_distance(seen)


class MultiLayerMahalanobis(BlocksDetector):
    r"""Mean over blocks of the Mahalanobis score, each divided by its mean on ID images.

    On average, the squared distance of a training image to the mean of its own class is the rank
    of the covariance. Dividing by the rank gives every block the same weight without OOD images.

    Args:
        blocks: Module paths. None takes all blocks.
        normalize: Whether to divide features by their length first.

    Raises:
        ValueError: See `Mahalanobis`.

    Source:
        Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", NeurIPS 2018, https://arxiv.org/abs/1807.03888, section 2.2.
    Fitted on:
        All ID training images, with labels.
    Needs:
        Feature maps of blocks.
    Differs:
        The paper weighs layers by logistic regression on OOD images and adds an input step.
    """

    def __init__(self, blocks: Sequence[str] | None = None, *, normalize: bool = False) -> None:
        super().__init__(blocks)
        self.normalize = normalize
        self.layers = nn.ModuleList()

    def layers_of(self, network: Network) -> list[Mahalanobis]:
        """Returns one detector per block; the first call creates them."""
        blocks = self.blocks_of(network)
        self._create(len(blocks))
        layers = cast(list[Mahalanobis], list(self.layers))
        for layer, block in zip(layers, blocks, strict=True):
            layer.at = block
        return layers

    def _create(self, count: int) -> None:
        while len(self.layers) < count:
            self.layers.append(Mahalanobis(normalize=self.normalize))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        saved = [key for key in state_dict if key.startswith(f"{prefix}layers.")]
        self._create(len({key.removeprefix(f"{prefix}layers.").split(".")[0] for key in saved}))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns the blocks and the reader of their spatial means."""
        return tuple((block, mean_pool) for block in self.blocks_of(network))

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds the features of each block."""
        for layer in self.layers_of(seen.network):
            layer.update(seen, label, index)

    def fit(self, network: Network) -> None:
        """Fits each block."""
        for layer in self.layers_of(network):
            layer.fit(network)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative relative distances; about -1 for ID images."""
        relative = [
            layer.score(seen) / layer.whitening.shape[1] for layer in self.layers_of(seen.network)
        ]
        return torch.stack(relative).mean(dim=0)

    def extra_repr(self) -> str:
        """Describes the blocks and the normalisation."""
        return f"{super().extra_repr()}, normalize={self.normalize}"
