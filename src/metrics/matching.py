"""Whether a network knows the classes in another order than the data."""

__all__ = ["Matching", "matching"]

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MOST_CLASSES = 2000  # the matching takes their third power
IMAGES_PER_CLASS = 5  # with fewer, some matching fits by chance
FAR = 0.3  # accuracy that another order would add


@dataclass(frozen=True)
class Matching:
    """The one-to-one matching of labels and predictions that agrees with most images.

    Attributes:
        accuracy: Share of the images with a correct prediction.
        matched: That share if each label were called as in the matching.
        label: A label that the matching calls otherwise, of those the one with most images.
        called: The prediction that the matching gives it; equal to `label` if all agree.
    """

    accuracy: float
    matched: float
    label: int
    called: int

    @property
    def is_suspicious(self) -> bool:
        """Whether the accuracy is far below that of the matching."""
        return self.matched - self.accuracy > FAR


def matching(label: Tensor, prediction: Tensor) -> Matching | None:
    """Returns the best matching of labels and predictions.

    Args:
        label: (N,) int64 labels; those of -1 are left out.
        prediction: (N,) int64 predictions.

    Returns:
        The matching; None if there are too many classes for it, or too few images for a judgement.
    """
    labelled = label >= 0
    label, prediction = label[labelled], prediction[labelled]
    if not len(label):
        return None
    count = 1 + int(max(label.max(), prediction.max()))
    if count > MOST_CLASSES or len(label) < IMAGES_PER_CLASS * count:
        return None
    pair = torch.bincount(label * count + prediction, minlength=count**2)
    confusion = pair.view(count, count).numpy()
    _, called = linear_sum_assignment(confusion, maximize=True)
    agree = confusion[np.arange(count), called]
    other = int(np.where(called == np.arange(count), -1, agree).argmax())
    return Matching(
        accuracy=float(confusion.trace() / len(label)),
        matched=float(agree.sum() / len(label)),
        label=other,
        called=int(called[other]),
    )
