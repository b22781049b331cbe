"""What is said of each image, and the discoveries among all of them."""

__all__ = ["Row", "discovered"]

from collections.abc import Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from src.gate.gate import Verdict


class Row(NamedTuple):
    """What is said of one image; None where nothing is."""

    path: str
    label: str | None = None  # predicted class
    probability: float | None = None  # softmax of that class
    score: float | None = None  # higher = more in-distribution; None if it is not finite
    p_value: float | None = None  # small = out-of-distribution
    is_ood: bool | None = None
    error: str | None = None  # why nothing was decided
    discovery: bool | None = None  # whether it is OOD by the false discovery rate of all images

    @classmethod
    def of(cls, path: str, verdict: "Verdict") -> "Row":
        """Returns the row of a verdict."""
        label, probability, score, p_value, is_ood = verdict
        return cls(
            path,
            label,
            None if probability is None else round(probability, 6),
            score if isfinite(score) else None,
            p_value,
            is_ood,
        )


def discovered(rows: Sequence[Row], rate: float) -> list[Row]:
    """Returns the rows with their discoveries at a false discovery rate over all of them."""
    import torch

    from src.metrics.conformal import benjamini_hochberg

    p = [nan if row.p_value is None else row.p_value for row in rows]
    found = benjamini_hochberg(torch.tensor(p, dtype=torch.float64), rate).tolist()
    return [
        row._replace(discovery=None if row.p_value is None else each)
        for row, each in zip(rows, found, strict=True)
    ]
