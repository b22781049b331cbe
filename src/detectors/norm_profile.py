"""The profile of norms: every block weighs in, by what it says of distorted ID images."""

__all__ = ["NormProfile"]

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from src.detectors.base import BlocksDetector
from src.metrics.norm_ratio import mean_activation
from src.metrics.statistics import Bank
from src.network import ForwardPass, Network, Reader

SMALLEST = 1e-8  # keeps the logarithm of a norm finite where nothing is active
CONSTANT = 1e-9  # deviation, below which an input says nothing


class NormProfile(BlocksDetector):
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
        ValueError: If there is nothing to read, the pool is empty or the penalty is negative;
            in `fit`, if there are fewer ID images than weights.

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

    fit_on = "validation"

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
        super().__init__(None if blocks is None else tuple(blocks))
        self.pool, self.statistics = dict(pool), tuple(statistics)
        self.energy, self.nonnegative, self.penalty = energy, nonnegative, penalty
        some = self.pool and (self.statistics or energy)
        if not some or not {*self.statistics} <= {"norm", "mean"} or penalty < 0:
            raise ValueError(
                "expected a pool of pseudo-OOD, statistics out of norm and mean, and a penalty of "
                f"at least 0, got {list(self.pool)}, {list(self.statistics)} and {penalty}; name "
                "at least one pseudo-OOD, such as those of conf/selection/pool"
            )
        self.bank = Bank()
        self.learns("weight", "mean", "deviation", "bias")

    def check(self, network: Network) -> None:
        """Checks the blocks, and that a member of the pool fits the images.

        Raises:
            ValueError: If one is missing.
        """
        super().check(network)
        if not self.members(network):
            side = min(network.image_shape[1:])
            raise ValueError(
                f"expected pseudo-OOD for images of {side} pixels a side, got a pool of "
                f"{', '.join(self.pool)}, which need more; choose smaller ones"
            )

    def fewest_images(self, network: Network) -> int:
        """Returns one more than there are weights."""
        return len(self.statistics) * len(self.blocks or network.blocks) + self.energy + 1

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

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds the inputs of ID images, and of each pseudo-OOD version in a forward pass more."""
        read = tuple(self.reads(seen.network))
        rows = [self.inputs(seen)]
        for pseudo_ood in self.members(seen.network).values():
            image = pseudo_ood(seen.image, index)
            rows.append(self.inputs(seen.network.observe(image, keep_maps=False, read=read)))
        self.bank.update(torch.stack(rows, dim=1), index)

    def members(self, network: Network) -> dict[str, Any]:
        """Returns those of the pool for which the network's images are large enough."""
        side = min(network.image_shape[1:])
        return {k: each for k, each in self.pool.items() if getattr(each, "smallest", 1) <= side}

    def fit(self, network: Network) -> None:
        """Computes means, deviations and weights."""
        row = self.bank.compute()  # (N, 1 + members, D)
        if len(row) <= row.shape[2]:
            raise ValueError(
                f"expected more held-out images than the {row.shape[2]} weights to learn, got "
                f"{len(row)}; raise data.validation_size, or read fewer statistics or blocks"
            )
        self.mean, deviation = row[:, 0].mean(dim=0), row[:, 0].std(dim=0, correction=0)
        self.deviation = deviation.where(deviation > CONSTANT, torch.inf)  # it says nothing
        standard = ((row - self.mean) / self.deviation).cpu().numpy()
        weight, bias = log_odds(standard, self.penalty, nonnegative=self.nonnegative)
        self.weight, self.bias = row.new_tensor(weight), row.new_tensor(bias)

    def block_weights(self, network: Network) -> dict[str, dict[str, float | None]]:
        """Returns block -> "norm" or "mean" -> weight, and "logits" -> "energy" -> weight."""
        found: dict[str, dict[str, float | None]] = {}
        varies, weights = self.deviation.isfinite().tolist(), self.weight.tolist()
        for (block, name), weight, is_used in zip(
            self.names(network), weights, varies, strict=True
        ):
            found.setdefault(block, {})[name] = weight if is_used else None
        return found

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) log odds of being in-distribution."""
        return (self.inputs(seen) - self.mean) / self.deviation @ self.weight + self.bias

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return (
            f"{self.pool!r}, statistics={self.statistics!r}, energy={self.energy}, "
            f"nonnegative={self.nonnegative}, penalty={self.penalty}, blocks={self.blocks!r}"
        )

    def probability(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) probabilities of being in-distribution, of ID against the pool."""
        return self.score(seen).sigmoid()


def log_odds(
    row: NDArray[np.float64], penalty: float, *, nonnegative: bool
) -> tuple[NDArray[np.float64], float]:
    """Returns the weights and the bias of a class-balanced logistic regression.

    Args:
        row: (N, 1 + M, D) inputs of ID images, followed by those of their M changed versions.
        penalty: Half the factor of the weights' squared length, beside a loss whose weights sum
            to the number of rows.
        nonnegative: Whether weights are at least 0.
    """
    _, versions, size = row.shape
    flat = row.reshape(-1, size)
    sign = np.where(np.arange(len(flat)) % versions == 0, 1.0, -1.0)
    share = np.where(sign > 0, versions / 2, versions / (2 * (versions - 1)))

    def loss(parameter: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, bias = parameter[:-1], parameter[-1]
        odds = sign * (flat @ weight + bias)
        slope = -share * sign * expit(-odds)
        total = share @ np.logaddexp(0, -odds) + penalty * weight @ weight / 2
        return total, np.append(slope @ flat + penalty * weight, slope.sum())

    bounds = [(0 if nonnegative else None, None)] * size + [(None, None)]
    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-8}
    found = minimize(
        loss, np.zeros(size + 1), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return found.x[:-1], float(found.x[-1])
