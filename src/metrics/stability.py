"""How stable the selection is: on bootstrap samples of the images, and with other puzzles."""

__all__ = ["Replicates", "SelectionBootstrap", "SelectionStability"]

from collections.abc import Callable, Sequence
from copy import copy
from itertools import accumulate
from math import exp, factorial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from src.counter_random import random_bits
from src.metrics.criterion import BlockCriterion, Estimate
from src.metrics.norm_ratio import SMALLEST_NORM
from src.records.selection import margin, select

PseudoOOD = Callable[[Tensor, Tensor], Tensor]
# not 0, 1, ..., which the puzzles use: the weights must be independent of the order of the tiles
SEED = 0xB007_57A9
CHUNK = 1024  # images drawn at once
# P(weight <= k) for a Poisson variable of mean 1; a weight above 15 occurs once in 10^14 draws
POISSON = [int(2**63 * p) for p in accumulate(exp(-1) / factorial(k) for k in range(16))]


class Replicates:
    """NormRatio, or another criterion, of L blocks on images, and on R bootstrap samples of them.

    Attributes:
        ratio: (R, L) float64, of each sample.
        observed: (L,) float64, of the images themselves.
    """

    def __init__(self, ratio: Tensor, observed: Tensor) -> None:
        self.ratio, self.observed = ratio, observed

    @property
    def share(self) -> Tensor:
        """(L,) Share of the samples in which each block is selected."""
        chosen = torch.from_numpy(select(self.ratio.cpu()))
        return torch.bincount(chosen, minlength=self.ratio.shape[1]).double() / len(chosen)

    @property
    def standard_error(self) -> Tensor:
        """(L,) Standard error of the criterion of each block."""
        return self.ratio.std(dim=0, correction=0)

    @property
    def margin(self) -> Tensor:
        """(R,) Criterion of the block selected on the images minus the largest of the others.

        It is negative in a sample that selects another block, and 0 if there is only one block.
        """
        return torch.from_numpy(margin(self.ratio.cpu(), int(select(self.observed.cpu()))))


class SelectionBootstrap(Metric):
    """NormRatio of L blocks on R bootstrap samples of the images, in one pass over them.

    An image occurs Poisson(1) times in a sample, drawn from (seed, index, sample) alone: the
    samples are the same for any batches and any number of processes, and no image is kept.

    Args:
        blocks: Number of blocks, L.
        replicates: Number of samples, R.
        seed: Seed of the random draws.

    Source:
        Poisson bootstrap: Chamandy, Muralidharan, Najmi and Naidu, "Estimating uncertainty for
        massive data streams", Google, 2012, https://research.google/pubs/pub43157/.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    weight: Tensor
    total: Tensor

    def __init__(self, blocks: int, replicates: int = 1000, *, seed: int = SEED) -> None:
        super().__init__()
        self.replicates, self.seed = replicates, seed
        rows = 1 + replicates  # the first counts each image once
        self.add_state("weight", torch.zeros(rows, dtype=torch.float64), dist_reduce_fx="sum")
        zero = torch.zeros(rows, blocks, dtype=torch.float64)
        self.add_state("total", zero, dist_reduce_fx="sum")

    def update(self, norm_id: Tensor, norm_pseudo_ood: Tensor, index: Tensor) -> None:
        """Adds images.

        Args:
            norm_id: (B, L) FeatureNorm of the ID images.
            norm_pseudo_ood: (B, L) FeatureNorm of the same images turned into pseudo-OOD.
            index: (B,) int64 positions of the images in their set.
        """
        ratio = norm_id.double() / norm_pseudo_ood.double().clamp_min(SMALLEST_NORM)
        weight = torch.cat([torch.ones_like(index)[:, None], self.draw(index)], dim=1).double()
        self.weight += weight.sum(dim=0)
        self.total += weight.T @ ratio

    @classmethod
    def of(cls, estimate: Estimate, replicates: int) -> Replicates:
        """Returns an estimate on bootstrap samples of its images.

        It is exact for a criterion that is a mean over images, and of first order for others: a
        sample changes them by the mean influence of its images.
        """
        metric = cls(estimate.each.shape[1], replicates)
        metric.sync_on_compute = False  # an estimate is of the images of all processes already
        for index in torch.arange(len(estimate.each)).split(CHUNK):
            each = estimate.each[index]
            metric.update(each, torch.ones_like(each), index)
        found: Replicates = metric.compute()
        return found

    def draw(self, index: Tensor) -> Tensor:
        """Returns (B, R) int64: how often each image occurs in each sample."""
        bits = random_bits(index, self.replicates, seed=self.seed)
        return torch.bucketize(bits, torch.tensor(POISSON, device=index.device), right=True)

    def compute(self) -> Replicates:
        """Returns NormRatio of the samples; a sample without any image is left out."""
        ratio = self.total / self.weight[:, None]
        return Replicates(ratio[1:][self.weight[1:] > 0], ratio[0])


class SelectionStability:
    """Repeats a selection on bootstrap samples of its images, and with other seeds.

    It does not change the selection, and draws no random number that anything else would draw.

    Args:
        pseudo_ood: Pseudo-OOD of the selection; without an attribute `seed`, no other seeds are
            tried.
        blocks: Names of the L blocks, by depth.
        replicates: Number of bootstrap samples; 0 for none.
        seeds: Number of other seeds; each takes one more forward pass of the images.
        device: Device of the norms.
        criterion: Criterion of the selection.
    """

    def __init__(
        self,
        pseudo_ood: PseudoOOD,
        blocks: Sequence[str],
        *,
        replicates: int,
        seeds: int,
        device: torch.device,
        criterion: str = "norm_ratio",
    ) -> None:
        self.blocks = tuple(blocks)
        self.criterion = criterion
        self.bootstrap = SelectionBootstrap(len(blocks), replicates).to(device)
        first = getattr(pseudo_ood, "seed", None)
        others = range(first + 1, first + 1 + seeds) if first is not None else ()
        self.puzzles = {seed: reseeded(pseudo_ood, seed) for seed in others}
        self.measured = {s: BlockCriterion(criterion, len(blocks), device) for s in others}

    def update(self, norm_id: Tensor, norm_pseudo_ood: Tensor, index: Tensor) -> None:
        """Adds images to the bootstrap samples; see `SelectionBootstrap`."""
        if self.criterion == "norm_ratio":  # of others, nothing is known before all images are
            self.bootstrap.update(norm_id, norm_pseudo_ood, index)

    def result(self, estimate: Estimate) -> dict[str, Any]:
        """Returns plain numbers, equal on every process: `bootstrap` and `seeds`, if measured.

        Args:
            estimate: The criterion on the images themselves.
        """
        found: dict[str, Any] = {}
        if self.bootstrap.replicates:
            found["bootstrap"] = self._bootstrap(estimate)
        if self.puzzles:
            found["seeds"] = [self._with_seed(seed) for seed in self.puzzles]
        return found

    def _bootstrap(self, estimate: Estimate) -> dict[str, Any]:
        if self.criterion == "norm_ratio":
            replicates = self.bootstrap.compute()
        else:
            replicates = SelectionBootstrap.of(estimate, self.bootstrap.replicates)
        share, error = replicates.share.tolist(), replicates.standard_error.tolist()
        return {
            "replicates": len(replicates.ratio),
            "share": dict(zip(self.blocks, share, strict=True)),
            "standard_error": dict(zip(self.blocks, error, strict=True)),
            "margin_standard_error": replicates.margin.std(correction=0).item(),
        }

    def _with_seed(self, seed: int) -> dict[str, Any]:
        estimate = self.measured[seed].compute()
        value = dict(zip(self.blocks, estimate.value.tolist(), strict=True))
        selected = self.blocks[estimate.selected]
        return {"seed": seed, "selected": selected, self.criterion: value}


def reseeded(pseudo_ood: PseudoOOD, seed: int) -> PseudoOOD:
    """Returns a copy that draws from another seed."""
    other: Any = copy(pseudo_ood)
    other.seed = seed
    return other  # type: ignore[no-any-return]
