"""Detectors that look at the image a second time, after a small step along a gradient."""

__all__ = ["AdaSCALE", "Perturbed"]

from typing import Literal

import torch
from torch import Tensor

from src.detectors.base import Detector, Wrapper
from src.detectors.shaping import check_percent, head_of
from src.metrics.statistics import Bank
from src.network import ForwardPass, Network

PIXELS, STEP = 0.05, 0.5  # share of the image's values that AdaSCALE moves, by how much
PEAK, SHIFT, WEIGHT = 0.05, 0.01, 10.0  # its k1 and k2, as shares of D, and lambda


class Perturbed(Wrapper):
    r"""Another detector's score of \(x + \epsilon \, \mathrm{sign}(\nabla_x s(x))\).

    ID images gain more from a step that raises their score. ODIN is
    `Perturbed(MSP(temperature=1000), epsilon=0.0014)`.

    Args:
        detector: gives the score, which must be differentiable.
        epsilon: step in units of the image, in [0, 1], before the network's normalisation.
        pixels: "all", or "largest", the one value per image of the largest gradient (i-ODIN).

    Raises:
        ValueError: if `pixels` is neither.

    Source:
        Liang, Li and Srikant, "Enhancing The Reliability of Out-of-distribution Image Detection in
        Neural Networks", ICLR 2018, https://arxiv.org/abs/1706.02690, Eq. 2; "largest": OpenOOD's
        i-ODIN, https://github.com/Jingkang50/OpenOOD.
    Differs:
        Fitting sees the images as they are.
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
            raise ValueError(f"expected pixels 'all' or 'largest', got {pixels!r}")
        self.epsilon, self.pixels = epsilon, pixels

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores of the other detector, after a gradient and a forward pass."""
        gradient = seen.gradient(self.detector.score)
        step = gradient.sign()
        if self.pixels == "largest":
            size = gradient.abs().flatten(1)
            step = step * (size == size.amax(dim=1, keepdim=True)).view_as(step)
        image, read = seen.image + self.epsilon * step, self.detector.reads(seen.network)
        return self.detector.score(seen.network.observe(image, keep_maps=False, read=read))

    def extra_repr(self) -> str:
        """Names the step."""
        return f"epsilon={self.epsilon}, pixels={self.pixels!r}"


class AdaSCALE(Detector):
    r"""SCALE with a percentile of each image's own: the less it shifts, the more is scaled.

    The five percent of image values of smallest gradient of the largest logit are moved by
    \(\pm 0.5\) (of the normalised input), which turns the penultimate feature \(h\) into \(h'\).
    \(Q = \sum_{k_1} \mathrm{relu}(h') + \lambda \sum_{k_2} |h - h'|\) over the largest \(k_1\) and
    \(k_2\) activations of \(h\) is ranked among ID images, and with the share \(F(Q)\) of those
    below, \(p = p_{\min} + (1 - F(Q)) (p_{\max} - p_{\min})\) is SCALE's percentile.

    Args:
        variant: "a" scales the feature, "l" the logits by \(r^2\).
        low: smallest percentile.
        high: largest percentile.

    Raises:
        ValueError: if the variant is neither, or a percentile is none.

    Source:
        Regmi, "AdaSCALE: Adaptive Scaling for OOD Detection", 2025,
        https://arxiv.org/abs/2503.08023.
    Fitted on:
        5,000 ID validation images; no labels.
    Differs:
        Its constants: 5 % of the pixels, k1 = 5 %, k2 = 1 %, lambda = 10. Its published ImageNet
        rows chose low and high on OOD images.
    """

    fit_on = "validation"

    def __init__(
        self, *, variant: Literal["a", "l"] = "a", low: float = 75.0, high: float = 85.0
    ) -> None:
        super().__init__()
        check_percent(low=low, high=high)
        if variant not in ("a", "l"):
            raise ValueError(f"expected variant 'a' or 'l', got {variant!r}")
        self.variant, self.low, self.high = variant, low, high
        self.bank = Bank(5000)
        self.learns("shift")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in how far each image shifts, after a gradient and a forward pass."""
        self.bank.update(self._shift(seen), index)

    def fit(self, network: Network) -> None:
        """Ranks the shifts."""
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
            return head_of(seen.network, feature * ratio.exp()).logsumexp(dim=1)
        return (ratio.square() * head_of(seen.network, feature)).logsumexp(dim=1)

    def _shift(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) of the paper's Q'."""
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
        """Names variant and percentiles."""
        return f"variant={self.variant!r}, low={self.low}, high={self.high}"
