"""Detectors that compare an image with a bank of ID images."""

__all__ = ["KNN", "NNGuide"]

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector, FeatureDetector
from src.metrics.statistics import Bank
from src.network import ForwardPass, Network

SIMILARITIES = 2**24  # between a batch and a chunk of the bank, held at once: 64 MiB


def nearest_similarities(row: Tensor, bank: Tensor, k: int) -> Tensor:
    """Returns the (B, k) largest inner products of rows (B, D) with a bank (N, D), sorted.

    The bank is processed in chunks, which bounds the memory; not so in a graph that is exported,
    where the number of rows is not known yet.
    """
    if torch.compiler.is_exporting():
        return (row @ bank.mT).topk(min(k, len(bank)), dim=1).values
    chunk = max(k, SIMILARITIES // max(1, len(row)))
    best = row.new_empty(len(row), 0)
    for part in bank.split(chunk):
        top = (row @ part.mT).topk(min(k, len(part)), dim=1).values
        best = torch.cat([best, top], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
    return best


def check_neighbours(k: int, bank: Tensor) -> None:
    """Checks that the bank has enough rows.

    Raises:
        ValueError: If the bank has fewer than `k` rows.
    """
    if len(bank) < k:
        raise ValueError(
            f"expected at least k={k} ID images in the bank, got {len(bank)}; "
            "use more images or a smaller k"
        )


class KNN(FeatureDetector):
    """Negative distance to the k-th nearest ID image, between features of length 1.

    Args:
        k: Rank of the neighbour that counts.
        bank_size: Number of ID images to keep, chosen by hashed index. None keeps all.
        at: Module path of a block, "selected" or "each_block". None reads the penultimate
            feature.

    Raises:
        ValueError: If `k` is below 1; in `fit`, if there are fewer images than `k`.

    Source:
        Sun et al., "Out-of-distribution Detection with Deep Nearest Neighbors", ICML 2022,
        https://arxiv.org/abs/2204.06507, Eq. 3 and 4.
    Fitted on:
        All ID training images. With `bank_size`, a random part of that size.
    Needs:
        Penultimate feature, or feature map of a block.
    Differs:
        Reads one layer; the authors' CIFAR code concatenates several. Distances below 0.001 are
        rounding noise of float32. A feature of zero has no direction and is sqrt(2) away from
        every image.
    """

    def __init__(
        self, k: int = 50, *, bank_size: int | None = None, at: str | None = None
    ) -> None:
        super().__init__(at)
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}; 50 is usual")
        self.k, self.bank_size = k, bank_size
        self.statistic = Bank(bank_size)
        self.learns("bank")

    def direction(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) features of length 1, in float32; zero stays zero."""
        return F.normalize(self.feature(seen).float(), dim=1)

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features."""
        self.statistic.update(self.direction(seen), index)

    def fit(self, network: Network) -> None:
        """Keeps the bank."""
        bank = self.statistic.compute()
        check_neighbours(self.k, bank)
        self.bank = bank

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative distances, in [-2, 0]."""
        similarity = nearest_similarities(self.direction(seen), self.bank, self.k)[:, -1]
        return -(2 - 2 * similarity).clamp_min(0).sqrt()

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"k={self.k}, bank_size={self.bank_size}, at={self.at!r}"


class NNGuide(Detector):
    r"""Energy times the mean guidance of the nearest ID images.

    The guidance of an image of the bank with feature \(h_j\) and energy \(e_j\) is
    \(\langle h / \|h\|, e_j h_j / \|h_j\| \rangle\).

    Args:
        k: Number of neighbours.
        bank_size: Number of ID images to keep, chosen by hashed index. None keeps all.

    Raises:
        ValueError: If `k` is below 1; in `fit`, if there are fewer images than `k`.

    Source:
        Park, Jung and Teoh, "Nearest Neighbor Guidance for Out-of-Distribution Detection",
        ICCV 2023, https://arxiv.org/abs/2309.14888.
    Fitted on:
        1,000 ID training images. `bank_size` sets their number.
    Needs:
        Penultimate feature, logits.
    Differs:
        OpenOOD takes k = 100, and the first batches of its loader as the bank. Energies below
        zero, as in networks trained with binary cross-entropy, reverse the guidance.
    """

    def __init__(self, k: int = 10, *, bank_size: int | None = 1000) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}; 10 is usual")
        self.k, self.bank_size = k, bank_size
        self.statistic = Bank(bank_size)
        self.learns("bank")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds directions times energies."""
        energy = seen.logits.float().logsumexp(dim=1, keepdim=True)
        self.statistic.update(energy * F.normalize(seen.feature.float(), dim=1), index)

    def fit(self, network: Network) -> None:
        """Keeps the bank."""
        bank = self.statistic.compute()
        check_neighbours(self.k, bank)
        self.bank = bank

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) guided energies."""
        direction = F.normalize(seen.feature.float(), dim=1)
        guidance = nearest_similarities(direction, self.bank, self.k).mean(dim=1)
        return guidance * seen.logits.float().logsumexp(dim=1)

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"k={self.k}, bank_size={self.bank_size}"
