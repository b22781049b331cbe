"""Neural mean discrepancy: the channel means of all blocks against those of ID images."""

__all__ = ["NMD"]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from src.detectors.base import BlocksDetector, mean_pool
from src.detectors.norm_profile import CONSTANT, log_odds
from src.metrics.statistics import Bank
from src.network import ForwardPass, Network, Reader

IMAGES = 2000  # ID images, chosen by hashed index, whose channel means are kept for the fit


class NMD(BlocksDetector):
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
        ValueError: If the pool is empty or the penalty is not above zero; in `check`, if a member
            of the pool needs larger images; in `fit`, if no channel varies.

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

    fit_on = "validation"

    def __init__(
        self,
        pool: Mapping[str, Any],
        *,
        penalty: float = 1.0,
        blocks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(blocks)
        if not pool or penalty <= 0:
            raise ValueError(
                "expected a pool of pseudo-OOD and a penalty above zero, got "
                f"{list(pool)} and {penalty}; name at least one, such as those of "
                "conf/selection/pool, and take 1"
            )
        self.pool, self.penalty = dict(pool), penalty
        self.bank = Bank(IMAGES)
        self.learns("mean", "deviation", "weight", "bias")

    def check(self, network: Network) -> None:
        """Checks the blocks, and that the images are large enough for the pool.

        Raises:
            ValueError: If they are not.
        """
        super().check(network)
        side = min(network.image_shape[1:])
        for name, member in self.pool.items():
            if getattr(member, "smallest", 1) > side:
                raise ValueError(
                    f"expected pseudo-OOD for images of {side} pixels a side, got {name}, which "
                    f"needs {member.smallest}; leave it out"
                )

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns every block with the reader of its spatial means."""
        return tuple((block, mean_pool) for block in self.blocks_of(network))

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds channel means of ID images, and of each pseudo-OOD version in one more pass."""
        read = tuple(self.reads(seen.network))
        rows = [self._means(seen)]
        for pseudo_ood in self.pool.values():
            image = pseudo_ood(seen.image, index)
            rows.append(self._means(seen.network.observe(image, keep_maps=False, read=read)))
        self.bank.update(torch.stack(rows, dim=1), index)

    def fit(self, network: Network) -> None:
        """Computes means, deviations and weights."""
        row = self.bank.compute().double()  # (N, 1 + members, D)
        mean, deviation = row[:, 0].mean(dim=0), row[:, 0].std(dim=0, correction=0)
        if not (deviation > CONSTANT).any():
            raise ValueError(
                f"expected ID images whose channel means differ, got {len(row)} with the same; "
                "use more images, or other blocks"
            )
        self.mean, self.deviation = mean, deviation.where(deviation > CONSTANT, torch.inf)
        standard = ((row - self.mean) / self.deviation).cpu().numpy()
        weight, bias = log_odds(standard, self.penalty, nonnegative=False)
        self.weight, self.bias = row.new_tensor(weight), row.new_tensor(bias)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) log odds of being in-distribution."""
        return (self._means(seen) - self.mean) / self.deviation @ self.weight + self.bias

    def _means(self, seen: ForwardPass) -> Tensor:
        """Returns the (B, D) channel means of all blocks."""
        return torch.cat([seen.read(*pair) for pair in self.reads(seen.network)], dim=1).float()

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"{self.pool!r}, penalty={self.penalty}, blocks={self.blocks!r}"
