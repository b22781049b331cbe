"""Image sets: in memory as one uint8 tensor, or decoded when indexed."""

__all__ = ["Batch", "ImageSet", "Source", "StoredImages", "spread"]

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Batch(NamedTuple):
    """Images with their labels and their positions in the set."""

    image: Tensor  # (B, C, H, W)
    label: Tensor  # (B,) int64, -1 = no label
    index: Tensor  # type: ignore[assignment]  # (B,) int64, -1 = padding row; hides tuple.index


class ImageSet(Dataset[Batch]):
    """A data set in memory that is indexed by whole batches.

    Args:
        image: (N, C, H, W) uint8.
        label: (N,) int64, -1 where there is no label.
        classes: class names, label k is `classes[k]`; empty when there are none.
        skipped: how many images were left out because they could not be decoded.
    """

    def __init__(
        self, image: Tensor, label: Tensor, classes: Sequence[str] = (), skipped: int = 0
    ) -> None:
        self.image, self.label, self.classes = image, label, tuple(classes)
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: Tensor) -> Batch:
        """Returns the rows at (B,) int64 `index`; -1 gives a padding row, the first image."""
        index = index.to(self.label.device)
        row = index.clamp(min=0)
        return Batch(self.image[row], self.label[row].where(index >= 0, -1), index)

    def subset(self, index: Tensor | slice) -> "ImageSet":
        """Returns the set of these rows, numbered anew from 0; a slice shares the memory."""
        return ImageSet(self.image[index], self.label[index], self.classes)

    def to(self, device: torch.device | str) -> "ImageSet":
        """Returns the set on that device, where it is then indexed."""
        image, label = self.image.to(device), self.label.to(device)
        return ImageSet(image, label, self.classes, self.skipped)

    @cached_property
    def sha256(self) -> str:
        """Digest of the pixels, in their order."""
        return sha256(self.image.cpu().contiguous().numpy().data).hexdigest()


class Decoder(Protocol):
    """Images that can be decoded by position."""

    label: Tensor
    classes: tuple[str, ...]

    @property
    def on_corrupt(self) -> str:
        """Whether corrupt images are an error ("refuse") or left out ("skip")."""

    @property
    def sha256(self) -> str:
        """Digest that stands for the images."""

    def decode(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns (B, C, H, W) uint8 and (B,) whether each could be decoded."""


class StoredImages(Dataset[Batch]):
    """Images that are decoded when indexed, in the worker processes of a loader.

    Args:
        files: where they are, and how they are resized.
        row: (N,) positions there.
    """

    def __init__(self, files: Decoder, row: Tensor) -> None:
        self.files, self.row = files, row
        self.classes = files.classes
        self.sha256 = files.sha256

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: Tensor) -> Batch:
        """Returns the rows at (B,) int64 `index`.

        -1 gives a padding row, the first image; one that is skipped becomes a padding row.
        """
        row = self.row[index.clamp(min=0)]
        image, kept = self.files.decode(row.tolist())
        index = index.where(kept, -1)
        return Batch(image, self.files.label[row].where(index >= 0, -1), index)

    def subset(self, index: Tensor | slice) -> "StoredImages":
        """Returns the set of these rows, numbered anew from 0."""
        return StoredImages(self.files, self.row[index])

    def to(self, device: torch.device | str) -> "StoredImages":
        """Returns itself: its batches are sent to the device one by one."""
        return self


class Source(Protocol):
    """Where a set comes from: checked when constructed, downloaded and decoded later."""

    classes: tuple[str, ...]

    def prepare(self) -> None:
        """Downloads what is missing; called by one process only."""

    def load(self) -> ImageSet | StoredImages:
        """Returns the set, decoded unless it is too large for that."""


def spread(n: int, count: int) -> Tensor:
    """Returns at most `count` of n positions, evenly spread."""
    return torch.arange(min(n, count)) * n // max(1, min(n, count))
