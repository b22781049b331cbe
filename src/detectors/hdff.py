"""HDFF: hyperdimensional feature fusion of the pooled maps of several blocks."""

__all__ = ["HDFF", "orthonormal_rows"]

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import BlocksDetector
from src.metrics.statistics import ClassSums
from src.network import ForwardPass, Network, Reader


def max_and_mean(feature_map: Tensor) -> Tensor:
    """Returns (B, C + 1): the spatial maximum of each channel, and the mean of the map."""
    feature_map = feature_map.float()
    peak, mean = feature_map.amax(dim=(2, 3)), feature_map.mean(dim=(1, 2, 3))
    return torch.cat([peak, mean[:, None]], dim=1)


def mean_and_mean(feature_map: Tensor) -> Tensor:
    """Returns (B, C + 1): the spatial mean of each channel, and the mean of the map."""
    mean = feature_map.float().mean(dim=(2, 3))
    return torch.cat([mean, mean.mean(dim=1, keepdim=True)], dim=1)


READER: dict[str, Reader] = {"max": max_and_mean, "mean": mean_and_mean}


def orthonormal_rows(channels: Sequence[int], hd_dim: int, *, seed: int) -> Tensor:
    """Returns random (sum of channels, hd_dim) projections with orthonormal rows in each block.

    They depend on the arguments alone and are float32.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(hd_dim, size, generator=generator) for size in channels]
    return torch.cat([torch.linalg.qr(part).Q.mT for part in noise])


class HDFF(BlocksDetector):
    r"""Largest cosine between the fused features of an image and those of a class of ID images.

    \(y(x) = \sum_l \mathrm{pool}(F_l(x) - m_l) P_l\), where \(m_l\) is the mean of block \(l\)
    over ID images and \(P_l\) a random projection to `hd_dim` dimensions with orthonormal rows.
    The class vector \(d_k\) is the sum of \(y\) over ID images of class \(k\), and the score is
    \(\max_k \cos(y(x), d_k)\).

    Only inner products of the projections matter, \(\langle y, y' \rangle = u P P^T u'^T\) for the
    concatenated features \(u\). The detector therefore keeps \(P P^T\) alone, which gives the same
    cosines without hyperdimensional vectors and tends to the identity as `hd_dim` grows.

    Args:
        blocks: Module paths. None takes all blocks.
        pool: How to pool over positions: "max" or "mean".
        hd_dim: Number of dimensions of the projection, 10,000 in the paper. None takes the limit
            of infinitely many, the concatenation of all blocks, without random numbers.
        seed: Seed of the projections.

    Raises:
        ValueError: If `pool` is unknown, a block has more channels than `hd_dim`, or an image is
            unlabelled.

    Source:
        Wilson, Fischer, Sünderhauf and Dayoub, "Hyperdimensional Feature Fusion for
        Out-of-Distribution Detection", WACV 2023, https://arxiv.org/abs/2112.05341.
    Fitted on:
        All ID training images, with labels. A class without images is ignored.
    Needs:
        Feature maps of blocks.
    Differs:
        The authors' code also reads every convolution and activation, drops the last partial
        batch, and keeps dropout active while scoring. Their dimension is 10,000; here it is
        infinite by default.
    """

    def __init__(
        self,
        blocks: Sequence[str] | None = None,
        *,
        pool: Literal["max", "mean"] = "max",
        hd_dim: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(blocks)
        if pool not in READER:
            raise ValueError(f"expected pool 'max' or 'mean', got {pool!r}; choose one")
        self.pool, self.hd_dim, self.seed = pool, hd_dim, seed
        self.sums = ClassSums()
        self.learns("mean", "prototype", "overlap")

    def check(self, network: Network) -> None:
        """Checks that the blocks exist and have no more channels than dimensions.

        Raises:
            ValueError: If the blocks or `hd_dim` do not fit the network.
        """
        super().check(network)
        for block in self.blocks or network.blocks:
            if block == "selected" and network.selected is None:
                continue
            channels = network.places[network.block(block)].shape[0]
            if self.hd_dim is not None and self.hd_dim < channels:
                raise ValueError(
                    f"expected hd_dim of at least {channels}, the channels of {block!r}, got "
                    f"{self.hd_dim}; raise it, or set hd_dim=None for the exact limit"
                )

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns the blocks and the reader of their pooled maps."""
        return tuple((block, READER[self.pool]) for block in self.blocks_of(network))

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds pooled maps."""
        row = torch.cat(self._pooled(seen), dim=1)
        self.sums.update(row, label, seen.logits.shape[1])

    def fit(self, network: Network) -> None:
        """Computes the block means, class vectors, and inner products of the projections."""
        self.check(network)
        channels = [network.places[block].shape[0] for block, _ in self.reads(network)]
        sums = self.sums.compute()
        count = sums.count
        total, mean = sums.total.split([sum(channels), len(channels)], dim=1)
        block_mean = mean.sum(dim=0) / count.sum()
        self.mean = block_mean.repeat_interleave(torch.tensor(channels, device=mean.device))
        vector = (total - count[:, None] * self.mean)[count > 0]
        projected = vector
        if self.hd_dim is not None:
            rows = orthonormal_rows(channels, self.hd_dim, seed=self.seed).to(vector.device)
            self.overlap = rows @ rows.mT
            projected = vector @ self.overlap.double()
        length = (vector * projected).sum(dim=1, keepdim=True).sqrt()
        self.prototype = torch.where(length > 0, projected / length, 0).mT.contiguous()

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) cosines; 0 for an image that equals the mean."""
        feature = F.normalize(self._pooled(seen)[0].double() - self.mean)
        cosine = (feature @ self.prototype).amax(dim=1)
        if self.hd_dim is None:
            return cosine
        single = feature.float()
        square = (single @ self.overlap * single).sum(dim=1)
        return torch.where(square > 0, cosine / square.double().sqrt(), 0)

    def _pooled(self, seen: ForwardPass) -> tuple[Tensor, Tensor]:
        """Returns the (B, sum of channels) pooled maps and the (B, L) means of the maps."""
        parts = [seen.read(block, reader) for block, reader in self.reads(seen.network)]
        feature = torch.cat([part[:, :-1] for part in parts], dim=1)
        return feature, torch.stack([part[:, -1] for part in parts], dim=1)

    def extra_repr(self) -> str:
        """Describes all arguments."""
        blocks = super().extra_repr()
        return f"{blocks}, pool={self.pool!r}, hd_dim={self.hd_dim}, seed={self.seed}"
