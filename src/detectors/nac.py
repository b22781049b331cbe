"""Neuron activation coverage: has every neuron been in this state on ID images?"""

__all__ = ["NAC"]

import torch
from torch import Tensor
from torchmetrics import Metric

from src.detectors.base import Detector
from src.network import ForwardPass, Network

IMAGES = 1000  # the threshold counts images of so many, the number that the authors fit on


class Histogram(Metric):
    """Counts of each neuron's states in [0, 1], in bins of equal width."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    count: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def bin_of(self, state: Tensor) -> Tensor:
        """Returns (B, D) bins; the last one holds 1 as well."""
        return (state * self.bins).long().clamp_max(self.bins - 1)

    def update(self, state: Tensor) -> None:
        """Adds (B, D) states."""
        size = state.shape[1]
        flat = self.bin_of(state) * size + torch.arange(size, device=state.device)
        count = torch.bincount(flat.flatten(), minlength=self.bins * size)
        self.count = self.count + count.view(self.bins, size)

    def compute(self) -> Tensor:
        """Returns (bins, D) counts.

        Raises:
            RuntimeError: if there was no state.
        """
        if not self.count.any():
            raise RuntimeError("expected ID images to fit on, got none; call update before fit")
        return self.count


class NAC(Detector):
    r"""Neuron activation coverage: how usual the states of the penultimate neurons are.

    The state of neuron \(d\) is \(\sigma(\alpha z_d g_d)\), with \(g = W^T (p - 1/K)\) the
    gradient of the divergence of \(p\) from uniform probabilities. With \(n_{dm}\) of every
    thousand ID images in bin \(m\) of the neuron, its coverage there is \(\min(n_{dm} / O, 1)\);
    the score is the mean over neurons of the coverage of their states.

    Args:
        alpha: steepness of the sigmoid, above zero.
        bins: of the states, at least 2.
        threshold: O, of every thousand images, above zero.

    Raises:
        ValueError: if an argument is out of its range, or the network has one class alone, where
            all gradients are 0.

    Source:
        Liu et al., "Neuron Activation Coverage: Rethinking Out-of-distribution Detection and
        Generalization", ICLR 2024, https://arxiv.org/abs/2306.02879; defaults: the authors'
        CIFAR-10 values for this layer, https://github.com/BierOne/ood_coverage, tuned on OOD data.
    Fitted on:
        Penultimate features of all ID training images; no labels.
    Differs:
        The penultimate layer alone: the authors average over four layers, each with constants of
        its own, tuned on OOD data, and need a backward pass for three. They fit on 1,000 images;
        here the threshold grows with the number of images. Their `nac/coverage.py` makes 49
        intervals of M = 50, and a state that rounds to 1 is covered by none.
    """

    def __init__(self, *, alpha: float = 100.0, bins: int = 50, threshold: float = 50.0) -> None:
        super().__init__()
        if alpha <= 0 or threshold <= 0 or bins < 2:
            raise ValueError(
                "expected alpha and threshold above zero and at least 2 bins, got "
                f"alpha={alpha}, bins={bins}, threshold={threshold}; 100, 50 and 50 are usual"
            )
        self.alpha, self.bins, self.threshold = alpha, bins, threshold
        self.histogram = Histogram(bins)
        self.learns("coverage")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Counts states."""
        self.histogram.update(self._state(seen))

    def fit(self, network: Network) -> None:
        """Finds the coverage of each bin."""
        count = self.histogram.compute()
        share = count.double() * IMAGES / count[:, 0].sum()
        self.coverage = (share / self.threshold).clamp_max(1)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) mean coverages in [0, 1]."""
        return self.coverage.gather(0, self.histogram.bin_of(self._state(seen))).mean(dim=1)

    def _state(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) states in [0, 1], float64."""
        num_classes = seen.logits.shape[1]
        if num_classes < 2:
            raise ValueError(
                "expected a network of at least two classes, whose probabilities can differ from "
                "uniform ones, got one; leave NAC out"
            )
        surplus = seen.logits.double().softmax(dim=1) - 1 / num_classes
        gradient = surplus @ seen.network.head.weight.double()
        return (self.alpha * seen.feature.double() * gradient).sigmoid()

    def extra_repr(self) -> str:
        """Names all arguments."""
        return f"alpha={self.alpha}, bins={self.bins}, threshold={self.threshold}"
