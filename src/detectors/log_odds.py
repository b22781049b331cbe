"""A logistic regression of ID images against pseudo-OOD ones, on what blocks say of both."""

__all__ = ["CONSTANT", "LogOdds", "log_odds"]

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from src.detectors.base import BlocksDetector
from src.metrics.statistics import Bank
from src.network import ForwardPass, Network

CONSTANT = 1e-9  # deviation, below which an input says nothing


class LogOdds(BlocksDetector):
    r"""Log odds of ID against distorted ID images.

    A subclass says in `reads` and `inputs` what it knows of an image. The inputs are standardised
    on ID images. The weights are those of a logistic regression, both classes at equal weight,
    with the penalty \(\lambda \|w\|^2 / 2\).

    Args:
        pool: Name -> pseudo-OOD (images, indices) -> images, at least one.
        penalty: Strength \(\lambda\) of the penalty.
        nonnegative: Whether weights are at least 0.
        images: Number of ID images to fit on, chosen by hashed index. None takes all.
        blocks: Module paths, in any order. None takes all blocks of the network.

    Attributes:
        weight: (D,) weights of the standardised inputs, larger = speaks for ID.
        mean: (D,) means of the inputs on ID images.
        deviation: (D,) standard deviations of the inputs on ID images; infinite for an input
            that never varies, which then says nothing. If none varies, the score is constant.
        bias: () log odds of an image with the inputs' means.

    Raises:
        ValueError: If the pool is empty or the penalty is negative; in `check`, if all members of
            the pool need larger images.
    """

    fit_on = "validation"

    def __init__(
        self,
        pool: Mapping[str, Any],
        *,
        penalty: float = 1.0,
        nonnegative: bool = False,
        images: int | None = None,
        blocks: Iterable[str] | None = None,
    ) -> None:
        super().__init__(None if blocks is None else tuple(blocks))
        if not pool or penalty < 0:
            raise ValueError(
                "expected a pool of pseudo-OOD and a penalty of at least 0, got "
                f"{list(pool)} and {penalty}; name at least one, such as those of "
                "conf/selection/pool"
            )
        self.pool, self.penalty, self.nonnegative = dict(pool), penalty, nonnegative
        self.bank = Bank(images)
        self.learns("weight", "mean", "deviation", "bias")

    def inputs(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) inputs."""
        raise NotImplementedError

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
        row = self.bank.compute().double()  # (N, 1 + members, D)
        self.mean, deviation = row[:, 0].mean(dim=0), row[:, 0].std(dim=0, correction=0)
        self.deviation = deviation.where(deviation > CONSTANT, torch.inf)  # it says nothing
        standard = ((row - self.mean) / self.deviation).cpu().numpy()
        weight, bias = log_odds(standard, self.penalty, nonnegative=self.nonnegative)
        self.weight, self.bias = row.new_tensor(weight), row.new_tensor(bias)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) log odds of being in-distribution."""
        return (self.inputs(seen) - self.mean) / self.deviation @ self.weight + self.bias

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
    if not np.isfinite(row).all():  # the network overflows: the scores are NaN, and refused
        return np.full(size, np.nan), np.nan
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
