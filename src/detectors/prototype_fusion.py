"""Prototype Fusion: cosines with class prototypes, averaged over blocks."""

__all__ = ["PrototypeFusion"]

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import BlocksDetector, mean_pool
from src.metrics.statistics import ClassSums
from src.network import ForwardPass, Network, Reader


class PrototypeFusion(BlocksDetector):
    r"""Mean over blocks of the largest cosine between the pooled map and a class prototype.

    This is \(1/L \sum_l \max_k \langle g_l, P_{l,k} \rangle\). \(g_l\) is the spatial mean of the
    map of block \(l\), and \(P_{l,k}\) the mean of \(g_l\) over ID images predicted as class k,
    both scaled to length 1. The class may be another in each block.

    Args:
        blocks: Module paths. None takes all blocks.

    Source:
        Gul, Elmahallawy, Tripathy and Madria, "Prototype Fusion: A Training-Free Multi-Layer
        Approach to OOD Detection", arXiv 2026, https://arxiv.org/abs/2603.23677; code:
        https://github.com/sgchr273/cosine-layers.
    Fitted on:
        All ID training images. They are grouped by predicted class.
    Needs:
        Feature maps of blocks, logits.
    Differs:
        The authors group 5,000 images by label, with the augmentation of training on CIFAR and
        from the test images on ImageNet, and read the last three stages of a ResNet. A class that
        is never predicted is ignored; theirs gets a random prototype. A map of zero has cosine 0.
    """

    def __init__(self, blocks: Sequence[str] | None = None) -> None:
        super().__init__(blocks)
        self.sums = ClassSums()
        self.learns("prototype")

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns the blocks and the reader of their spatial means."""
        return tuple((block, mean_pool) for block in self.blocks_of(network))

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds the directions of pooled maps."""
        row = torch.cat(self.directions(seen), dim=1)
        self.sums.update(row, seen.logits.argmax(dim=1), seen.logits.shape[1])

    def fit(self, network: Network) -> None:
        """Computes the prototypes of all blocks, side by side."""
        sums = self.sums.compute()
        total = sums.total[sums.count > 0].split(self.channels(network), dim=1)
        self.prototype = torch.cat([F.normalize(part, dim=1) for part in total], dim=1)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) mean cosines in [-1, 1]."""
        parts = self.prototype.split(self.channels(seen.network), dim=1)
        cosine = [
            (direction @ part.mT).amax(dim=1)
            for direction, part in zip(self.directions(seen), parts, strict=True)
        ]
        return torch.stack(cosine, dim=1).mean(dim=1)

    def directions(self, seen: ForwardPass) -> list[Tensor]:
        """Returns the (B, C) pooled maps of each block, of length 1, in float64."""
        pooled = [seen.read(*pair).double() for pair in self.reads(seen.network)]
        return [F.normalize(row, dim=1) for row in pooled]

    def channels(self, network: Network) -> list[int]:
        """Returns the number of channels of each block."""
        return [network.places[block].shape[0] for block in self.blocks_of(network)]
