"""Detectors that score the logits, or logits and feature alike, without a fit."""

__all__ = ["GEN", "MSP", "Energy", "Entropy", "GradNorm", "MaxLogit", "log_probability"]

from torch import Tensor

from src.detectors.base import Detector
from src.network import ForwardPass


class MSP(Detector):
    r"""Maximum softmax probability, \(\max_k p_k\), in float64, where it does not saturate early.

    Args:
        temperature: T, above zero, by which the logits are divided.

    Raises:
        ValueError: if the temperature is not above zero.

    Source:
        Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples in Neural Networks", ICLR 2017, https://arxiv.org/abs/1610.02136.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) probabilities in [1/K, 1]."""
        return log_probability(seen.logits / self.temperature).exp().amax(dim=1)

    def extra_repr(self) -> str:
        """Names the temperature."""
        return f"temperature={self.temperature}"


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
        self.temperature = checked_temperature(temperature)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative energies, in units of a logit."""
        return self.temperature * (seen.logits / self.temperature).logsumexp(dim=1)

    def extra_repr(self) -> str:
        """Names the temperature."""
        return f"temperature={self.temperature}"


class Entropy(Detector):
    r"""Negative entropy of the probabilities, \(\sum_k p_k \log p_k\), in float64.

    Source:
        As a score of its own in Macêdo et al., "Entropic Out-of-Distribution Detection", 2019,
        https://arxiv.org/abs/1908.05569.
    """

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative entropies in [-log K, 0]."""
        logarithm = log_probability(seen.logits)
        return (logarithm.exp() * logarithm).sum(dim=1)


class GEN(Detector):
    r"""Generalised entropy, \(-\sum_{k \le M} p_k^\gamma (1 - p_k)^\gamma\) of the M largest.

    Args:
        gamma: exponent, in (0, 1).
        largest: M; all classes if there are fewer.

    Raises:
        ValueError: if gamma is not within (0, 1) or M is below 1.

    Source:
        Liu, Lochman and Zach, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution
        Detection", CVPR 2023, Eq. 5, https://github.com/XixiLiu95/GEN.
    """

    def __init__(self, gamma: float = 0.1, *, largest: int = 100) -> None:
        super().__init__()
        if not 0 < gamma < 1 or largest < 1:
            raise ValueError(
                "expected gamma within (0, 1) and at least one class, got "
                f"gamma={gamma}, largest={largest}; 0.1 and 100 are usual"
            )
        self.gamma, self.largest = gamma, largest

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative generalised entropies, at most 0."""
        probability = log_probability(seen.logits).exp()
        kept = probability.topk(min(self.largest, probability.shape[1]), dim=1).values
        return -(kept * (1 - kept).clamp_min(0)).pow(self.gamma).sum(dim=1)

    def extra_repr(self) -> str:
        """Names exponent and number of classes."""
        return f"gamma={self.gamma}, largest={self.largest}"


class GradNorm(Detector):
    r"""L1 norm of the head's gradient of the cross-entropy with uniform targets, in closed form.

    \(\|\partial_W \sum_k -\log p_k\|_1 = \|h\|_1 \sum_k |K p_k - 1| / T\), with
    \(p = \mathrm{softmax}(l / T)\).

    Args:
        temperature: T, above zero.

    Raises:
        ValueError: if the temperature is not above zero.

    Source:
        Huang, Geng and Li, "On the Importance of Gradients for Detecting Distributional Shifts in
        the Wild", NeurIPS 2021, https://arxiv.org/abs/2110.00218.
    Differs:
        The authors run a backward pass for each image. As in their code, the targets sum to K.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) norms, at least 0."""
        probability = log_probability(seen.logits / self.temperature).exp()
        surplus = (probability.shape[1] * probability - 1).abs().sum(dim=1)
        return seen.feature.double().abs().sum(dim=1) * surplus / self.temperature

    def extra_repr(self) -> str:
        """Names the temperature."""
        return f"temperature={self.temperature}"


def log_probability(logits: Tensor) -> Tensor:
    """Returns (B, K) logarithms of the probabilities, in float64.

    Raises:
        ValueError: if there is one class alone, whose probability is always 1.
    """
    if logits.shape[1] < 2:
        raise ValueError(
            "expected a network of at least two classes, got one, whose probability is always 1; "
            "choose detectors of features, norms or distances"
        )
    return logits.double().log_softmax(dim=1)


def checked_temperature(temperature: float) -> float:
    """Returns the temperature.

    Raises:
        ValueError: if it is not above zero.
    """
    if temperature <= 0:
        raise ValueError(f"expected a temperature above zero, got {temperature}; 1 is usual")
    return temperature
