"""Detectors that score the logits."""

__all__ = ["MSP", "Energy", "MaxLogit"]

from torch import Tensor

from src.detectors.base import Detector
from src.network import ForwardPass


class MSP(Detector):
    r"""Maximum softmax probability, \(\max_k p_k\), in float64, where it does not saturate early.

    Source:
        Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples in Neural Networks", ICLR 2017, https://arxiv.org/abs/1610.02136.
    """

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) probabilities in [1/K, 1]."""
        return seen.logits.double().softmax(dim=1).amax(dim=1)


class MaxLogit(Detector):
    r"""Largest logit, \(\max_k l_k\).

    Source:
        Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings",
        ICML 2022, https://arxiv.org/abs/1911.11132.
    """

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) logits."""
        return seen.logits.amax(dim=1)


class Energy(Detector):
    r"""Negative free energy, \(T \log \sum_k \exp(l_k / T)\).

    Args:
        temperature: T, above zero.

    Raises:
        ValueError: if the temperature is not above zero.

    Source:
        Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020,
        https://arxiv.org/abs/2010.03759, Eq. 4.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"expected a temperature above zero, got {temperature}; 1 is usual")
        self.temperature = temperature

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative energies, in units of a logit."""
        return self.temperature * (seen.logits / self.temperature).logsumexp(dim=1)

    def extra_repr(self) -> str:
        """Names the temperature."""
        return f"temperature={self.temperature}"
