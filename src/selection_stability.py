"""What else might have been selected: on other images, or with other pseudo-OOD images."""

__all__ = ["FILE", "SelectionStability"]

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from src.metrics.norm_ratio import NormRatio
from src.metrics.stability import SelectionBootstrap

FILE = "selection_stability.json"
PseudoOOD = Callable[[Tensor, Tensor], Tensor]


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
