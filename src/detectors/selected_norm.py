"""Wrappers that combine another detector with the FeatureNorm of a block."""

__all__ = [
    "MatchedNorm",
    "NormProduct",
    "RescaledMap",
    "SelectedNorm",
    "StandardizedNormProduct",
]

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector, mean_pool
from src.detectors.logits import Energy
from src.detectors.shaping import Shaping
from src.detectors.wrapper import AtBlock
from src.metrics.statistics import Moments
from src.network import ForwardPass, Network

SMALLEST_LENGTH = 1e-12  # a map that is zero stays zero


class SelectedNorm(AtBlock, Shaping):
    r"""Logits of the penultimate feature rescaled to the norm of the selected block.

    With the FeatureNorm \(f\) of a block, the feature becomes \(h' = f \, h / \|h\|_2\): it keeps
    its direction and takes the norm as its length. A norm may be a hundredth of the feature's
    length, as in VGG11. The head's bias then dominates the logits of every image; `MatchedNorm`
    avoids this.

    Args:
        detector: A detector of logits, such as MSP. None takes `Energy()`.
        at: Module path of a block, "selected" or "each_block".

    Source:
        Yu et al., "Block Selection Method for Using Feature Norm in Out-of-distribution
        Detection", CVPR 2023, https://arxiv.org/abs/2212.02295, "previous methods with
        the selected norm". The authors explain the rule in
        https://github.com/gist-ailab/block-selection-for-OOD-detection/issues/2.
    Fitted on:
        The images of the wrapped detector.
    Needs:
        Norm of a block, penultimate feature, head.
    """

    def __init__(self, detector: Detector | None = None, *, at: str = "selected") -> None:
        super().__init__(Energy() if detector is None else detector, at)

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) features whose length is the norm of the block; zero stays zero."""
        direction = F.normalize(seen.feature.double(), dim=1)
        return self.norm(seen)[:, None] * direction


class MatchedNorm(SelectedNorm):
    r"""`SelectedNorm` with norms scaled to the mean length of the penultimate feature.

    \(h' = c f \, h / \|h\|_2\), where \(c\) is the mean of \(\|h\|_2\) over the mean of \(f\) on
    ID images.

    Args:
        detector: A detector of logits that is not fitted. None takes `Energy()`.
        at: Module path of a block, "selected" or "each_block".

    Raises:
        ValueError: If the wrapped detector is fitted: it would need the scale before it is known.

    Source:
        Experimental: our variant of `SelectedNorm`.
    Fitted on:
        All ID validation images.
    Needs:
        Norm of a block, penultimate feature, head.
    """

    def __init__(self, detector: Detector | None = None, *, at: str = "selected") -> None:
        super().__init__(detector, at=at)
        self.refuse_fitted()
        self.fit_on = "validation"
        self.moments = Moments()
        self.learns("ratio")

    @property
    def is_fitted_on_data(self) -> bool:
        """Always true."""
        return True

    def norm(self, seen: ForwardPass) -> Tensor:
        """Returns the (B,) scaled FeatureNorm of the wrapper's block, in float64."""
        scaled: Tensor = super().norm(seen) * self.ratio
        return scaled

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds norms and feature lengths."""
        length = seen.feature.double().norm(dim=1)
        self.moments.update(torch.stack([length, super().norm(seen)], dim=1))

    def fit(self, network: Network) -> None:
        """Computes the ratio of the means."""
        length, norm = self.moments.compute().mean
        self.ratio = length / norm


class NormProduct(AtBlock):
    """Product of another detector's score and the FeatureNorm of a block.

    Args:
        detector: A detector with scores above zero.
        at: Module path of a block, "selected" or "each_block".

    Source:
        Experimental: an alternative to `SelectedNorm`.
    Fitted on:
        The images of the wrapped detector.
    Needs:
        Norm of a block, score of the wrapped detector.
    """

    def __init__(self, detector: Detector, *, at: str = "selected") -> None:
        super().__init__(detector, at)

    def both(self, seen: ForwardPass) -> Tensor:
        """Returns (B, 2) norms and scores, in float64."""
        return torch.stack([self.norm(seen), self.detector.score(seen).double()], dim=1)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) products."""
        return self.both(seen).prod(dim=1)


class StandardizedNormProduct(NormProduct):
    r"""`NormProduct` of a score and a norm that are both mapped to (0, 1) first.

    Each is standardised by its mean and deviation on ID images and mapped by the distribution
    function of the normal distribution.

    Args:
        detector: A detector that is not fitted.
        at: Module path of a block, "selected" or "each_block".

    Raises:
        ValueError: If the wrapped detector is fitted: its scores are needed while fitting.

    Source:
        Experimental: an alternative to `SelectedNorm`.
    Fitted on:
        All ID training images.
    Needs:
        Norm of a block, score of the wrapped detector.
    """

    def __init__(self, detector: Detector, *, at: str = "selected") -> None:
        super().__init__(detector, at=at)
        self.refuse_fitted()
        self.moments = Moments()
        self.learns("mean", "deviation")

    @property
    def is_fitted_on_data(self) -> bool:
        """Always true."""
        return True

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds norms and scores."""
        self.moments.update(self.both(seen))

    def fit(self, network: Network) -> None:
        """Computes the mean and deviation of norms and scores."""
        moments = self.moments.compute()
        self.mean, self.deviation = moments.mean, moments.covariance.diagonal().sqrt()

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) products, in (0, 1)."""
        share: Tensor = torch.special.ndtr((self.both(seen) - self.mean) / self.deviation)
        return share.prod(dim=1)


class RescaledMap(AtBlock):
    r"""Logits that follow from a block's feature map divided by the norm of its pooled map.

    The network continues from \(F / \|\mathrm{GAP}(F)\|_2\), with the map \(F\) and its spatial
    mean \(\mathrm{GAP}(F)\).

    Args:
        detector: A detector of logits that is not fitted, such as MSP or Energy.
        at: Module path of a block, "selected" or "each_block".

    Raises:
        ValueError: If the wrapped detector is fitted.

    Source:
        Experimental: an alternative to `SelectedNorm`. Two unused functions of the authors'
        `utils/metric.py` suggest it,
        https://github.com/gist-ailab/block-selection-for-OOD-detection.
    Fitted on:
        Nothing.
    Needs:
        Feature map of a block.
    Extra passes:
        One forward pass.
    Differs:
        The authors' functions divide the map that enters the last stage.
    """

    def __init__(self, detector: Detector, *, at: str = "selected") -> None:
        super().__init__(detector, at)
        self.refuse_fitted()

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores of the wrapped detector, after one more forward pass."""
        network, block = seen.network, seen.network.block(self.own_block)

        def change(output: Tensor) -> Tensor:
            pooled = mean_pool(network.places[block].feature_map(output)).float()
            length = torch.linalg.vector_norm(pooled, dim=1).clamp_min(SMALLEST_LENGTH)
            rescaled: Tensor = output / length.view(-1, *[1] * (output.ndim - 1))
            return rescaled.to(output.dtype)

        with network.changed(block, change):
            return self.detector.score(network.observe(seen.image, keep_maps=False))
