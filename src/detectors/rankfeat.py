"""RankFeat: scores an image without the strongest direction of its feature maps."""

__all__ = ["RankFeat", "without_first_direction"]

import torch
from torch import Tensor

from src.detectors.base import BlocksDetector
from src.network import ForwardPass, Network


def without_first_direction(matrix: Tensor) -> Tensor:
    r"""Returns matrices (B, M, N) less their largest rank-one part, \(X - s_1 u_1 v_1^T\).

    Only the first singular vector of the smaller side is computed, exactly, as an eigenvector of
    the Gram matrix of that side in float64: \(X - u_1 u_1^T X\).
    """
    if matrix.shape[1] > matrix.shape[2]:
        return without_first_direction(matrix.mT).mT
    exact = matrix.double()
    first = torch.linalg.eigh(exact @ exact.mT).eigenvectors[:, :, -1:]  # (B, M, 1)
    remainder: Tensor = exact - first @ (first.mT @ exact)
    return remainder.to(matrix.dtype)


class RankFeat(BlocksDetector):
    r"""Energy after the largest rank-one part of feature maps is removed.

    The output of a block, as a matrix \(X\) of channels by positions, becomes
    \(X - s_1 u_1 v_1^T\), and the network continues from there. The logits are averaged over
    blocks, and the score is \(\log \sum_k \exp \bar{l}_k\).

    Args:
        blocks: Module paths. None takes the ends of the last two stages: the last block and the
            last one with a larger map. If no block has a larger map, as in a vision transformer,
            it takes the block before the last, as the authors do.

    Source:
        Song, Sebe and Wang, "RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection",
        NeurIPS 2022, https://arxiv.org/abs/2209.08590;
        https://github.com/KingJamesSong/RankFeat.
    Fitted on:
        Nothing.
    Needs:
        Feature maps of blocks.
    Extra passes:
        One forward pass for each of its blocks, two by default.
    Differs:
        Each block costs a whole forward pass; the authors continue from the block. They offer
        twenty power iterations from a random start instead of the exact decomposition. Tokens,
        including class tokens, count as positions.
    """

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) energies; one more forward pass for each block."""
        network = seen.network
        logits = [
            self._logits(network, block, seen.image).double() for block in self.blocks_of(network)
        ]
        return torch.stack(logits).mean(dim=0).logsumexp(dim=1)

    def blocks_of(self, network: Network) -> tuple[str, ...]:
        """Returns the module paths of the blocks, in execution order."""
        if self.blocks is not None:
            return super().blocks_of(network)
        size = {b: place.shape[1] * place.shape[2] for b, place in network.places.items()}
        last = network.blocks[-1]
        larger = [block for block in network.blocks if size[block] > size[last]]
        return (larger[-1], last) if larger else network.blocks[-2:][:1]

    def _logits(self, network: Network, block: str, image: Tensor) -> Tensor:
        """Returns the (B, K) logits without the first direction of the block's map."""
        positions_last = network.places[block].layout == "channels_first"

        def change(output: Tensor) -> Tensor:
            matrix = output.flatten(2) if positions_last else output.flatten(1, -2)
            return without_first_direction(matrix).reshape(output.shape)

        with network.changed(block, change):
            logits: Tensor = network(image)
        return logits
