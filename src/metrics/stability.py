"""How firmly NormRatio selects its block: on other samples of the images, and other puzzles."""

__all__ = ["Replicates", "SelectionBootstrap", "SelectionStability"]

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import accumulate
from math import exp, factorial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from src.counter_random import random_bits
from src.metrics.norm_ratio import SMALLEST_NORM, NormRatio

PseudoOOD = Callable[[Tensor, Tensor], Tensor]
# not 0, 1, ...: the puzzles are cut by those, and weights must not follow the order of the tiles
SEED = 0xB007_57A9
# P(weight <= k) of a Poisson variable of mean 1; more than 15 happens once in 10^14 draws
POISSON = [int(2**63 * p) for p in accumulate(exp(-1) / factorial(k) for k in range(16))]


class Replicates:
    """NormRatio of L blocks on the images, and on R samples of as many with replacement.

    Attributes:
        ratio: (R, L) float64, of each sample.
        observed: (L,) float64, of the images themselves.
    """

    def __init__(self, ratio: Tensor, observed: Tensor) -> None:
        self.ratio, self.observed = ratio, observed

    @property
    def share(self) -> Tensor:
        """(L,) share of the samples in which a block is selected; the deeper one on a tie."""
        blocks = self.ratio.shape[1]
        chosen = blocks - 1 - self.ratio.flip(1).argmax(dim=1)
        return torch.bincount(chosen, minlength=blocks).double() / len(chosen)

    @property
    def standard_error(self) -> Tensor:
        """(L,) of each block's NormRatio."""
        return self.ratio.std(dim=0, correction=0)

    @property
    def margin(self) -> Tensor:
        """(R,) the selected block's NormRatio minus the largest of another; 0 if there is none.

        Below 0 in a sample that selects another block.
        """
        blocks = len(self.observed)
        if blocks == 1:
            return torch.zeros_like(self.ratio[:, 0])
        selected = blocks - 1 - int(self.observed.flip(0).argmax())
        other = [block for block in range(blocks) if block != selected]
        return self.ratio[:, selected] - self.ratio[:, other].amax(dim=1)


class SelectionBootstrap(Metric):
    """NormRatio of L blocks on R bootstrap samples of the images, in one pass over them.

    An image counts Poisson(1) times in a sample, drawn from (seed, index, sample) alone: the
    samples are the same for any batches and any number of processes, and no image is kept.

    Args:
        blocks: L, the number of blocks.
        replicates: R, the number of samples.
        seed: of the draws.

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
        """Adds images: (B, L) FeatureNorms, clean and turned into pseudo-OOD, and (B,) numbers."""
        ratio = norm_id.double() / norm_pseudo_ood.double().clamp_min(SMALLEST_NORM)
        weight = torch.cat([torch.ones_like(index)[:, None], self.draw(index)], dim=1).double()
        self.weight += weight.sum(dim=0)
        self.total += weight.T @ ratio

    def draw(self, index: Tensor) -> Tensor:
        """Returns (B, R) int64: how often each image is in each sample."""
        bits = random_bits(index, self.replicates, seed=self.seed)
        return torch.bucketize(bits, torch.tensor(POISSON, device=index.device), right=True)

    def compute(self) -> Replicates:
        """Returns NormRatio of the samples; one without any image (of a few) is left out."""
        ratio = self.total / self.weight[:, None]
        return Replicates(ratio[1:][self.weight[1:] > 0], ratio[0])


class SelectionStability:
    """Measures a selection once more: on bootstrap samples of its images, and of other seeds.

    It neither selects nor draws a random number that anything else would have drawn.

    Args:
        pseudo_ood: what the selection uses; without an attribute `seed`, it has no other seeds.
        blocks: names of the L blocks.
        replicates: bootstrap samples, 0 for none.
        seeds: how many other seeds; each is one more forward of the images.
        device: where the norms are.
    """

    def __init__(
        self,
        pseudo_ood: PseudoOOD,
        blocks: Sequence[str],
        *,
        replicates: int,
        seeds: int,
        device: torch.device,
    ) -> None:
        self.blocks = tuple(blocks)
        self.bootstrap = SelectionBootstrap(len(blocks), replicates).to(device)
        first = getattr(pseudo_ood, "seed", None)
        others = range(first + 1, first + 1 + seeds) if first is not None else ()
        self.puzzles = {seed: reseeded(pseudo_ood, seed) for seed in others}
        self.norm_ratio = {seed: NormRatio(len(blocks)).to(device) for seed in others}

    def result(self) -> dict[str, Any]:
        """Returns plain numbers, equal on every process: `bootstrap` and `seeds`, if measured."""
        found: dict[str, Any] = {}
        if self.bootstrap.replicates:
            found["bootstrap"] = self._bootstrap()
        if self.puzzles:
            found["seeds"] = list(self._seeds())
        return found

    def _bootstrap(self) -> dict[str, Any]:
        replicates = self.bootstrap.compute()
        return {
            "replicates": len(replicates.ratio),
            "share": dict(zip(self.blocks, replicates.share.tolist(), strict=True)),
            "standard_error": dict(
                zip(self.blocks, replicates.standard_error.tolist(), strict=True)
            ),
            "margin_standard_error": replicates.margin.std(correction=0).item(),
        }

    def _seeds(self) -> Iterator[dict[str, Any]]:
        for seed, metric in self.norm_ratio.items():
            ratio = metric.compute()["ratio"].reshape(-1).tolist()
            norm_ratio = dict(zip(self.blocks, ratio, strict=True))
            selected = max(reversed(self.blocks), key=norm_ratio.__getitem__)
            yield {"seed": seed, "selected": selected, "norm_ratio": norm_ratio}


def reseeded(pseudo_ood: PseudoOOD, seed: int) -> PseudoOOD:
    """Returns a copy that draws from another seed."""
    other: Any = copy(pseudo_ood)
    other.seed = seed
    return other  # type: ignore[no-any-return]
