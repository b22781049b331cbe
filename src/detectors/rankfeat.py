"""RankFeat: without the strongest direction of its feature map, an OOD image has little left."""

__all__ = ["RankFeat", "without_first_direction"]

from collections.abc import Sequence

import torch
from torch import Tensor

from src.detectors.base import Detector, blocks_of
from src.network import ForwardPass, Network


def without_first_direction(matrix: Tensor) -> Tensor:
    r"""Returns matrices (B, M, N) less their largest rank-one part, \(X - s_1 u_1 v_1^T\).

    Of the singular vectors only the first one of the smaller side is computed, exactly, as an
    eigenvector of that side's Gram matrix in float64: \(X - u_1 u_1^T X\).
    """
    if matrix.shape[1] > matrix.shape[2]:
        return without_first_direction(matrix.mT).mT
    exact = matrix.double()
    first = torch.linalg.eigh(exact @ exact.mT).eigenvectors[:, :, -1:]  # (B, M, 1)
    remainder: Tensor = exact - first @ (first.mT @ exact)
    return remainder.to(matrix.dtype)


class RankFeat(Detector):
    r"""Energy after the largest rank-one part of feature maps is removed.

    A block's output, as a matrix \(X\) of channels by positions, becomes
    \(X - s_1 u_1 v_1^T\), and the network goes on from there. The logits of the blocks are
    averaged, and the score is \(\log \sum_k \exp \bar{l}_k\).

    Args:
        blocks: module paths; None for the last block and the last one of a larger map, which are
            the ends of the last two stages. If there is none, as in a vision transformer, the
            block before the last, as the authors have it there.

    Source:
        Song, Sebe and Wang, "RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection",
        NeurIPS 2022, https://arxiv.org/abs/2209.08590;
        https://github.com/KingJamesSong/RankFeat.
    Differs:
        Each block costs a whole forward pass; the authors go on from the block. They offer twenty
        power iterations, from a random start, in place of the exact decomposition. Tokens, class
        tokens with them, count as positions.
    """

    def __init__(self, blocks: Sequence[str] | None = None) -> None:
        super().__init__()
        self.blocks = None if blocks is None else tuple(blocks)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) energies; one more forward pass for each block."""
        network = seen.network
        logits = [
            self._logits(network, block, seen.image).double() for block in self._blocks(network)
        ]
        return torch.stack(logits).mean(dim=0).logsumexp(dim=1)

    def _blocks(self, network: Network) -> tuple[str, ...]:
        if self.blocks is not None:
            return blocks_of(network, self.blocks)
        size = {b: place.shape[1] * place.shape[2] for b, place in network.places.items()}
        last = network.blocks[-1]
        larger = [block for block in network.blocks if size[block] > size[last]]
        return (larger[-1], last) if larger else network.blocks[-2:][:1]

    def _logits(self, network: Network, block: str, image: Tensor) -> Tensor:
        """Returns the (B, K) logits of a network whose block lost the first direction."""
        positions_last = network.places[block].layout == "channels_first"

        def change(output: Tensor) -> Tensor:
            matrix = output.flatten(2) if positions_last else output.flatten(1, -2)
            return without_first_direction(matrix).reshape(output.shape)

        with network.changed(block, change):
            logits: Tensor = network(image)
        return logits

    def extra_repr(self) -> str:
        """Names the blocks."""
        return f"blocks={self.blocks!r}"
