"""What the front door knows of a gate: plain values, so that only the workers hold the network."""

__all__ = ["Facts"]

from bisect import bisect_right
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from src.gate import Gate
from src.metrics.conformal import allowed

BINS = 32  # of the histogram of calibration scores


@dataclass(frozen=True)
class Facts:
    """The plain facts of a gate.

    Attributes:
        classes: Names of the classes.
        detector: Name of the detector.
        alpha: Promised largest rate of false alarms.
        bound: Rate of false alarms that a calibration set exceeds with a probability of 5 %.
        by_class: Whether the promise holds for each predicted class.
        known: Calibration scores, sorted: one list, or one of each class.
        shape: (C, H, W) of the network's images.
        digest: Digest of the gate.
    """

    classes: tuple[str, ...]
    detector: str
    alpha: float
    bound: float
    by_class: bool
    known: tuple[tuple[float, ...], ...]
    shape: tuple[int, ...]
    digest: str

    @classmethod
    def of(cls, gate: Gate) -> "Facts":
        """Returns the facts of a gate."""
        calibration = gate.calibration
        groups = range(len(calibration.size))
        return cls(
            classes=gate.classes,
            detector=gate.name,
            alpha=gate.alpha,
            bound=calibration.bound,
            by_class=calibration.by_class,
            known=tuple(
                tuple(calibration.known[calibration.group == group].tolist()) for group in groups
            ),
            shape=gate.picture.shape,
            digest=gate.digest,
        )

    @property
    def images(self) -> int:
        """Number of calibration images."""
        return sum(map(len, self.known))

    @property
    def smallest_alpha(self) -> float:
        """Smallest alpha at which an image of any class can be flagged."""
        return 1 / (min(map(len, self.known)) + 1)

    def check_alpha(self, alpha: float) -> None:
        """Refuses an alpha for which there are too few calibration images.

        Raises:
            ValueError: If it is outside (0, 1), or too small.
        """
        allowed(min(map(len, self.known)), alpha)

    def described(self) -> dict[str, Any]:
        """Returns what `GET /info` tells."""
        return {
            "detector": self.detector,
            "alpha": self.alpha,
            "bound": self.bound,
            "by_class": self.by_class,
            "images": self.images,
            "classes": list(self.classes),
            "shape": list(self.shape),
            "digest": self.digest,
            "versions": {name: version(name) for name in ("torch", "litserve")},
        }

    def histogram(self, label: str | None) -> dict[str, Any]:
        """Returns the calibration scores that an image of a class is compared with.

        Args:
            label: Predicted class.

        Returns:
            `counts` of equal bins from the lowest to the highest score, and `low` and `high`.
        """
        group = self.classes.index(label) if self.by_class and label else 0
        known = self.known[group]
        low, high = known[0], known[-1]
        width = (high - low) / BINS or 1.0
        edges = [bisect_right(known, low + width * k) for k in range(1, BINS)]
        counts = [b - a for a, b in zip([0, *edges], [*edges, len(known)], strict=True)]
        return {"counts": counts, "low": low, "high": low + width * BINS, "images": len(known)}
