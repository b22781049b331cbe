"""The watch over all images that a server decides about, kept through restarts."""

__all__ = ["Stream"]

import json
import logging
import time
from collections.abc import Iterable
from math import nan
from pathlib import Path

import torch

from src.metrics.watch import MARTINGALES, Watch
from src.records.atomic import try_to_write
from src.service.engine import Row
from src.service.facts import Facts
from src.service.meters import Meters

log = logging.getLogger(__name__)
PAUSE = 1.0  # seconds between two writes of the state


class Stream:
    """Watches the scores in the order of the answers, and raises an alarm when they change.

    The reference is the fixed calibration set, so that the state stays small. It is written at
    most once a second, whole or not at all: a kill loses the images of the last second.

    Args:
        facts: Facts of the gate.
        meters: Counters, which tell position, capital and alarm.
        path: File of the state, which goes on if it is there; None watches nothing.
        delta: Probability of a false alarm, ever, within (0, 1).

    Raises:
        ValueError: If the file is of another gate, another delta, or damaged; or delta is not
            within (0, 1).
    """

    def __init__(self, facts: Facts, meters: Meters, path: Path | None, delta: float) -> None:
        self.digest, self.meters, self.path = facts.digest, meters, path
        self.written = time.monotonic()
        if path is None:
            return
        if path.exists():
            self.watch = self._restored(path, delta)
        else:
            known = torch.tensor([score for group in facts.known for score in group]).double()
            self.watch = Watch(known, delta=delta, reference="fixed")
            if not self.save():
                raise ValueError(
                    f"expected to write the state of the watch to {path}; name another"
                )

    def _restored(self, path: Path, delta: float) -> Watch:
        try:
            state = json.loads(path.read_text())
            watch = Watch.restored(state["watch"])
            found = state["digest"], watch.delta
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"expected the state of a watch in {path}, got: {error}; name another file"
            ) from None
        if found != (self.digest, delta):
            raise ValueError(
                f"expected the state of this gate at delta {delta} in {path}, got that of gate "
                f"{str(found[0])[:12]} at delta {found[1]}; name another file"
            )
        return watch

    def see(self, rows: Iterable[Row]) -> None:
        """Bets on the images of an answer, in order; broken ones are left out."""
        if self.path is None:
            return
        score = [nan if r.score is None else r.score for r in rows if r.p_value is not None]
        before = self.watch.alarm
        watched = self.watch.update(torch.tensor(score, dtype=torch.float64))
        if before is None and self.watch.alarm is not None:
            log.warning("alarm: the stream has changed, at image %d", self.watch.alarm)
        if score:
            capital = {name: float(getattr(watched, name)[-1]) for name in MARTINGALES}
            self.meters.watch(self.watch.position, capital, self.watch.alarm is not None)
        if time.monotonic() - self.written > PAUSE:
            self.save()

    def save(self) -> bool:
        """Writes the state; returns whether there was room for it."""
        if self.path is None:
            return True
        text = json.dumps({"digest": self.digest, "watch": self.watch.state()})
        self.written = time.monotonic()
        return try_to_write(self.path, lambda partial: partial.write_text(text))
