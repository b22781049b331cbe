"""Detectors that learn from ID images how to shape the penultimate feature, or the head."""

__all__ = ["DICE", "VRA", "ReAct"]

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector
from src.detectors.shaping import Shaping, check_percent
from src.metrics.statistics import Bank, Mean
from src.network import ForwardPass, Network

QUANTILE_ROWS = 10_000  # ID images, chosen by hashed index, whose activations give percentiles


class LearnedShaping(Shaping):
    """Shaping that learns from ID images itself, before which its detector cannot.

    Raises:
        ValueError: if the other detector is fitted too.
    """

    def __init__(self, detector: Detector | None = None) -> None:
        super().__init__(detector)
        if self.detector.is_fitted_on_data:
            raise ValueError(
                f"expected a detector without fit within {type(self).__name__}, got "
                f"{type(self.detector).__name__}; choose Energy, MSP, MaxLogit or the like"
            )
        self.fit_on = "train"

    @property
    def is_fitted_on_data(self) -> bool:
        """Always."""
        return True


def percentile(activation: Tensor, percent: float) -> Tensor:
    """Returns the percentile of all values, interpolated linearly, of any number of values."""
    quantile = np.quantile(activation.cpu().numpy(), percent / 100)
    return torch.tensor(quantile, dtype=torch.float64, device=activation.device)


class ReAct(LearnedShaping):
    r"""Rectified activations, \(h' = \min(h, c)\).

    Args:
        detector: scores the logits; Energy unless given.
        percent: c is this percentile of all activations of ID images.

    Source:
        Sun et al., "ReAct: Out-of-distribution Detection With Rectified Activations",
        NeurIPS 2021, https://arxiv.org/abs/2111.12797.
    Fitted on:
        Penultimate features of 10,000 ID training images; no labels.
    Differs:
        OpenOOD takes validation images; other codes a constant of 1.0, made for one network.
    """

    def __init__(self, detector: Detector | None = None, *, percent: float = 90.0) -> None:
        super().__init__(detector)
        check_percent(percent=percent)
        self.percent = percent
        self.bank = Bank(QUANTILE_ROWS)
        self.learns("threshold")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in features."""
        self.bank.update(seen.feature.float(), index)

    def fit(self, network: Network) -> None:
        """Finds the threshold."""
        self.threshold = percentile(self.bank.compute(), self.percent)

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) activations, none above the threshold."""
        return seen.feature.double().clamp_max(self.threshold)

    def extra_repr(self) -> str:
        """Names the percentile."""
        return f"percent={self.percent}"


class VRA(LearnedShaping):
    r"""Variational rectified activation: 0 below \(\alpha\), at most \(\beta\).

    Args:
        detector: scores the logits; Energy unless given.
        low: alpha is this percentile of all activations of ID images.
        high: beta is this one.

    Source:
        Xu et al., "VRA: Variational Rectified Activation for Out-of-distribution Detection",
        NeurIPS 2023, https://arxiv.org/abs/2302.11716.
    Fitted on:
        Penultimate features of 10,000 ID training images; no labels.
    Differs:
        OpenOOD raises activations below alpha to alpha, and takes validation images.
    """

    def __init__(
        self, detector: Detector | None = None, *, low: float = 10.0, high: float = 90.0
    ) -> None:
        super().__init__(detector)
        check_percent(low=low, high=high)
        if low > high:
            raise ValueError(f"expected low <= high, got {low} and {high}")
        self.low, self.high = low, high
        self.bank = Bank(QUANTILE_ROWS)
        self.learns("alpha", "beta")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in features."""
        self.bank.update(seen.feature.float(), index)

    def fit(self, network: Network) -> None:
        """Finds both thresholds."""
        row = self.bank.compute()
        self.alpha, self.beta = percentile(row, self.low), percentile(row, self.high)

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) activations, each 0 or between the thresholds."""
        feature = seen.feature.double()
        return feature.clamp_max(self.beta) * (feature >= self.alpha)

    def extra_repr(self) -> str:
        """Names the percentiles."""
        return f"low={self.low}, high={self.high}"


class DICE(LearnedShaping):
    r"""Directed sparsification: only the head's weights of largest mean contribution are kept.

    The contribution of a weight is \(W_{kj} \, \mathbb{E}[h_j]\); the feature stays as it is.

    Args:
        detector: scores the logits; Energy unless given.
        percent: of all weights, those of smallest contribution, to leave out.

    Source:
        Sun and Li, "DICE: Leveraging Sparsification for Out-of-Distribution Detection",
        ECCV 2022, https://arxiv.org/abs/2111.09805.
    Fitted on:
        Penultimate features of all ID training images; no labels.
    Differs:
        A contribution equal to the threshold is kept, so that `percent=0` is the network itself.
    """

    def __init__(self, detector: Detector | None = None, *, percent: float = 90.0) -> None:
        super().__init__(detector)
        check_percent(percent=percent)
        self.percent = percent
        self.mean = Mean()
        self.learns("weight")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in features."""
        self.mean.update(seen.feature)

    def fit(self, network: Network) -> None:
        """Masks the head."""
        weight = network.head.weight.detach().double()
        contribution = weight * self.mean.compute()
        self.weight = weight * (contribution >= percentile(contribution, self.percent))

    def reshaped(self, seen: ForwardPass) -> ForwardPass:
        """Returns the pass with the logits of the sparse head."""
        bias = seen.network.head.bias
        feature = seen.feature.double()
        logits = F.linear(feature, self.weight, None if bias is None else bias.double())
        return replace(seen, logits=logits)

    def extra_repr(self) -> str:
        """Names the percentage."""
        return f"percent={self.percent}"
