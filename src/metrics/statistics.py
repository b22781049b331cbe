"""Statistics of ID images, collected in batches and exact on any number of processes."""

__all__ = [
    "Bank",
    "ClassExtrema",
    "ClassMoments",
    "ClassSums",
    "Gaussian",
    "Mean",
    "Moments",
    "Sums",
    "check_labels",
]

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from src.counter_random import random_bits


class Gaussian:
    """Number, mean and covariance of rows, in float64.

    Attributes:
        count: () number of rows, or (K,) numbers for K classes.
        mean: (D,) mean, or (K, D) class means, NaN for a class without rows.
        covariance: (D, D) covariance, divided by the number of rows. With classes, deviations are
            taken from the class means.
    """

    def __init__(self, count: Tensor, mean: Tensor, covariance: Tensor) -> None:
        self.count, self.mean, self.covariance = count, mean, covariance


class Sums:
    """Number and sum of the rows of each class, in float64.

    Attributes:
        count: (K,) number of rows.
        total: (K, D) sum of rows.
    """

    def __init__(self, count: Tensor, total: Tensor) -> None:
        self.count, self.total = count, total


class _Statistic(Metric):
    """A metric whose states start as scalars and take their shape from the first batch.

    `compute` returns an object where shapes matter, because torchmetrics turns a tensor of one
    value into a scalar.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def add_sums(self, *names: str) -> None:
        """Declares float64 states that are summed over processes."""
        for name in names:
            zero = torch.zeros((), dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")


class Mean(_Statistic):
    """Mean of (N, D) rows, from float64 sums."""

    count: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums("count", "total")

    def update(self, row: Tensor) -> None:
        """Adds (B, D) rows."""
        self.count = self.count + len(row)
        self.total = self.total + row.double().sum(dim=0)

    def compute(self) -> Tensor:
        """Returns the (D,) mean."""
        _require(self.count)
        mean: Tensor = self.total / self.count
        return mean


class ClassSums(_Statistic):
    """Sums of labelled (N, D) rows in each class, in float64."""

    count: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums("count", "total")

    def update(self, row: Tensor, label: Tensor, num_classes: int) -> None:
        """Adds (B, D) rows with (B,) labels.

        Raises:
            ValueError: If a label is not within 0..K-1.
        """
        check_labels(label, num_classes)
        sums = row.new_zeros(num_classes, row.shape[1], dtype=torch.float64)
        self.total = self.total + sums.index_add_(0, label, row.double())
        self.count = self.count + torch.bincount(label, minlength=num_classes)

    def compute(self) -> "Sums":
        """Returns the sums of all rows."""
        _require(self.count)
        return Sums(self.count, self.total)


class Moments(_Statistic):
    """Mean and covariance of (N, D) rows, from float64 sums."""

    count: Tensor
    total: Tensor
    square: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums("count", "total", "square")

    def update(self, row: Tensor) -> None:
        """Adds (B, D) rows."""
        row = row.double()
        self.count = self.count + len(row)
        self.total = self.total + row.sum(dim=0)
        self.square = self.square + row.mT @ row

    def compute(self) -> Gaussian:
        """Returns the moments of all rows."""
        _require(self.count)
        mean = self.total / self.count
        return Gaussian(self.count, mean, self.square / self.count - torch.outer(mean, mean))


class ClassMoments(_Statistic):
    """Class means and within-class covariance of labelled (N, D) rows, from float64 sums."""

    count: Tensor
    total: Tensor
    square: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums("count", "total", "square")

    def update(self, row: Tensor, label: Tensor, num_classes: int) -> None:
        """Adds (B, D) rows with (B,) labels.

        Raises:
            ValueError: If a label is not within 0..K-1.
        """
        check_labels(label, num_classes)
        row = row.double()
        sums = row.new_zeros(num_classes, row.shape[1]).index_add_(0, label, row)
        self.count = self.count + torch.bincount(label, minlength=num_classes)
        self.total = self.total + sums
        self.square = self.square + row.mT @ row

    def compute(self) -> Gaussian:
        """Returns the moments of all rows."""
        _require(self.count)
        mean = self.total / self.count[:, None]
        between = self.total.mT @ mean.nan_to_num()
        return Gaussian(self.count, mean, (self.square - between) / self.count.sum())


class ClassExtrema(_Statistic):
    """Smallest and largest value of each column of labelled (N, D) rows, for each class."""

    smallest: Tensor
    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("smallest", torch.tensor(torch.inf), dist_reduce_fx="min")
        self.add_state("largest", torch.tensor(-torch.inf), dist_reduce_fx="max")

    def update(self, row: Tensor, label: Tensor, num_classes: int) -> None:
        """Adds (B, D) rows with (B,) labels.

        Raises:
            ValueError: If a label is not within 0..K-1.
        """
        check_labels(label, num_classes)
        at = label[:, None].expand_as(row)
        for name, reduce in (("smallest", "amin"), ("largest", "amax")):
            state = getattr(self, name).to(row.dtype).expand(num_classes, row.shape[1])
            setattr(self, name, state.scatter_reduce(0, at, row, reduce))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Returns (K, D) smallest and (K, D) largest values; inf and -inf for an empty class."""
        _require(self.smallest.isfinite())
        return self.smallest, self.largest


class Bank(_Statistic):
    """Rows of the images, or of a random subset that depends on their indices alone.

    Args:
        size: Largest number of rows to keep. None keeps all.
        seed: Seed of the choice.
    """

    row: list[Tensor]
    index: list[Tensor]

    def __init__(self, size: int | None = None, *, seed: int = 0) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ValueError(
                f"expected a bank of at least one row, got size={size}; set None to keep all"
            )
        self.size, self.seed = size, seed
        self.add_state("row", [], dist_reduce_fx="cat")
        self.add_state("index", [], dist_reduce_fx="cat")

    def update(self, row: Tensor, index: Tensor) -> None:
        """Adds (B, ...) rows of the images of (B,) indices."""
        self.row.append(row.detach().clone())
        self.index.append(index.clone())
        if self.size is not None and sum(map(len, self.index)) > 2 * self.size + len(index):
            row, index = self._chosen()
            self.row, self.index = [row], [index]

    def compute(self) -> Tensor:
        """Returns the (N, ...) rows, in an order that depends on their indices alone."""
        row, _ = self._chosen()
        _require(torch.tensor(len(row)))
        return row

    def _chosen(self) -> tuple[Tensor, Tensor]:
        row, index = dim_zero_cat(self.row), dim_zero_cat(self.index)
        key = index if self.size is None else random_bits(index, 1, seed=self.seed)[:, 0]
        first = key.argsort()[: self.size]
        return row[first], index[first]


def check_labels(label: Tensor, num_classes: int) -> None:
    """Checks that every label is a class.

    Raises:
        ValueError: If a label is not within 0..K-1.
    """
    if wrong := label[(label < 0) | (label >= num_classes)].tolist():
        raise ValueError(
            f"expected ID images with labels within 0..{num_classes - 1}, got label {wrong[0]} "
            "(-1: unlabelled); leave out detectors that need labels, or use labelled images"
        )


def _require(count: Tensor) -> None:
    if not count.any():
        raise RuntimeError("expected ID images to fit on, got none; call update before fit")
