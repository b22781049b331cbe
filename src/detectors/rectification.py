"""Detectors that learn from ID images how to change the penultimate feature or the head."""

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

QUANTILE_ROWS = 10_000  # ID images, chosen by hashed index, that define the percentiles


class LearnedShaping(Shaping):
    """Shaping that learns from ID images itself.

    Raises:
        ValueError: If the wrapped detector is fitted too: it would need the shaping before it is
            known.
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
        """Always true."""
        return True


def percentile(activation: Tensor, percent: float) -> Tensor:
    """Returns the percentile of all values, with linear interpolation."""
    quantile = np.quantile(activation.cpu().numpy(), percent / 100)
    return torch.tensor(quantile, dtype=torch.float64, device=activation.device)


class ReAct(LearnedShaping):
    r"""Rectified activations: clips the penultimate feature at a percentile of ID activations.

    \(h' = \min(h, c)\).

    Args:
        detector: A detector of logits that is not fitted. None takes `Energy()`.
        percent: Percentile of all activations of ID images that defines c.

    Raises:
        ValueError: If the percentile is not within 0..100 or the wrapped detector is fitted.

    Source:
        Sun et al., "ReAct: Out-of-distribution Detection With Rectified Activations",
        NeurIPS 2021, https://arxiv.org/abs/2111.12797.
    Fitted on:
        10,000 ID training images.
    Needs:
        Penultimate feature, head.
    Differs:
        OpenOOD takes validation images. Other code takes the constant c = 1.0, which suits one
        network.
    """

    def __init__(self, detector: Detector | None = None, *, percent: float = 90.0) -> None:
        super().__init__(detector)
        check_percent(percent=percent)
        self.percent = percent
        self.bank = Bank(QUANTILE_ROWS)
        self.learns("threshold")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features."""
        self.bank.update(seen.feature.float(), index)

    def fit(self, network: Network) -> None:
        """Computes the threshold."""
        self.threshold = percentile(self.bank.compute(), self.percent)

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) activations, clipped at the threshold."""
        return seen.feature.double().clamp_max(self.threshold)

    def extra_repr(self) -> str:
        """Describes the percentile."""
        return f"percent={self.percent}"


class VRA(LearnedShaping):
    r"""Variational rectified activation: sets weak activations to zero and clips strong ones.

    An activation becomes 0 below \(\alpha\) and \(\beta\) above \(\beta\).

    Args:
        detector: A detector of logits that is not fitted. None takes `Energy()`.
        low: Percentile of all activations of ID images that defines alpha.
        high: Percentile that defines beta.

    Raises:
        ValueError: If a percentile is not within 0..100, `low` exceeds `high`, or the wrapped
            detector is fitted.

    Source:
        Xu et al., "VRA: Variational Rectified Activation for Out-of-distribution Detection",
        NeurIPS 2023, https://arxiv.org/abs/2302.11716.
    Fitted on:
        10,000 ID training images.
    Needs:
        Penultimate feature, head.
    Differs:
        OpenOOD raises activations below alpha to alpha and takes validation images.
    """

    def __init__(
        self, detector: Detector | None = None, *, low: float = 10.0, high: float = 90.0
    ) -> None:
        super().__init__(detector)
        check_percent(low=low, high=high)
        if low > high:
            raise ValueError(f"expected low <= high, got {low} and {high}; exchange them")
        self.low, self.high = low, high
        self.bank = Bank(QUANTILE_ROWS)
        self.learns("alpha", "beta")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features."""
        self.bank.update(seen.feature.float(), index)

    def fit(self, network: Network) -> None:
        """Computes both thresholds."""
        row = self.bank.compute()
        self.alpha, self.beta = percentile(row, self.low), percentile(row, self.high)

    def shape(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) activations, each 0 or between the thresholds."""
        feature = seen.feature.double()
        return feature.clamp_max(self.beta) * (feature >= self.alpha)

    def extra_repr(self) -> str:
        """Describes the percentiles."""
        return f"low={self.low}, high={self.high}"


class DICE(LearnedShaping):
    r"""Directed sparsification: keeps the weights of the head with the largest mean contribution.

    The contribution of a weight is \(W_{kj} \, \mathbb{E}[h_j]\). The feature stays the same.

    Args:
        detector: A detector of logits that is not fitted. None takes `Energy()`.
        percent: Percentage of the weights to drop, those of smallest contribution.

    Raises:
        ValueError: If the percentage is not within 0..100 or the wrapped detector is fitted.

    Source:
        Sun and Li, "DICE: Leveraging Sparsification for Out-of-Distribution Detection",
        ECCV 2022, https://arxiv.org/abs/2111.09805.
    Fitted on:
        All ID training images.
    Needs:
        Penultimate feature, linear head.
    Differs:
        A contribution equal to the threshold is kept, so that `percent=0` leaves the network
        unchanged.
    """

    needs_linear_head = True

    def __init__(self, detector: Detector | None = None, *, percent: float = 90.0) -> None:
        super().__init__(detector)
        check_percent(percent=percent)
        self.percent = percent
        self.mean = Mean()
        self.learns("weight")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features."""
        self.mean.update(seen.feature)

    def fit(self, network: Network) -> None:
        """Computes the sparse weights of the head."""
        self.check(network)
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
        """Describes the percentage."""
        return f"percent={self.percent}"
