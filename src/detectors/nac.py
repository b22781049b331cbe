"""NAC: neuron activation coverage, how often ID images bring neurons into the same states."""

__all__ = ["NAC"]

import torch
from torch import Tensor
from torchmetrics import Metric

from src.detectors.base import Detector
from src.network import ForwardPass, Network

IMAGES = 1000  # the threshold counts images per thousand, the number that the authors fit on


class Histogram(Metric):
    """Counts of the states of each neuron in [0, 1], in bins of equal width."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    count: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def bin_of(self, state: Tensor) -> Tensor:
        """Returns (B, D) bins; the last bin includes 1."""
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
            RuntimeError: If there was no state.
        """
        if not self.count.any():
            raise RuntimeError("expected ID images to fit on, got none; call update before fit")
        return self.count


class NAC(Detector):
    r"""Neuron activation coverage: how common the states of the penultimate neurons are.

    The state of neuron \(d\) is \(\sigma(\alpha z_d g_d)\), where \(g = W^T (p - 1/K)\) is the
    gradient of the divergence of \(p\) from uniform probabilities. If \(n_{dm}\) of every thousand
    ID images are in bin \(m\) of the neuron, its coverage there is \(\min(n_{dm} / O, 1)\). The
    score is the mean over neurons of the coverage of their states.

    Args:
        alpha: Steepness of the sigmoid, above zero.
        bins: Number of bins of the states, at least 2.
        threshold: Number O of every thousand images that cover a bin in full, above zero.

    Raises:
        ValueError: If an argument is out of range, or the network has a single class, for which
            all gradients are 0.

    Source:
        Liu et al., "Neuron Activation Coverage: Rethinking Out-of-distribution Detection and
        Generalization", ICLR 2024, https://arxiv.org/abs/2306.02879. The defaults are the authors'
        CIFAR-10 values for this layer, https://github.com/BierOne/ood_coverage, tuned on OOD data.
    Fitted on:
        All ID training images.
    Needs:
        Penultimate feature, logits, linear head.
    Differs:
        Reads the penultimate layer alone. The authors average over four layers, each with
        constants tuned on OOD data, and need a backward pass for three of them. They fit on 1,000
        images; here the threshold grows with the number of images. Their `nac/coverage.py` makes
        49 intervals of M = 50, none of which covers a state that rounds to 1.
    """

    compares_classes = True
    needs_linear_head = True

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
        """Adds states."""
        self.histogram.update(self._state(seen))

    def fit(self, network: Network) -> None:
        """Computes the coverage of each bin."""
        count = self.histogram.compute()
        share = count.double() * IMAGES / count[:, 0].sum()
        self.coverage = (share / self.threshold).clamp_max(1)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) mean coverages in [0, 1]."""
        return self.coverage.gather(0, self.histogram.bin_of(self._state(seen))).mean(dim=1)

    def _state(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) states in [0, 1], float64."""
        self.check(seen.network)
        surplus = seen.logits.double().softmax(dim=1) - 1 / seen.network.num_classes
        gradient = surplus @ seen.network.head.weight.double()
        return (self.alpha * seen.feature.double() * gradient).sigmoid()

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"alpha={self.alpha}, bins={self.bins}, threshold={self.threshold}"
