"""Detectors that score the logits, or the logits and the feature, without a fit."""

__all__ = ["GEN", "MSP", "Energy", "Entropy", "GradNorm", "MaxLogit", "log_probability"]

from torch import Tensor

from src.detectors.base import Detector
from src.network import ForwardPass


class MSP(Detector):
    r"""Maximum softmax probability.

    This is \(\max_k p_k\), computed in float64, where it saturates later than in float32.

    Args:
        temperature: Temperature by which the logits are divided, above zero.

    Raises:
        ValueError: If the temperature is not above zero.

    Source:
        Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples in Neural Networks", ICLR 2017, https://arxiv.org/abs/1610.02136.
    Fitted on:
        Nothing.
    Needs:
        Logits.
    """

    compares_classes = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) probabilities in [1/K, 1]."""
        return log_probability(seen.logits / self.temperature).exp().amax(dim=1)

    def extra_repr(self) -> str:
        """Describes the temperature."""
        return f"temperature={self.temperature}"


class MaxLogit(Detector):
    """The largest logit.

    Source:
        Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings",
        ICML 2022, https://arxiv.org/abs/1911.11132.
    Fitted on:
        Nothing.
    Needs:
        Logits.
    """

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) logits."""
        return seen.logits.amax(dim=1)


class Energy(Detector):
    r"""Negative free energy of the logits.

    This is \(T \log \sum_k \exp(l_k / T)\), the log of the sum of exponentials.

    Args:
        temperature: Temperature T, above zero.

    Raises:
        ValueError: If the temperature is not above zero.

    Source:
        Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020,
        https://arxiv.org/abs/2010.03759, Eq. 4.
    Fitted on:
        Nothing.
    Needs:
        Logits.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative energies, in units of a logit."""
        return self.temperature * (seen.logits / self.temperature).logsumexp(dim=1)

    def extra_repr(self) -> str:
        """Describes the temperature."""
        return f"temperature={self.temperature}"


class Entropy(Detector):
    r"""Negative entropy of the probabilities.

    This is \(\sum_k p_k \log p_k\), computed in float64.

    Source:
        Macêdo et al., "Entropic Out-of-Distribution Detection", arXiv 2019,
        https://arxiv.org/abs/1908.05569, as a score of its own.
    Fitted on:
        Nothing.
    Needs:
        Logits.
    """

    compares_classes = True

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative entropies in [-log K, 0]."""
        logarithm = log_probability(seen.logits)
        return (logarithm.exp() * logarithm).sum(dim=1)


class GEN(Detector):
    r"""Negative generalised entropy of the largest probabilities.

    This is \(-\sum_{k \le M} p_k^\gamma (1 - p_k)^\gamma\) over the M largest probabilities.

    Args:
        gamma: Exponent, in (0, 1).
        largest: Number M of probabilities; all classes if there are fewer.

    Raises:
        ValueError: If `gamma` is not within (0, 1) or `largest` is below 1.

    Source:
        Liu, Lochman and Zach, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution
        Detection", CVPR 2023, https://github.com/XixiLiu95/GEN, Eq. 5.
    Fitted on:
        Nothing.
    Needs:
        Logits.
    """

    compares_classes = True

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
        """Describes all arguments."""
        return f"gamma={self.gamma}, largest={self.largest}"


class GradNorm(Detector):
    r"""L1 norm of the gradient of the head's weights, for uniform targets, in closed form.

    \(\|\partial_W \sum_k -\log p_k\|_1 = \|h\|_1 \sum_k |K p_k - 1| / T\), where
    \(p = \mathrm{softmax}(l / T)\).

    Args:
        temperature: Temperature T, above zero.

    Raises:
        ValueError: If the temperature is not above zero.

    Source:
        Huang, Geng and Li, "On the Importance of Gradients for Detecting Distributional Shifts in
        the Wild", NeurIPS 2021, https://arxiv.org/abs/2110.00218.
    Fitted on:
        Nothing.
    Needs:
        Logits, penultimate feature, linear head.
    Differs:
        The authors run a backward pass for each image. As in their code, the targets sum to K.
    """

    compares_classes = True
    needs_linear_head = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) norms, at least 0."""
        self.check(seen.network)
        probability = log_probability(seen.logits / self.temperature).exp()
        surplus = (probability.shape[1] * probability - 1).abs().sum(dim=1)
        return seen.feature.double().abs().sum(dim=1) * surplus / self.temperature

    def extra_repr(self) -> str:
        """Describes the temperature."""
        return f"temperature={self.temperature}"


def log_probability(logits: Tensor) -> Tensor:
    """Returns (B, K) logarithms of the probabilities, in float64.

    Raises:
        ValueError: If there is a single class, whose probability is always 1.
    """
    if logits.shape[1] < 2:
        raise ValueError(
            "expected a network of at least two classes, got one, whose probability is always 1; "
            "choose a detector of features, norms or distances"
        )
    return logits.double().log_softmax(dim=1)


def checked_temperature(temperature: float) -> float:
    """Returns the temperature after a check.

    Raises:
        ValueError: If it is not above zero.
    """
    if temperature <= 0:
        raise ValueError(f"expected a temperature above zero, got {temperature}; 1 is usual")
    return temperature
