"""Detectors that change the penultimate feature and score the logits of the changed feature."""

__all__ = ["ASH", "SCALE", "Shaping", "check_percent"]

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from src.detectors.base import Detector
from src.detectors.logits import Energy
from src.detectors.wrapper import Wrapper
from src.network import ForwardPass


class Shaping(Wrapper):
    """Another detector on the logits of a changed penultimate feature, in float64.

    Args:
        detector: A detector of logits. None takes `Energy()`.
    """

    def __init__(self, detector: Detector | None = None) -> None:
        super().__init__(Energy() if detector is None else detector)

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns the (B, D) feature that replaces the penultimate one."""
        raise NotImplementedError

    def reshaped(self, seen: ForwardPass) -> ForwardPass:
        """Returns the pass of a network that continues from the changed feature."""
        feature = self.shape(seen).double()
        return replace(seen, feature=feature, logits=seen.network.logits_of(feature))

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Passes the changed batch to the wrapped detector."""
        self.detector.update(self.reshaped(seen), label, index)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores of the wrapped detector."""
        return self.detector.score(self.reshaped(seen))


def check_percent(**percents: float) -> None:
    """Checks that values are percentages.

    Raises:
        ValueError: If a value is not within 0..100.
    """
    for name, percent in percents.items():
        if not 0 <= percent <= 100:
            raise ValueError(f"expected {name} within 0..100 percent, got {percent}; correct it")


def strongest(activation: Tensor, percent: float) -> tuple[Tensor, Tensor]:
    """Returns values and positions of the activations (B, D) without the lowest `percent`."""
    size = activation.shape[1]
    return activation.topk(max(1, size - round(size * percent / 100)), dim=1)


def total_over_kept(activation: Tensor, kept: Tensor) -> Tensor:
    """Returns (B, 1): the sum of all activations over that of the kept ones, 1 if none is kept."""
    total, part = activation.sum(dim=1, keepdim=True), kept.sum(dim=1, keepdim=True)
    return torch.where(part > 0, total / part, 1)


class ASH(Shaping):
    r"""Activation shaping: sets weak activations to zero and changes the others.

    Let \(s_1\) be the sum of all activations and \(s_2\) the sum of the \(k\) that are kept. With
    `variant="p"` these stay as they are, with "b" each becomes \(s_1 / k\), and with "s" each is
    multiplied by \(\exp(s_1 / s_2)\).

    Args:
        detector: A detector of logits. None takes `Energy()`.
        variant: How to change the activations that are kept: "p", "b" or "s".
        percent: Percentage of the activations to set to zero.

    Raises:
        ValueError: If the variant is unknown or the percentage is not within 0..100.

    Source:
        Djurisic et al., "Extremely Simple Activation Shaping for Out-of-Distribution Detection",
        ICLR 2023, https://arxiv.org/abs/2209.09858.
    Fitted on:
        The images of the wrapped detector.
    Needs:
        Penultimate feature, head.
    Differs:
        The method assumes non-negative features; a negative activation counts as zero.
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
            raise ValueError(f"expected variant 'p', 'b' or 's', got {variant!r}; choose one")
        self.variant, self.percent = variant, percent

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) features, most of whose activations are zero."""
        feature = seen.feature.double().relu()
        kept, place = strongest(feature, self.percent)
        if self.variant == "b":
            kept = (feature.sum(dim=1, keepdim=True) / kept.shape[1]).expand_as(kept)
        elif self.variant == "s":
            kept = kept * total_over_kept(feature, kept).exp()
        return torch.zeros_like(feature).scatter(1, place, kept)

    def extra_repr(self) -> str:
        """Describes the variant and the percentage."""
        return f"variant={self.variant!r}, percent={self.percent}"


class SCALE(Shaping):
    r"""Activation scaling: multiplies the whole feature by a factor of each image.

    \(h' = h \exp(s_1 / s_2)\), with the sums of `ASH`.

    Args:
        detector: A detector of logits. None takes `Energy()`.
        percent: Percentage of the activations that \(s_2\) leaves out.

    Raises:
        ValueError: If the percentage is not within 0..100.

    Source:
        Xu et al., "Scaling for Training Time and Post-hoc Out-of-distribution Detection
        Enhancement", ICLR 2024, https://arxiv.org/abs/2310.00227.
    Fitted on:
        The images of the wrapped detector.
    Needs:
        Penultimate feature, head.
    Differs:
        A negative activation counts as zero in both sums.
    """

    def __init__(self, detector: Detector | None = None, *, percent: float = 85.0) -> None:
        super().__init__(detector)
        check_percent(percent=percent)
        self.percent = percent

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) scaled features."""
        feature = seen.feature.double()
        active = feature.relu()
        return feature * total_over_kept(active, strongest(active, self.percent)[0]).exp()

    def extra_repr(self) -> str:
        """Describes the percentage."""
        return f"percent={self.percent}"
