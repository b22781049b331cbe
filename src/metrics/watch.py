"""A watch over a stream of scores: an alarm when they stop being like those of ID images."""

__all__ = ["MARTINGALES", "REFERENCES", "Watch", "Watched", "rows"]

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.counter_random import random_bits
from src.metrics.martingale import (
    BETS,
    EPSILONS,
    Array,
    accumulated,
    bound_of_mean,
    cells,
    log_bets,
    opening,
    power,
)

MARTINGALES = ("power", "mixture", "restart")
REFERENCES = ("growing", "fixed")
CHUNK = 512  # images that are ranked together
FORMAT = 1  # of a state


class Watched(NamedTuple):
    """What a watch says after each image of a batch."""

    position: Tensor  # (B,) int64, images seen so far, this one included
    p_value: Tensor  # (B,) float64 in (0, 1], small = out-of-distribution
    power: Tensor  # (B,) float64, log10 of the capital of each martingale
    mixture: Tensor
    restart: Tensor
    alarm: Tensor  # (B,) bool, whether the alarm has been raised, now or before


class Watch:
    r"""Raises an alarm when a stream of scores stops looking like that of ID images.

    It bets against the claim that the stream is ID. Each image multiplies the capital of a bet by
    \(1 - w + w \epsilon p^{\epsilon - 1}\), which is large for a small p-value and has a mean of
    at most 1 on an ID stream. The alarm is raised when the capital reaches \(1 / \delta\). By
    Ville's inequality, an ID stream of any length raises it with a probability of at most
    \(\delta\). Three martingales bet: "power" with \(\epsilon = 0.5\) and \(w = 1\), "mixture" is
    the mean over a grid of \(\epsilon\) and \(w\), and "restart" is the mean over this grid and
    over the image at which the betting starts, so that a change late in the stream counts, too.
    Only the chosen one raises the alarm; the promise does not hold for all three together.

    With the reference "growing", the p-value is the rank among the calibration images and all
    earlier ones of the stream, ties broken at random:
    \(p = (\#\{s_i < s\} + (\#\{s_i = s\} + 1) U) / (m + 1)\). These are independent and uniform if
    calibration and stream are exchangeable, so the promise is exact, in the mean over calibration
    sets. OOD images become part of the reference: those of a shift that is weak, or met with few
    images of reference, may be absorbed before the alarm. Every score is kept.

    With the reference "fixed", \(p = (1 + \#\{s_i \le s\}) / (n + 1)\), ranked among the n
    calibration images alone. Given one calibration set these p-values are not uniform, and plain
    martingales raise false alarms. Each bet is therefore divided by a bound of its mean that holds
    for all but \(\delta / 2\) of the calibration sets, and the capital starts at 1/2. So the
    promise holds for independent images of one distribution. Nothing is absorbed, and memory is
    bounded, but a shift too weak for n images to tell is never found.

    A score of NaN counts as the smallest. A stream is watched in order by one process.

    Args:
        known: (n,) scores of ID images that calibrate; higher = more in-distribution. P-values
            are scores, too.
        delta: Largest probability of a false alarm, ever, within (0, 1).
        martingale: The one that raises the alarm.
        reference: What an image is compared with.
        seed: Breaks ties if the reference grows; together with the position in the stream.

    Attributes:
        position: Number of images seen.
        alarm: Value of `position` when the alarm was raised; None if it was not.

    Raises:
        ValueError: If there is no score, one is not finite, delta is not within (0, 1), or there
            is no such martingale or reference.

    Source:
        Vovk, Nouretdinov and Gammerman, "Testing exchangeability on-line", ICML 2003, for power
        and mixture; Vovk, "Testing randomness online", https://arxiv.org/abs/1906.09256.

    Example:
        >>> watch = Watch(torch.arange(1000.0), delta=0.01)
        >>> watch.update(torch.full((20,), -1.0)).alarm.any().item(), watch.alarm
        (True, 2)
    """

    def __init__(
        self,
        known: Tensor,
        *,
        delta: float = 0.01,
        martingale: str = "restart",
        reference: str = "growing",
        seed: int = 0,
    ) -> None:
        if known.ndim != 1 or len(known) == 0 or not known.isfinite().all():
            raise ValueError(
                f"expected finite scores (n,) of calibration images, got shape "
                f"{tuple(known.shape)}{'' if known.isfinite().all() else ' with NaN or infinity'}"
                "; pass the `known` of a calibration"
            )
        if not 0 < delta < 1:
            raise ValueError(
                "expected delta, the probability of a false alarm, within (0, 1), got "
                f"{delta}; 0.01 is usual"
            )
        for name, value, allowed in (
            ("martingale", martingale, MARTINGALES),
            ("reference", reference, REFERENCES),
        ):
            if value not in allowed:
                raise ValueError(
                    f"expected the {name} to be one of {', '.join(allowed)}, got {value!r}"
                )
        self.delta, self.martingale, self.reference = delta, martingale, reference
        self.seed, self.position = seed, 0
        self.alarm: int | None = None
        ordered = np.sort(_finite(known))
        self._reference: Growing | Fixed
        if reference == "growing":
            self._reference = Growing(ordered, seed)
        else:
            self._reference = Fixed(ordered, delta / 2)
        self._carry = opening(())

    def update(self, score: Tensor) -> Watched:
        """Bets on each of (B,) scores, in order; how a stream is cut into batches is irrelevant.

        Raises:
            ValueError: If the scores are not (B,).
        """
        if score.ndim != 1:
            raise ValueError(f"expected scores (B,), got {tuple(score.shape)}; flatten them")
        value = _finite(score)
        parts = [self._bet(part) for part in np.split(value, range(CHUNK, len(value), CHUNK))]
        first = self.position - len(value)
        position = torch.arange(first + 1, self.position + 1)
        p_value = torch.from_numpy(np.concatenate([p for p, _ in parts]))
        capital = torch.from_numpy(np.concatenate([log for _, log in parts], axis=1))
        power, mixture, restart = capital / np.log(10)
        alarm = position >= (self.position + 1 if self.alarm is None else self.alarm)
        return Watched(position, p_value, power, mixture, restart, alarm)

    def _bet(self, score: Array) -> tuple[Array, Array]:
        """Returns (B,) p-values and (3, B) logarithms of capital of at most `CHUNK` scores."""
        p_value, bet = self._reference.bet(score, self.position)
        capital, self._carry = accumulated(bet, self.position, self._carry)
        capital += self._reference.start
        over = capital[MARTINGALES.index(self.martingale)] >= -np.log(self.delta)
        if self.alarm is None and over.any():
            self.alarm = self.position + 1 + int(over.argmax())
        self.position += len(score)
        return p_value, capital

    def state(self) -> dict[str, Any]:
        """Returns numbers, strings and lists from which `restored` goes on, bit by bit."""
        wealth, entry = self._carry
        return {
            "format": FORMAT,
            "delta": self.delta,
            "martingale": self.martingale,
            "reference": self.reference,
            "seed": self.seed,
            "position": self.position,
            "alarm": self.alarm,
            "wealth": wealth.tolist(),
            "entry": entry.tolist(),
            "known": self._reference.known.tolist(),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Watch":
        """Returns the watch that had this state, also after a way through JSON.

        Raises:
            ValueError: If it is not a state of this version of the watch.
        """
        try:
            carry = [np.array(state[name], np.float64) for name in ("wealth", "entry")]
            known = torch.tensor(state["known"], dtype=torch.float64)
            names = ("delta", "martingale", "reference", "seed")
            watch = cls(known, **{name: state[name] for name in names})
            position, alarm = state["position"], state["alarm"]
            smallest = len(known) if state["reference"] == "growing" else position + 1
            fits = (
                state["format"] == FORMAT
                and all(each.shape == (BETS,) and np.isfinite(each).all() for each in carry)
                and isinstance(position, int)
                and isinstance(state["seed"], int)
                and 0 <= position < smallest
                and (alarm is None or (isinstance(alarm, int) and 0 < alarm <= position))
            )
        except (KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"expected the state of a watch, got one that is damaged ({error}); start anew"
            ) from None
        if not fits:
            raise ValueError(
                "expected the state of a watch of this version, got another; start anew"
            )
        watch.position, watch.alarm, watch._carry = position, alarm, (carry[0], carry[1])
        return watch


def rows(watched: Watched) -> list[dict[str, int | float]]:
    """Returns a row for each image, for `csv.DictWriter`: its columns are the keys of a row."""
    columns = (
        *("position", "p_value"),
        *(f"log10_{name}" for name in MARTINGALES),
        "alarm",
    )
    values = [each.tolist() for each in watched]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


class Growing:
    """Compares an image with the calibration images and all earlier ones of the stream.

    Args:
        known: (m,) sorted scores, those of the stream included.
        seed: Breaks ties, together with the position in the stream.
    """

    start = 0.0  # logarithm of the capital at the start

    def __init__(self, known: Array, seed: int) -> None:
        self.known, self.seed = known, seed

    def bet(self, score: Array, position: int) -> tuple[Array, Array]:
        """Returns (B,) p-values and (K, B) logarithms of the bets."""
        p = self.p_value(score, position)
        return p, log_bets(power(p))

    def p_value(self, score: Array, position: int) -> Array:
        """Returns (B,) p-values, ties broken at random, and keeps the scores."""
        at_most = self.known.searchsorted(score, side="right")
        below = self.known.searchsorted(score, side="left")
        size = len(self.known) + np.arange(len(score))
        is_earlier = np.tri(len(score), k=-1, dtype=bool)
        equal = at_most - below + ((score == score[:, None]) & is_earlier).sum(axis=1)
        new = np.sort(score)
        self.known = np.insert(self.known, self.known.searchsorted(new), new)
        below = below + ((score < score[:, None]) & is_earlier).sum(axis=1)
        index = torch.arange(position, position + len(score))
        bits = random_bits(index, 1, seed=self.seed)[:, 0].numpy()
        u = ((bits >> 10) + 1) / 2.0**53  # in (0, 1]: no p-value is 0
        p: Array = (below + (equal + 1) * u) / (size + 1)
        return p


class Fixed:
    """Compares an image with the calibration images alone, and pays for not knowing more.

    Args:
        known: (n,) sorted scores.
        delta: Probability that a calibration set makes a bet's mean exceed its price.
    """

    start = -float(np.log(2))  # the other half pays for calibration sets that mislead

    def __init__(self, known: Array, delta: float) -> None:
        self.known = known
        value = cells(len(known))
        price = [bound_of_mean(each, delta / len(EPSILONS)) for each in value]
        self.table = log_bets(value / np.array(price)[:, None])

    def bet(self, score: Array, position: int) -> tuple[Array, Array]:
        """Returns (B,) p-values and (K, B) logarithms of the bets."""
        rank = self.known.searchsorted(score, side="right")
        return (rank + 1) / (len(self.known) + 1), self.table[:, rank]


def _finite(score: Tensor) -> Array:
    """Returns scores in float64 in the same order, where NaN is smallest and none is infinite."""
    lowest = torch.finfo(torch.float64).min
    value: Array = score.detach().cpu().double().nan_to_num(nan=lowest).numpy() + 0.0  # no -0.0
    return value
