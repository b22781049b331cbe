"""Detectors that shape the penultimate feature and score the logits which follow from it."""

__all__ = ["ASH", "SCALE", "RescaledMap", "SelectedNorm", "Shaping", "check_percent", "head_of"]

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector, Wrapper, mean_pool
from src.detectors.logits import Energy
from src.metrics.statistics import Moments
from src.network import ForwardPass, Network

SMALLEST_LENGTH = 1e-12  # a map that is zero stays zero


class Shaping(Wrapper):
    """Lets another detector score the logits of a changed penultimate feature, in float64.

    Args:
        detector: scores logits; `Energy()` unless given.
    """

    def __init__(self, detector: Detector | None = None) -> None:
        super().__init__(Energy() if detector is None else detector)

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns the (B, D) feature that takes the place of the penultimate one."""
        raise NotImplementedError

    def reshaped(self, seen: ForwardPass) -> ForwardPass:
        """Returns the pass as if the network had gone on from the shaped feature."""
        feature = self.shape(seen).double()
        return replace(seen, feature=feature, logits=head_of(seen.network, feature))

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Hands the reshaped batch on."""
        self.detector.update(self.reshaped(seen), label, index)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores of the other detector."""
        return self.detector.score(self.reshaped(seen))


def head_of(network: Network, feature: Tensor) -> Tensor:
    """Returns the (B, K) logits of penultimate features (B, D), in the feature's precision."""
    bias = network.head.bias
    return F.linear(
        feature, network.head.weight.to(feature.dtype), None if bias is None else bias.to(feature)
    )


def check_percent(**percents: float) -> None:
    """Refuses what is no percentage.

    Raises:
        ValueError: if a value is not within 0..100.
    """
    for name, percent in percents.items():
        if not 0 <= percent <= 100:
            raise ValueError(f"expected {name} within 0..100 percent, got {percent}")


def strongest(activation: Tensor, percent: float) -> tuple[Tensor, Tensor]:
    """Returns the values and positions of all but `percent` of the activations (B, D)."""
    size = activation.shape[1]
    return activation.topk(max(1, size - round(size * percent / 100)), dim=1)


def total_over_kept(activation: Tensor, kept: Tensor) -> Tensor:
    """Returns (B, 1) sums of activations (B, D) over sums of those kept; 1 if none is active."""
    total, part = activation.sum(dim=1, keepdim=True), kept.sum(dim=1, keepdim=True)
    return torch.where(part > 0, total / part, 1)


class ASH(Shaping):
    r"""Activation shaping: the weakest activations are set to zero, the others are changed.

    With the sum \(s_1\) of all activations and \(s_2\) of the \(k\) kept, those kept stay as they
    are (`variant="p"`), all become \(s_1 / k\) ("b"), or are multiplied by \(\exp(s_1 / s_2)\)
    ("s").

    Args:
        detector: scores the logits; Energy unless given.
        variant: "p", "b" or "s".
        percent: of the activations to set to zero.

    Source:
        Djurisic et al., "Extremely Simple Activation Shaping for Out-of-Distribution Detection",
        ICLR 2023, https://arxiv.org/abs/2209.09858.
    Differs:
        It is made for non-negative features; a negative activation counts as zero.
    """

    def __init__(
        self,
        detector: Detector | None = None,
        *,
        variant: Literal["p", "b", "s"] = "s",
        percent: float = 90.0,
    ) -> None:
        super().__init__(detector)
        check_percent(percent=percent)
        if variant not in ("p", "b", "s"):
            raise ValueError(f"expected variant 'p', 'b' or 's', got {variant!r}")
        self.variant, self.percent = variant, percent

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) activations, most of them zero."""
        feature = seen.feature.double().relu()
        kept, place = strongest(feature, self.percent)
        if self.variant == "b":
            kept = (feature.sum(dim=1, keepdim=True) / kept.shape[1]).expand_as(kept)
        elif self.variant == "s":
            kept = kept * total_over_kept(feature, kept).exp()
        return torch.zeros_like(feature).scatter(1, place, kept)

    def extra_repr(self) -> str:
        """Names variant and percentage."""
        return f"variant={self.variant!r}, percent={self.percent}"


class SCALE(Shaping):
    r"""Scaling of the whole feature, \(h' = h \exp(s_1 / s_2)\), with the sums of `ASH`.

    Args:
        detector: scores the logits; Energy unless given.
        percent: of the activations that \(s_2\) leaves out.

    Source:
        Xu et al., "Scaling for Training Time and Post-hoc Out-of-distribution Detection
        Enhancement", ICLR 2024, https://arxiv.org/abs/2310.00227.
    Differs:
        A negative activation counts as zero in both sums.
    """

    def __init__(self, detector: Detector | None = None, *, percent: float = 85.0) -> None:
        super().__init__(detector)
        check_percent(percent=percent)
        self.percent = percent

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) activations, scaled."""
        feature = seen.feature.double()
        active = feature.relu()
        return feature * total_over_kept(active, strongest(active, self.percent)[0]).exp()

    def extra_repr(self) -> str:
        """Names the percentage."""
        return f"percent={self.percent}"


class SelectedNorm(Shaping):
    r"""The penultimate feature keeps its direction and takes the selected block's norm as length.

    With the FeatureNorm \(f\) of a block, \(h' = c f \, h / \|h\|_2\); \(c\) is 1, or the mean of
    \(\|h\|_2\) over the mean of \(f\) on ID images. A norm may be a hundredth of the feature's
    length (VGG11); the logits are then those of the head's bias, whatever the image, unless the
    length is matched.

    Args:
        detector: scores the logits: MSP, Energy; Energy unless given.
        at: a block's module path, "selected", or "each_block".
        match_length: whether ID features keep their mean length.

    Raises:
        ValueError: if the length is to be matched for a detector that is fitted itself, which
            would have to wait for it.

    Source:
        Yu et al., CVPR 2023, https://arxiv.org/abs/2212.02295, "previous methods with the selected
        norm"; the rule as the authors explain it in
        https://github.com/gist-ailab/block-selection-for-OOD-detection/issues/2.
    Fitted on:
        5,000 ID validation images if the length is matched, else none; no labels.
    Differs:
        Nothing, unless the length is matched, which is ours.
    """

    at: str

    def __init__(
        self,
        detector: Detector | None = None,
        *,
        at: str = "selected",
        match_length: bool = False,
    ) -> None:
        super().__init__(detector)
        self.at, self.match_length = at, match_length
        if match_length:
            if self.detector.is_fitted_on_data:
                raise ValueError(
                    "expected a detector without fit where the length is matched, got "
                    f"{type(self.detector).__name__}; set match_length=False"
                )
            self.fit_on = "validation"
            self.moments = Moments()
            self.learns("ratio")

    @property
    def is_fitted_on_data(self) -> bool:
        """Whether it matches the length, or the other one wants to see ID images."""
        return self.match_length or super().is_fitted_on_data

    def norm(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) norms of the block."""
        return seen.norm[seen.network.block(self.at)].double()

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) features of the block's norm as length; zero stays zero."""
        direction = F.normalize(seen.feature.double(), dim=1)
        length = self.norm(seen) * self.ratio if self.match_length else self.norm(seen)
        return length[:, None] * direction

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in norms and lengths."""
        if self.match_length:
            length = seen.feature.double().norm(dim=1)
            self.moments.update(torch.stack([length, self.norm(seen)], dim=1))
        else:
            super().update(seen, label, index)

    def fit(self, network: Network) -> None:
        """Finds the ratio of both means."""
        if self.match_length:
            length, norm = self.moments.compute().mean
            self.ratio = length / norm
        else:
            super().fit(network)

    def extra_repr(self) -> str:
        """Says where and how."""
        return f"at={self.at!r}, match_length={self.match_length}"


class RescaledMap(Wrapper):
    r"""Scores the logits that follow from a block's map \(F / \|\mathrm{GAP}(F)\|_2\).

    Args:
        detector: scores logits, without a fit: MSP, Energy.
        at: a block's module path, "selected", or "each_block".

    Raises:
        ValueError: if the other detector is fitted.

    Source:
        Experimental: an alternative to `SelectedNorm`, which two unused functions of the authors'
        `utils/metric.py` hint at, https://github.com/gist-ailab/block-selection-for-OOD-detection;
        there the map that enters the last stage is divided.
    """

    at: str

    def __init__(self, detector: Detector, *, at: str = "selected") -> None:
        super().__init__(detector)
        if detector.is_fitted_on_data:
            raise ValueError(
                f"expected a detector without fit, got {type(detector).__name__}; MSP and Energy "
                "are such"
            )
        self.at = at

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores of the other detector, after one more forward pass."""
        network, block = seen.network, seen.network.block(self.at)

        def change(output: Tensor) -> Tensor:
            pooled = mean_pool(network.places[block].feature_map(output)).float()
            length = torch.linalg.vector_norm(pooled, dim=1).clamp_min(SMALLEST_LENGTH)
            rescaled: Tensor = output / length.view(-1, *[1] * (output.ndim - 1))
            return rescaled.to(output.dtype)

        with network.changed(block, change):
            return self.detector.score(network.observe(seen.image, keep_maps=False))

    def extra_repr(self) -> str:
        """Says where."""
        return f"at={self.at!r}"
