"""The profile of norms: every block weighs in, by what it says of distorted ID images."""

__all__ = ["NormProfile"]

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from src.detectors.log_odds import LogOdds
from src.metrics.norm_ratio import mean_activation
from src.network import ForwardPass, Network, Reader

log = logging.getLogger(__name__)
SMALLEST = 1e-8  # keeps the logarithm of a norm finite where nothing is active


class NormProfile(LogOdds):
    r"""Log odds of ID against distorted ID images, from the norms of all blocks and the energy.

    The inputs are, for every block, the logarithms of FeatureNorm and of the mean rectified
    activation, and the energy \(\log \sum_k e^{l_k}\). They are standardised on ID images. The
    weights are those of a logistic regression that tells ID images from pseudo-OOD ones, both
    classes at equal weight, with the penalty \(\lambda \|w\|^2 / 2\).

    Args:
        pool: Name -> pseudo-OOD (images, indices) -> images, at least one.
        statistics: Inputs of each block: "norm", "mean" or both.
        energy: Whether the energy is an input.
        nonnegative: Whether weights are at least 0, so that a larger norm never speaks for OOD.
        penalty: Strength \(\lambda\) of the penalty.
        blocks: Module paths, in any order. None takes all blocks of the network.

    Attributes:
        weight: (D,) weights of the standardised inputs, larger = speaks for ID.
        mean: (D,) means of the inputs on ID images.
        deviation: (D,) standard deviations of the inputs on ID images; infinite for an input
            that never varies, which then says nothing.
        bias: () log odds of an image with the inputs' means.

    Raises:
        ValueError: If there is nothing to read, the pool is empty or the penalty is negative; in
            `check`, if all members of the pool need larger images.

    Source:
        Experimental: ours. It weighs the blocks among which Yu et al., CVPR 2023,
        https://arxiv.org/abs/2212.02295, choose one.
    Fitted on:
        All ID validation images.
    Needs:
        Feature maps of several blocks, logits.
    Extra passes:
        While fitting, one forward pass for each member of the pool.
    """

    def __init__(
        self,
        pool: Mapping[str, Any],
        *,
        statistics: Iterable[str] = ("norm", "mean"),
        energy: bool = True,
        nonnegative: bool = False,
        penalty: float = 1.0,
        blocks: Iterable[str] | None = None,
    ) -> None:
        super().__init__(pool, penalty=penalty, nonnegative=nonnegative, blocks=blocks)
        self.statistics, self.energy = tuple(statistics), energy
        if not (self.statistics or energy) or not {*self.statistics} <= {"norm", "mean"}:
            raise ValueError(
                "expected statistics out of norm and mean, or the energy, got "
                f"{list(self.statistics)}; name one"
            )

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns every block with the reader of its mean activation, if it is read."""
        if "mean" not in self.statistics:
            return ()
        return tuple((block, mean_activation) for block in self.blocks_of(network))

    def inputs(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) inputs in float64: norms of the blocks, then means, then the energy."""
        read = {
            "norm": lambda block: seen.norm[block],
            "mean": lambda block: seen.read(block, mean_activation),
        }
        column = [
            seen.logits.double().logsumexp(dim=1)
            if name == "energy"
            else read[name](block).double().clamp_min(SMALLEST).log()
            for block, name in self.names(seen.network)
        ]
        return torch.stack(column, dim=1)

    def names(self, network: Network) -> list[tuple[str, str]]:
        """Returns block and name of each of the D inputs; the energy is that of the logits."""
        blocks = self.blocks_of(network)
        names = [(block, statistic) for statistic in self.statistics for block in blocks]
        return [*names, ("logits", "energy")] if self.energy else names

    def fit(self, network: Network) -> None:
        """Computes means, deviations and weights; warns if these are more than the images."""
        super().fit(network)
        images, weights = len(self.bank.compute()), len(self.weight)
        if images <= weights:
            log.warning(
                "NormProfile learns %d weights from %d held-out images, which is few; raise "
                "data.validation_size", weights, images,
            )  # fmt: skip

    def block_weights(self, network: Network) -> dict[str, dict[str, float | None]]:
        """Returns block -> "norm" or "mean" -> weight, and "logits" -> "energy" -> weight."""
        found: dict[str, dict[str, float | None]] = {}
        varies, weights = self.deviation.isfinite().tolist(), self.weight.tolist()
        for (block, name), weight, is_used in zip(
            self.names(network), weights, varies, strict=True
        ):
            found.setdefault(block, {})[name] = weight if is_used else None
        return found

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return (
            f"{self.pool!r}, statistics={self.statistics!r}, energy={self.energy}, "
            f"nonnegative={self.nonnegative}, penalty={self.penalty}, blocks={self.blocks!r}"
        )
