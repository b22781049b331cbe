"""Detectors that score the norm of an activation."""

__all__ = ["NAN", "DividedByNAN", "FeatureNorm"]

from collections.abc import Iterable

from torch import Tensor

from src.detectors.base import Detector, FeatureDetector
from src.detectors.wrapper import Wrapper
from src.network import ForwardPass, Network, Reader

SMALLEST_NAN = 1e-6  # keeps the distance of an image without any activation finite


class FeatureNorm(Detector):
    """FeatureNorm of one block: ID images activate the block more strongly.

    Args:
        at: Module path of a block; "selected" for the block of largest NormRatio; "each_block"
            for one column per block.

    Source:
        Yu et al., "Block Selection Method for Using Feature Norm in Out-of-distribution
        Detection", CVPR 2023, https://arxiv.org/abs/2212.02295, section 3.
    Fitted on:
        Nothing. `BlockSelection` selects the block on held-out ID images during training.
    Needs:
        Norm of a block.
    """

    at: str

    def __init__(self, at: str = "selected") -> None:
        super().__init__()
        self.at = at

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) norms."""
        return seen.norm[seen.network.block(self.at)]

    def extra_repr(self) -> str:
        """Describes the block."""
        return f"at={self.at!r}"


def positive_mean(activation: Tensor) -> Tensor:
    """Returns the (B,) mean of the positive activations in (B, ...); 0 if there are none."""
    positive = activation.float().flatten(1).relu()
    return positive.sum(dim=1) / positive.count_nonzero(dim=1).clamp_min(1)


class NAN(FeatureDetector):
    r"""Negative-aware norm: the mean of the positive activations.

    This is \(\|a\|_1 / \|a\|_0\) of the rectified activation \(a\).

    Args:
        at: Module path of a block, "selected" or "each_block". None reads the penultimate
            feature.
        pool_first: Whether to take the norm of the spatial mean of the block's map. Otherwise
            every position of the map counts.

    Raises:
        ValueError: If `pool_first` is false for the penultimate feature, which is a vector.

    Source:
        Park et al., "Understanding the Feature Norm for Out-of-Distribution Detection",
        ICCV 2023, https://arxiv.org/abs/2310.05316.
    Fitted on:
        Nothing.
    Needs:
        Penultimate feature, or feature map of a block.
    Differs:
        Negative activations of a layer without ReLU count as deactivated. The paper does not say
        whether pooling comes first.
    """

    def __init__(self, at: str | None = None, *, pool_first: bool = True) -> None:
        super().__init__(at)
        if at is None and not pool_first:
            raise ValueError("expected a block for pool_first=False, got at=None; set at: <block>")
        self.pool_first = pool_first

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns the block and the reader of its mean or of its positive mean."""
        if self.pool_first:
            return super().reads(network)
        return ((network.block(str(self.at)), positive_mean),)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) norms, at least 0."""
        if self.pool_first:
            return positive_mean(self.feature(seen))
        return seen.read(seen.network.block(str(self.at)), positive_mean)

    def extra_repr(self) -> str:
        """Describes the block and the pooling."""
        return f"at={self.at!r}, pool_first={self.pool_first}"


class DividedByNAN(Wrapper):
    """A negative distance divided by NAN of the penultimate feature.

    An image that is far away and activates the network weakly is out-of-distribution.

    Args:
        detector: A detector that scores a negative distance, such as `KNN`.

    Source:
        Park et al., "Understanding the Feature Norm for Out-of-Distribution Detection",
        ICCV 2023, https://arxiv.org/abs/2310.05316.
    Fitted on:
        The images of the wrapped detector.
    Needs:
        Penultimate feature, score of the wrapped detector.
    Differs:
        NAN is at least 1e-6.
    """

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative distances divided by the activation."""
        return self.detector.score(seen) / positive_mean(seen.feature).clamp_min(SMALLEST_NAN)
