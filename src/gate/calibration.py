"""The calibration of a gate: the scores of held-out ID images, and what they permit."""

__all__ = ["Calibration"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from src.metrics.conformal import allowed, false_alarm_bound, needed


class Calibration(nn.Module):
    r"""Turns scores into conformal p-values and decisions.

    An image is out-of-distribution if its p-value is at most alpha. An ID image that is
    exchangeable with the calibration images is then rejected with a probability of at most alpha,
    in the mean over calibration sets; `bound` is the rate that a set exceeds with a probability of
    5 %. Nothing is promised about ID images of another kind, such as those of another camera, and
    nothing about how many OOD images are found.

    Conditional on the predicted class, an image is compared with the calibration images of that
    class alone, and the promise holds for the images of each predicted class.

    Args:
        score: (n,) scores of held-out ID images that neither trained, selected nor fitted
            anything.
        prediction: (n,) predicted classes, if the p-value is conditional on them; else None.
        alpha: Largest rate of false alarms, within (0, 1).
        classes: Names of the classes.

    Attributes:
        known: (n,) scores in float64, sorted.
        group: (n,) predicted class of each, or 0 of all if the p-value is not conditional.

    Raises:
        ValueError: If there is no score, one is not finite, or alpha is outside (0, 1) or too
            small for the number of images, of each class if it is conditional.

    Source:
        Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005, sections 2.2
        and 4.5 (Mondrian); Vovk, https://arxiv.org/abs/1209.2673, for `bound`.
    """

    known: Tensor
    group: Tensor
    size: Tensor
    rank: Tensor

    def __init__(
        self, score: Tensor, prediction: Tensor | None, alpha: float, classes: Sequence[str]
    ) -> None:
        super().__init__()
        if len(score) == 0 or not score.isfinite().all():
            raise ValueError(
                "expected finite scores of calibration images, got "
                + ("none" if len(score) == 0 else "NaN or infinity")
                + "; raise data.validation_size, or choose another detector"
            )
        self.alpha, self.by_class = alpha, prediction is not None
        group = torch.zeros(len(score), dtype=torch.int64) if prediction is None else prediction
        size = group.bincount(minlength=len(classes) if self.by_class else 1)
        if self.by_class and (size.min() < needed(alpha)):
            few = [f"{classes[k]} ({size[k]})" for k in (size < needed(alpha)).nonzero().flatten()]
            raise ValueError(
                f"expected {needed(alpha)} calibration images or more of each predicted class for "
                f"alpha {alpha}, got {', '.join(few[:5])}; raise alpha or data.validation_size, "
                "or set by_class=false"
            )
        order = score.argsort()
        self.register_buffer("known", score.double()[order])
        self.register_buffer("group", group[order])
        self.register_buffer("size", size)
        self.register_buffer("rank", torch.tensor([allowed(int(n), alpha) for n in size]))

    def forward(self, score: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (B,) p-values and (B,) booleans, True for out-of-distribution.

        A score of NaN has the smallest p-value.

        Args:
            score: (B,) scores.
            prediction: (B,) predicted classes; any whole numbers if it is not conditional.
        """
        below = self.known[None] <= score.double()[:, None]
        if not self.by_class:
            count = 1 + below.sum(dim=1)
            return count.double() / (self.size[0] + 1), count <= self.rank[0]
        count = 1 + (below & (self.group[None] == prediction[:, None])).sum(dim=1)
        return count.double() / (self.size[prediction] + 1), count <= self.rank[prediction]

    @property
    def threshold(self) -> list[float]:
        """Score below which an image is out-of-distribution: one, or one of each class."""
        return [
            float(self.known[self.group == group][rank - 1])
            for group, rank in enumerate(self.rank)
        ]

    @property
    def bound(self) -> float:
        """Rate of false alarms that a calibration set exceeds with a probability of 5 %.

        If it is conditional on the predicted class: the largest rate of a class.
        """
        return max(false_alarm_bound(int(n), self.alpha) for n in self.size)

    def extra_repr(self) -> str:
        """Describes the promise."""
        each = ", each predicted class on its own" if self.by_class else ""
        return f"images={len(self.known)}, alpha={self.alpha}{each}"
