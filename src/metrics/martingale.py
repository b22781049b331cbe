"""The bets of conformal test martingales, and the capital that they leave."""

__all__ = [
    "BETS",
    "EPSILONS",
    "POWER",
    "SHARES",
    "Array",
    "accumulated",
    "bound_of_mean",
    "cells",
    "log_bets",
    "opening",
    "power",
]

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Array = NDArray[np.float64]

EPSILONS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])  # the smaller, the more is won by a tiny p-value
SHARES = np.array([1.0, 0.3, 0.1, 0.03])  # of the capital that is bet on each image
BETS = len(EPSILONS) * len(SHARES)
POWER = 2  # the bet of everything at epsilon 0.5


def power(p: Array) -> Array:
    r"""Returns (E, ...): \(\epsilon p^{\epsilon - 1}\), whose integral is 1, for each epsilon."""
    epsilon = EPSILONS.reshape(-1, *[1] * p.ndim)
    value: Array = epsilon * p ** (epsilon - 1)
    return value


def cells(n: int) -> Array:
    """Returns (E, n + 1): the mean of `power` between p-values r / (n + 1) and the next."""
    edge = np.linspace(0, 1, n + 2)
    value: Array = np.diff(edge ** EPSILONS[:, None], axis=1) * (n + 1)
    return value


def bound_of_mean(value: Array, delta: float) -> float:
    r"""Returns what a bet wins at most in the mean over ID images, given n of them.

    A new image falls between neighbouring scores of the n with probabilities B that are
    Dirichlet(1, ..., 1) over calibration sets. So the mean \(\sum_r e_r B_r\) exceeds

    \[\frac{1}{u} \Bigl(1 - \bigl(\delta \prod_r (1 - u e_r)\bigr)^{1 / (n + 1)}\Bigr)\]

    with a probability of at most delta, for any \(0 < u < 1 / \max e\): write B as exponential
    variables over their sum, and use Markov's inequality on \(\exp(s \sum_r (e_r - c) E_r)\). The
    best u is taken. It depends on e alone, not on scores. With ties the mean is smaller, as e
    falls with the rank.

    Args:
        value: (n + 1,) bets e, from the smallest p-value to the largest, falling.
        delta: Share of the calibration sets for which it may be more.
    """

    def bound(u: float) -> float:
        exponent = (np.log1p(-u * value).sum() + np.log(delta)) / len(value)
        return float(-np.expm1(exponent) / u)

    largest = 1 / value.max()
    found = minimize_scalar(
        lambda log: bound(np.exp(log)), bounds=(np.log(largest) - 20, np.log(largest) - 1e-9),
        method="bounded",
    )  # fmt: skip
    return float(found.fun)


def log_bets(value: Array) -> Array:
    """Returns (K, ...): logarithms of the bets (E, ...) with each share of the capital."""
    share = SHARES.reshape(-1, *[1] * value.ndim)
    log: Array = np.log(1 - share + share * value)
    return log.reshape(BETS, *value.shape[1:])


def opening(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns what `accumulated` carries at the start of streams of this shape."""
    return np.zeros((BETS, *shape)), np.full((BETS, *shape), np.log(0.5))


def accumulated(
    bet: Array, position: int, carry: tuple[Array, Array]
) -> tuple[Array, tuple[Array, Array]]:
    r"""Returns the logarithms of the capital (3, ..., T) after each image, and what is carried.

    `carry` has, for each bet, \(\log M_t\), the capital that started with the stream, and the
    logarithm of \(\sum_{s \le t + 1} \pi_s / M_{s - 1}\), where the share \(\pi_s = 1 / (s (s +
    1))\) of the capital starts to bet at image s. The product of the two is what has started.
    The share \(1 / (t + 1)\) has not yet.

    Args:
        bet: (K, ..., T) logarithms of the bets on T images.
        position: Number of images before these.
        carry: What came back for the images before, or `opening`.
    """
    wealth = np.add.accumulate(np.concatenate([carry[0][..., None], bet], axis=-1), axis=-1)[
        ..., 1:
    ]
    seen = np.arange(position + 1.0, position + bet.shape[-1] + 1)
    entering = -np.log((seen + 1) * (seen + 2)) - wealth
    entry = np.logaddexp.accumulate(
        np.concatenate([carry[1][..., None], entering], axis=-1), axis=-1
    )
    mixture, started = (
        np.logaddexp.reduce(each, axis=0) - np.log(BETS)
        for each in (wealth, wealth + entry[..., :-1])
    )
    restart = np.logaddexp(started, -np.log(seen + 1))
    capital = np.stack([wealth[POWER], mixture, restart])
    return capital, (wealth[..., -1] if bet.shape[-1] else carry[0], entry[..., -1])
