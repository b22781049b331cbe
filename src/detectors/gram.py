"""Gram matrices: compares the channel correlations of an image with those of its class."""

__all__ = ["Gram", "GramRows"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.counter_random import random_bits
from src.detectors.base import BlocksDetector
from src.metrics.statistics import Bank, ClassExtrema
from src.network import ForwardPass, Network, Reader

HELD_OUT_EVERY = 10  # one training image in ten, by hashed index, measures how ID images deviate
HELD_OUT_ROWS = 1000  # the most that are kept; a row holds powers x channels numbers
CACHE_ELEMENTS = 2**18  # on a CPU, copies of this many values stay in the cache
SMALLEST = 1e-6  # added to the extremum that divides a deviation, as in the official code
SMALLEST_MEAN = 1e-7  # added to the mean deviation of a block, as in the official code


@dataclass(frozen=True)
class GramRows:
    r"""Reads the row sums \(G^p_i = (\sum_j \langle F_i^p, F_j^p \rangle)^{1/p}\) of a map.

    The sum over \(j\) comes first, \(\langle F_i^p, \sum_j F_j^p \rangle\): no C x C matrix is
    built. Positions are scaled by their strongest channel and channels by their strongest
    product, and the root restores the scale: no power overflows or vanishes in float32.

    Attributes:
        powers: The P powers p.
    """

    powers: tuple[int, ...]

    def __call__(self, feature_map: Tensor) -> Tensor:
        """Returns (B, P, C) signed roots, float32."""
        pieces = [feature_map]
        if feature_map.device.type == "cpu" and not torch.compiler.is_exporting():
            size = max(1, CACHE_ELEMENTS // feature_map.shape[1:].numel())
            pieces = list(feature_map.split(size))
        return torch.cat([self._rows(piece.float().flatten(2)) for piece in pieces])

    def _rows(self, feature: Tensor) -> Tensor:
        tiny = torch.finfo(feature.dtype).tiny  # 0 / tiny is 0 where no channel is active
        strongest = feature.abs().amax(dim=1, keepdim=True)
        channel, product = feature / strongest.clamp_min(tiny), feature * strongest
        scale = product.abs().amax(dim=2)
        product = product / scale.clamp_min(tiny)[:, :, None]
        rows: dict[int, Tensor] = {}
        left, right = product, channel  # to the power of p
        for p in range(1, max(self.powers) + 1):
            if p > 1:
                left, right = left * product, right * channel
            if p in self.powers:
                total = (left @ right.sum(dim=1)[:, :, None]).squeeze(2)
                rows[p] = scale * total.sign() * total.abs().pow(1 / p)
        return torch.stack([rows[p] for p in self.powers], dim=1)


class HeldOut(Bank):
    """A bank that may stay empty, since a few images may leave none to hold out."""

    def compute(self) -> Tensor:
        """Returns the (N, ...) rows; N may be 0."""
        return self._chosen()[0]


class Gram(BlocksDetector):
    r"""Deviation of channel correlations from their range in training images of the same class.

    Let \(x\) be one of the numbers \(G^p_i\) of `GramRows`, and \(a, b\) its extrema over training
    images predicted as the same class. Then \(\delta = \sum_x \mathrm{relu}(a - x) / |a| +
    \mathrm{relu}(x - b) / |b|\) over all \(p\) and \(i\) of a block. The score is
    \(-\sum_l \delta_l / \mathbb{E}[\delta_l] \, / \max_k p_k\), with the mean over held-out
    training images.

    Args:
        blocks: Module paths. None takes all blocks.
        powers: The powers p, integers of at least 1. The paper takes 1 to 10.
        seed: Seed of the choice of held-out images.

    Raises:
        ValueError: If `powers` is empty or holds anything but positive integers.

    Source:
        Sastry and Oore, "Detecting Out-of-Distribution Examples with Gram Matrices", ICML 2020,
        https://arxiv.org/abs/1912.12510; the authors' code,
        https://github.com/VectorInstitute/gram-ood-detection, sums whole rows before the root.
    Fitted on:
        All ID training images. They are grouped by predicted class. A tenth, chosen by hashed
        index, is held out of the extrema; at most 1,000 of these define the mean deviations.
    Needs:
        Feature maps of blocks, logits.
    Differs:
        Reads blocks; the authors read the output of every convolution and activation. A class
        that is never predicted in training takes the extrema of all classes. The authors average
        deviations over held-out test images, after the division by confidence. OpenOOD's corrected
        code averages over training images before that division, as here, but groups the images by
        label. Divides by |a| + 1e-6; the authors divide by |a + 1e-6|. If no image is held out,
        all blocks have the same weight.
    """

    def __init__(
        self,
        blocks: Sequence[str] | None = None,
        *,
        powers: Sequence[int] = (1, 2, 3, 4, 5),
        seed: int = 0,
    ) -> None:
        super().__init__(blocks)
        if not powers or any(power < 1 or power != int(power) for power in powers):
            raise ValueError(
                f"expected powers that are integers above zero, got {tuple(powers)}; "
                "1 to 5 are usual"
            )
        self.rows, self.seed = GramRows(tuple(map(int, powers))), seed
        self.extrema, self.bank = ClassExtrema(), HeldOut(HELD_OUT_ROWS, seed=seed)
        self.learns("smallest", "largest", "usual")

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns the blocks and the reader of the row sums of their maps."""
        return tuple((block, self.rows) for block in self.blocks_of(network))

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds row sums."""
        row, predicted = self._row(seen), seen.logits.argmax(dim=1)
        held = random_bits(index, 1, seed=self.seed)[:, 0] % HELD_OUT_EVERY == 0
        self.extrema.update(row[~held], predicted[~held], seen.logits.shape[1])
        self.bank.update(torch.cat([row, predicted[:, None]], dim=1)[held], index[held])

    def fit(self, network: Network) -> None:
        """Computes the extrema and the mean deviation of each block."""
        smallest, largest = self.extrema.compute()
        self.smallest = torch.where(smallest.isfinite(), smallest, smallest.amin(dim=0))
        self.largest = torch.where(largest.isfinite(), largest, largest.amax(dim=0))
        held = self.bank.compute()
        sizes = self._sizes(network)
        self.usual = torch.ones(len(sizes), dtype=torch.float64, device=held.device)
        if len(held):
            parts = [self._deviation(r[:, :-1], r[:, -1].long(), sizes) for r in held.split(128)]
            self.usual = torch.cat(parts).mean(dim=0) + SMALLEST_MEAN

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative deviations; 0 for an image within all ranges."""
        confidence, predicted = seen.logits.double().softmax(dim=1).max(dim=1)
        deviation = self._deviation(self._row(seen), predicted, self._sizes(seen.network))
        return -(deviation / self.usual).sum(dim=1) / confidence

    def _row(self, seen: ForwardPass) -> Tensor:
        pairs = self.reads(seen.network)
        return torch.cat([seen.read(block, rows).flatten(1) for block, rows in pairs], dim=1)

    def _sizes(self, network: Network) -> list[int]:
        """Returns the number of values that each block gives."""
        channels = [network.places[block].shape[0] for block in self.blocks_of(network)]
        return [len(self.rows.powers) * count for count in channels]

    def _deviation(self, row: Tensor, predicted: Tensor, sizes: list[int]) -> Tensor:
        """Returns the (B, L) deviation in each block."""
        row = row.double()
        low, high = self.smallest[predicted].double(), self.largest[predicted].double()
        below = (low - row).relu_() / (low.abs_() + SMALLEST)
        above = (row - high).relu_() / (high.abs_() + SMALLEST)
        parts = (below + above).split(sizes, dim=1)
        return torch.stack([part.sum(dim=1) for part in parts], dim=1)

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"{super().extra_repr()}, powers={self.rows.powers}, seed={self.seed}"
