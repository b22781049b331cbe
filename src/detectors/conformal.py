"""Conformal p-values of several scores of an image, combined into one."""

__all__ = ["Conformal"]

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from src.detectors.base import Detector, expand_blocks
from src.detectors.logits import Energy
from src.detectors.norms import FeatureNorm
from src.metrics.statistics import Bank
from src.network import ForwardPass, Network, Reader


class Conformal(Detector):
    r"""Conformal p-values of several detectors or blocks, combined by Benjamini-Yekutieli.

    The p-value of one of L scores is its rank among those of n held-out ID images,
    \(p = (1 + \#\{i : s_i \le s\}) / (n + 1)\). Sorted, they combine to
    \(\min_j \frac{L}{j} \sum_{m \le L} \frac{1}{m} \, p_{(j)}\). To call images OOD where
    `p_value` is at most \(\alpha\) then affects at most the share \(\alpha\) of all ID images,
    averaged over the held-out ones, however the scores depend on each other.

    The held-out images must not be known to what is calibrated. None of the wrapped detectors may
    therefore be fitted, so that the whole held-out part calibrates. It neither trains the network
    nor is tested. If it selects a block, leave out detectors at "selected", or the promise is only
    approximate.

    Args:
        detectors: Detectors that are not fitted. One at "each_block" counts as one per block. None
            takes FeatureNorm of each block and the energy.

    Attributes:
        known: (n, L) scores of the held-out ID images, each column sorted.

    Raises:
        ValueError: If there is no detector, or one is fitted.

    Source:
        Magesh et al., "Multiple Testing Framework for Out-of-Distribution Detection", arXiv 2022,
        https://arxiv.org/abs/2206.09522.
    Fitted on:
        All ID validation images.
    Needs:
        What the wrapped detectors need, with their extra passes.
    Differs:
        Plain p-values tie. The score replaces them by
        \((\#\{i : s_i \le s\} + u) / (n + 1)\), where \(u\) in (0, 1) says how far \(s\) is on the
        way to the next larger \(s_i\), and is not cut at 1; `p_value` holds the plain ones.
    """

    fit_on = "validation"

    def __init__(self, detectors: Sequence[Detector] | None = None) -> None:
        super().__init__()
        if detectors is None:
            detectors = (FeatureNorm(at="each_block"), Energy())
        self.detectors = nn.ModuleList(detectors)
        fitted = [type(each).__name__ for each in detectors if each.is_fitted_on_data]
        if fitted or not detectors:
            raise ValueError(
                "expected detectors without fit, whose scores held-out images can calibrate, got "
                f"{', '.join(fitted) or 'none'}; choose FeatureNorm, NAN, Energy, MSP or the like"
            )
        self.bank = Bank()
        self.learns("known")

    def wrapped(self) -> list[Detector]:
        """Returns the wrapped detectors, as they were given."""
        return [cast(Detector, each) for each in self.detectors]

    def columns(self, network: Network) -> list[Detector]:
        """Returns the L detectors, one per block for those at "each_block"."""
        named = {str(i): detector for i, detector in enumerate(self.wrapped())}
        return [*expand_blocks(named, network).values()]

    def named_blocks(self) -> tuple[str, ...]:
        """Returns the blocks that the arguments of the wrapped detectors name."""
        return tuple(block for each in self.wrapped() for block in each.named_blocks())

    def check(self, network: Network) -> None:
        """Checks that the arguments of the wrapped detectors fit the network."""
        self.columns(network)

    def prepare(self, network: Network) -> None:
        """Prepares the wrapped detectors."""
        for detector in self.wrapped():
            detector.prepare(network)

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns what the wrapped detectors read."""
        return tuple(pair for each in self.columns(network) for pair in each.reads(network))

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds the scores of held-out images."""
        self.bank.update(self._scores(seen), index)

    def fit(self, network: Network) -> None:
        """Sorts the scores of each detector."""
        self.known = self.bank.compute().sort(dim=0).values

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) combinations of p-values between the plain ones, above 0, not cut at 1."""
        score = self._scores(seen)
        below, count = self._below(score), len(self.known)
        # beyond both ends there is no next one: a step is the mean gap, and any way stays within
        first, last = self.known[0], self.known[-1]
        step = ((last - first) / count).clamp_min(torch.finfo(first.dtype).tiny)
        lower = self.known.gather(0, (below - 1).clamp_min(0))
        upper = self.known.gather(0, below.clamp_max(count - 1))
        share = (score - lower) / (upper - lower)
        share = torch.where(below == 0, step / (step + (first - score)), share)
        share = torch.where(below == count, 1 - step / (step + (score - last)), share)
        return benjamini_yekutieli((below + share) / (count + 1))

    def p_value(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) combined p-values in (0, 1]; small = out-of-distribution."""
        below = self._below(self._scores(seen))
        return benjamini_yekutieli((below + 1).double() / (len(self.known) + 1)).clamp_max(1)

    def _scores(self, seen: ForwardPass) -> Tensor:
        """Returns the (B, L) scores of the wrapped detectors, in float64."""
        return torch.stack([d.score(seen).double() for d in self.columns(seen.network)], dim=1)

    def _below(self, score: Tensor) -> Tensor:
        """Returns (B, L): how many held-out images have at most this score."""
        if torch.compiler.is_exporting():  # ONNX has no search
            return (self.known[None] <= score[:, None]).sum(dim=1)
        known, row = self.known.mT.contiguous(), score.mT.contiguous()
        return torch.searchsorted(known, row, right=True).mT

    def extra_repr(self) -> str:
        """Describes the wrapped detectors."""
        return f"[{', '.join(map(repr, self.detectors))}]"


def benjamini_yekutieli(p: Tensor) -> Tensor:
    """Returns (B,) combinations of p-values (B, L), however these depend; not cut at 1."""
    rank = torch.arange(1, p.shape[1] + 1, dtype=p.dtype, device=p.device)
    return (p.sort(dim=1).values / rank).amin(dim=1) * len(rank) * (1 / rank).sum()
