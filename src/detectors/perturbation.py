"""Detectors that score an image again after a small step along a gradient."""

__all__ = ["PRO", "AdaSCALE", "Perturbed"]

from typing import Literal

import torch
from torch import Tensor

from src.detectors.base import Detector
from src.detectors.shaping import check_percent
from src.detectors.wrapper import Wrapper
from src.metrics.statistics import Bank
from src.network import ForwardPass, Network

PIXELS, STEP = 0.05, 0.5  # share of the image's values that AdaSCALE moves, and the step
PEAK, SHIFT, WEIGHT = 0.05, 0.01, 10.0  # AdaSCALE's k1 and k2, as shares of D, and lambda


class Perturbed(Wrapper):
    r"""Input perturbation, as in ODIN and i-ODIN: the score after a step that raises it.

    Scores \(x + \epsilon \, \mathrm{sign}(\nabla_x s(x))\), where \(s\) is the score of another
    detector. ID images gain more from the step. ODIN is
    `Perturbed(MSP(temperature=1000), epsilon=0.0014)`.

    Args:
        detector: A detector with a differentiable score.
        epsilon: Step in units of the image, in [0, 1], before the network's normalisation.
        pixels: Which values to move: "all", or "largest" for the single value per image with the
            largest gradient (i-ODIN).

    Raises:
        ValueError: If `pixels` is unknown.

    Source:
        Liang, Li and Srikant, "Enhancing The Reliability of Out-of-distribution Image Detection in
        Neural Networks", ICLR 2018, https://arxiv.org/abs/1706.02690, Eq. 2.
        "largest": i-ODIN of OpenOOD, https://github.com/Jingkang50/OpenOOD.
    Fitted on:
        The images of the wrapped detector.
    Needs:
        Gradient of the image, score of the wrapped detector.
    Extra passes:
        Two forward passes and one backward pass. All detectors with gradients share the first
        forward pass.
    Differs:
        The wrapped detector is fitted on images without the step.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        epsilon: float = 0.0014,
        pixels: Literal["all", "largest"] = "all",
    ) -> None:
        super().__init__(detector)
        if pixels not in ("all", "largest"):
            raise ValueError(f"expected pixels 'all' or 'largest', got {pixels!r}; choose one")
        self.epsilon, self.pixels = epsilon, pixels

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores of the wrapped detector, after a gradient and a forward pass."""
        gradient = seen.gradient(self.detector.score)
        step = gradient.sign()
        if self.pixels == "largest":
            size = gradient.abs().flatten(1)
            step = step * (size == size.amax(dim=1, keepdim=True)).view_as(step)
        image, read = seen.image + self.epsilon * step, self.detector.reads(seen.network)
        return self.detector.score(seen.network.observe(image, keep_maps=False, read=read))

    def extra_repr(self) -> str:
        """Describes the step."""
        return f"epsilon={self.epsilon}, pixels={self.pixels!r}"


class PRO(Wrapper):
    r"""Perturbation-rectified score: the smallest score on a descent from the image.

    \(\min_t s(x_t)\) with \(x_{t+1} = x_t - \epsilon \, \mathrm{sign}(\nabla_x s(x_t))\), where
    \(s\) is the score of another detector. OOD images lose more on the way.

    Args:
        detector: A detector with a differentiable score; the authors take `MSP`, also with a
            temperature, `Entropy` and `GEN`.
        epsilon: Size of a step in units of the normalised input.
        steps: Number T of steps.

    Raises:
        ValueError: If there is no step.

    Source:
        Chen et al., "Leveraging Perturbation Robustness to Enhance Out-of-Distribution Detection",
        CVPR 2025, https://arxiv.org/abs/2503.18784.
    Fitted on:
        The images of the wrapped detector.
    Needs:
        Gradient of the image, score of the wrapped detector.
    Extra passes:
        Two forward passes and one backward pass for each step. All detectors with gradients share
        the first forward pass.
    Differs:
        The authors choose both arguments on OOD images. Their code leaves out the minimum for
        three of the scores. As in it, images are not cut to [0, 1]. A gradient that is not a
        number, as that of `GEN` where a probability is 1, moves nothing.
    """

    def __init__(self, detector: Detector, *, epsilon: float = 0.001, steps: int = 1) -> None:
        super().__init__(detector)
        if steps < 1:
            raise ValueError(f"expected at least one step, got {steps}; 1 to 3 are usual")
        self.epsilon, self.steps = epsilon, steps

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores of the wrapped detector, at most those without a step."""
        network, read = seen.network, tuple(self.detector.reads(seen.network))
        smallest = self.detector.score(seen)
        for _ in range(self.steps):
            direction = seen.gradient(self.detector.score).nan_to_num().sign()
            image = seen.image - self.epsilon * network.std * direction
            seen = network.observe(image, keep_maps=False, read=read)
            smallest = torch.minimum(smallest, self.detector.score(seen))
        return smallest

    def extra_repr(self) -> str:
        """Describes the steps."""
        return f"epsilon={self.epsilon}, steps={self.steps}"


class AdaSCALE(Detector):
    r"""SCALE with a percentile for each image, chosen by how much a small step moves its feature.

    The step moves five percent of the image values, those with the smallest gradient of the
    largest logit, by \(\pm 0.5\) in the normalised input. The penultimate feature \(h\) becomes
    \(h'\). With the largest \(k_1\) and \(k_2\) activations of \(h\),
    \(Q = \sum_{k_1} \mathrm{relu}(h') + \lambda \sum_{k_2} |h - h'|\). If \(F(Q)\) is the share of
    ID images with a smaller \(Q\), the percentile of SCALE is
    \(p = p_{\min} + (1 - F(Q)) (p_{\max} - p_{\min})\).

    Args:
        variant: "a" scales the feature, "l" scales the logits by \(r^2\).
        low: Smallest percentile.
        high: Largest percentile.

    Raises:
        ValueError: If the variant is unknown or a percentile is not within 0..100.

    Source:
        Regmi, "AdaSCALE: Adaptive Scaling for OOD Detection", arXiv 2025,
        https://arxiv.org/abs/2503.08023.
    Fitted on:
        5,000 ID validation images.
    Needs:
        Gradient of the image, penultimate feature, head.
    Extra passes:
        Two forward passes and one backward pass, as many while fitting.
    Differs:
        The constants are fixed: 5 % of the pixels, k1 = 5 %, k2 = 1 %, lambda = 10. The author
        chose `low` and `high` of the published ImageNet rows on OOD images.
    """

    fit_on = "validation"

    def __init__(
        self, *, variant: Literal["a", "l"] = "a", low: float = 75.0, high: float = 85.0
    ) -> None:
        super().__init__()
        check_percent(low=low, high=high)
        if variant not in ("a", "l"):
            raise ValueError(f"expected variant 'a' or 'l', got {variant!r}; choose one")
        self.variant, self.low, self.high = variant, low, high
        self.bank = Bank(5000)
        self.learns("shift")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds the shift of each image, after a gradient and a forward pass."""
        self.bank.update(self._shift(seen), index)

    def fit(self, network: Network) -> None:
        """Sorts the shifts."""
        self.shift = self.bank.compute().sort().values

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) energies, after a gradient and a forward pass."""
        below = torch.searchsorted(self.shift, self._shift(seen), right=True) / len(self.shift)
        percent = self.low + (1 - below) * (self.high - self.low)
        feature = seen.feature.double()
        active = feature.relu()
        size = active.shape[1]
        kept = (size - (size * percent / 100).round().long()).clamp_min(1)
        strongest = active.sort(dim=1, descending=True).values.cumsum(dim=1)
        part = strongest.gather(1, kept[:, None] - 1)
        ratio = torch.where(part > 0, active.sum(dim=1, keepdim=True) / part, 1)
        if self.variant == "a":
            return seen.network.logits_of(feature * ratio.exp()).logsumexp(dim=1)
        return (ratio.square() * seen.network.logits_of(feature)).logsumexp(dim=1)

    def _shift(self, seen: ForwardPass) -> Tensor:
        """Returns the (B,) quantity Q of each image."""
        gradient = seen.gradient(lambda again: again.logits.amax(dim=1)).flatten(1)
        least = gradient.abs().topk(max(1, round(PIXELS * gradient.shape[1])), largest=False)
        place = least.indices
        step = torch.zeros_like(gradient).scatter(1, place, gradient.gather(1, place).sign())
        image = seen.image + STEP * seen.network.std * step.view_as(seen.image)
        moved = seen.network.observe(image, keep_maps=False).feature.double()
        feature = seen.feature.double()
        size = feature.shape[1]
        first = feature.topk(max(1, round(PEAK * size)), dim=1).indices
        second = feature.topk(max(1, round(SHIFT * size)), dim=1).indices
        correction = moved.relu().gather(1, first).sum(dim=1)
        return correction + WEIGHT * (feature - moved).abs().gather(1, second).sum(dim=1)

    def extra_repr(self) -> str:
        """Describes the variant and the percentiles."""
        return f"variant={self.variant!r}, low={self.low}, high={self.high}"
