"""Conformal p-values: the rank of a score among those of held-out ID images, and its promise."""

__all__ = [
    "allowed",
    "benjamini_hochberg",
    "false_alarm_bound",
    "needed",
    "p_value",
    "smallest_alpha",
]

from fractions import Fraction
from math import ceil

import torch
from scipy.stats import beta
from torch import Tensor


def p_value(score: Tensor, known: Tensor) -> Tensor:
    r"""Returns the (B,) conformal p-values of (B,) scores; small = out-of-distribution.

    \(p = (1 + \#\{i : s_i \le s\}) / (n + 1)\) for the scores \(s_i\) of n ID images. If an
    image and these are exchangeable, \(P(p \le \alpha) \le \alpha\). Ties make p larger, never
    smaller. A score of NaN has the smallest p-value.

    Source:
        Bates et al., "Testing for Outliers with Conformal p-values", Annals of Statistics 2023,
        https://arxiv.org/abs/2104.08279, equation 2.
    """
    return (1 + count_below(score, known)).double() / (len(known) + 1)


def count_below(score: Tensor, known: Tensor) -> Tensor:
    """Returns (B,): how many of the (n,) known scores are at most each (B,) score."""
    return (known[None] <= score[:, None]).sum(dim=1)


def allowed(n: int, alpha: float) -> int:
    r"""Returns the rank up to which an image is OOD: \(\lfloor (n + 1) \alpha \rfloor\).

    `alpha` counts as the decimal number that it is written as: 0.05 of 200 is 10.

    Raises:
        ValueError: If alpha is not within (0, 1), or so small that no rank is left.
    """
    if not 0 < alpha < 1:
        raise ValueError(
            f"expected alpha, the rate of false alarms, within (0, 1), got {alpha}; 0.05 is usual"
        )
    rank = int((n + 1) * Fraction(str(alpha)))
    if rank == 0:
        raise ValueError(
            f"expected alpha of at least {smallest_alpha(n):.4g}, as there are {n} calibration "
            f"images, got {alpha}; raise it, or calibrate on {needed(alpha)} images"
        )
    return rank


def smallest_alpha(n: int) -> float:
    """Returns the smallest alpha at which n calibration images can flag anything."""
    return 1 / (n + 1)


def needed(alpha: float) -> int:
    """Returns the number of calibration images that an alpha needs."""
    return ceil(1 / Fraction(str(alpha))) - 1


def false_alarm_bound(n: int, alpha: float, confidence: float = 0.95) -> float:
    r"""Returns the rate of false alarms that calibration on n images rarely exceeds.

    Over calibration sets, the rate of a continuous score is distributed as
    \(\mathrm{Beta}(k, n + 1 - k)\) with \(k = \lfloor (n + 1) \alpha \rfloor\). Its mean is at
    most alpha. With ties it is smaller.

    Args:
        n: Number of calibration images.
        alpha: Promised mean rate.
        confidence: Share of the calibration sets for which the bound holds.

    Raises:
        ValueError: If alpha is not within (0, 1), or below `smallest_alpha`.

    Source:
        Vovk, "Conditional Validity of Inductive Conformal Predictors", ACML 2012,
        https://arxiv.org/abs/1209.2673, proposition 2b.
    """
    rank = allowed(n, alpha)
    return float(beta.ppf(confidence, rank, n + 1 - rank))


def benjamini_hochberg(p: Tensor, rate: float) -> Tensor:
    """Returns (m,) booleans: the images of a batch called out-of-distribution together.

    Of these, at most the share `rate` are ID images, in the mean over batches and calibration
    sets. The decision depends on the other images of the batch. NaN, an image without p-value, is
    never called, and does not count.

    Args:
        p: (m,) conformal p-values of one calibration set.
        rate: False discovery rate, within (0, 1).

    Raises:
        ValueError: If the rate is not within (0, 1).

    Source:
        Benjamini and Hochberg, "Controlling the False Discovery Rate", JRSS B 1995; for conformal
        p-values Bates et al., https://arxiv.org/abs/2104.08279, theorem 2.
    """
    if not 0 < rate < 1:
        raise ValueError(
            f"expected a false discovery rate within (0, 1), got {rate}; 0.1 is usual"
        )
    known = p[~p.isnan()].sort().values
    rank = torch.arange(1, len(known) + 1, dtype=p.dtype, device=p.device)
    passed = known[known <= rate * rank / max(1, len(known))]
    return p <= passed[-1] if len(passed) else torch.zeros_like(p, dtype=torch.bool)
