"""Neural mean discrepancy: the channel means of all blocks against those of ID images."""

__all__ = ["NMD"]

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from src.detectors.base import mean_pool
from src.detectors.log_odds import LogOdds
from src.network import ForwardPass, Network, Reader

IMAGES = 2000  # ID images, chosen by hashed index, whose channel means are kept for the fit


class NMD(LogOdds):
    r"""Neural mean discrepancy of the channels of all blocks.

    The discrepancy of a channel is its spatial mean minus that of ID images, here divided by the
    standard deviation of ID images. The score is the log odds of a logistic regression on them
    that tells ID images from pseudo-OOD ones, both classes at equal weight, with the penalty
    \(\lambda \|w\|^2 / 2\).

    Args:
        pool: Name -> pseudo-OOD (images, indices) -> images, at least one.
        penalty: Strength \(\lambda\) of the penalty, above zero.
        blocks: Module paths, in any order. None takes all blocks of the network.

    Attributes:
        mean: (D,) means of the D channels on ID images.
        deviation: (D,) standard deviations on ID images; infinite for a channel that never varies,
            which then says nothing.
        weight: (D,) weights of the discrepancies, larger = speaks for ID.
        bias: () log odds of an image with the mean of each channel.

    Raises:
        ValueError: If the pool is empty or the penalty is not above zero; in `check`, if all
            members of the pool need larger images.

    Source:
        Dong et al., "Neural Mean Discrepancy for Efficient Out-of-Distribution Detection",
        CVPR 2022, https://arxiv.org/abs/2104.11408.
    Fitted on:
        2,000 ID validation images.
    Needs:
        Feature maps of several blocks.
    Extra passes:
        While fitting, one forward pass for each member of the pool.
    Differs:
        The authors compare with the training images, or with the running means of batch
        normalisation. They also learn from OOD images, and with a small neural network. They do
        not standardise. The mean size of the discrepancies, which would need no pool, is no score:
        in deep blocks it is larger for ID images, which activate the channels of their class.
    """

    def __init__(
        self,
        pool: Mapping[str, Any],
        *,
        penalty: float = 1.0,
        blocks: Iterable[str] | None = None,
    ) -> None:
        super().__init__(pool, penalty=penalty, images=IMAGES, blocks=blocks)
        if penalty == 0:
            raise ValueError("expected a penalty above 0, got 0; 1 is usual")

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns every block with the reader of its spatial means."""
        return tuple((block, mean_pool) for block in self.blocks_of(network))

    def inputs(self, seen: ForwardPass) -> Tensor:
        """Returns the (B, D) channel means of all blocks, in float32."""
        return torch.cat([seen.read(*pair) for pair in self.reads(seen.network)], dim=1).float()

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"{self.pool!r}, penalty={self.penalty}, blocks={self.blocks!r}"
