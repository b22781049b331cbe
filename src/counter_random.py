"""Counter-based random numbers: each is a pure function of (seed, index, draw)."""

__all__ = ["random_bits"]

import torch
from torch import Tensor

GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # SplitMix64's odd increment, as a signed integer
INT64_MAX = 2**63 - 1


def random_bits(index: Tensor, draws: int, *, seed: int) -> Tensor:
    """Returns random integers that depend on the seed and on each sample's index alone.

    The same sample gets the same numbers in any batch and order, on any device and any number of
    processes. The global random state is neither read nor changed.

    Args:
        index: (B,) int64 numbers of the samples.
        draws: Number of draws per sample, D.
        seed: Any integer; other seeds give independent numbers.

    Returns:
        (B, D) int64, uniform in [0, 2**63).

    Source:
        SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
        OOPSLA 2014, https://doi.org/10.1145/2714064.2660195.
    """
    first = (seed + GOLDEN_GAMMA + 2**63) % 2**64 - 2**63  # of any size, folded into an int64
    key = int(_mix(torch.tensor(first)))  # on the CPU: a GPU would have to be waited for
    stream = _mix(key + (index + 1) * GOLDEN_GAMMA)
    counter = torch.arange(1, draws + 1, device=index.device) * GOLDEN_GAMMA
    bits: Tensor = _mix(stream[:, None] + counter) & INT64_MAX
    return bits


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 products wrap around, as its unsigned ones do."""
    bits = (bits ^ _shift_right(bits, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ _shift_right(bits, 27)) * (0x94D049BB133111EB - 2**64)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Logical shift; torch's own copies the sign bit."""
    sign_free: int = 2 ** (64 - places) - 1
    return (bits >> places) & sign_free
