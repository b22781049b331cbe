"""Image sets, in memory or decoded when they are indexed, and the sources that load them."""

__all__ = ["Batch", "ImageSet", "PictureSource", "Source", "StoredImages", "spread"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from src.data.decoding import View


class Batch(NamedTuple):
    """Images with their labels and positions in the set."""

    image: Tensor  # (B, C, H, W)
    label: Tensor  # (B,) int64, -1 = no label
    index: Tensor  # type: ignore[assignment]  # (B,) int64, -1 = padding row; hides tuple.index
    target: Tensor | None = None  # (B, K) class probabilities of mixed training images


class ImageSet(Dataset[Batch]):
    """Images in memory, indexed by whole batches.

    Args:
        image: (N, C, H, W) uint8.
        label: (N,) int64, -1 for an image without a label.
        classes: Class names, where label k is `classes[k]`; empty if there are no labels.
        skipped: Number of images that were left out because they could not be decoded.
    """

    def __init__(
        self, image: Tensor, label: Tensor, classes: Sequence[str] = (), skipped: int = 0
    ) -> None:
        self.image, self.label, self.classes = image, label, tuple(classes)
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: Tensor) -> Batch:
        """Returns the rows at (B,) int64 `index`; -1 gives a padding row with the first image."""
        index = index.to(self.label.device)
        row = index.clamp(min=0)
        return Batch(self.image[row], self.label[row].where(index >= 0, -1), index)

    def subset(self, index: Tensor | slice) -> "ImageSet":
        """Returns the set of these rows, renumbered from 0; a slice shares the memory."""
        return ImageSet(self.image[index], self.label[index], self.classes)

    def to(self, device: torch.device | str) -> "ImageSet":
        """Returns the set on a device, where its batches are then made."""
        image, label = self.image.to(device), self.label.to(device)
        return ImageSet(image, label, self.classes, self.skipped)

    @cached_property
    def sha256(self) -> str:
        """Digest of the pixels in the order of the images."""
        return sha256(self.image.cpu().contiguous().numpy().data).hexdigest()


class Decoder(Protocol):
    """Images that can be decoded by position."""

    label: Tensor
    classes: tuple[str, ...]

    @property
    def on_corrupt(self) -> str:
        """Treatment of corrupt images: "refuse" raises an error, "skip" leaves them out."""

    @property
    def sha256(self) -> str:
        """Digest that identifies the images."""

    def decode(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns (B, C, H, W) uint8 images and (B,) bool, False for those that are corrupt."""


class StoredImages(Dataset[Batch]):
    """Images that are decoded when they are indexed, by the worker processes of a loader.

    Args:
        files: Decoder of the images.
        row: (N,) int64 positions of the images in `files`.
    """

    skipped = 0  # unknown until the images are used

    def __init__(self, files: Decoder, row: Tensor) -> None:
        self.files, self.row = files, row
        self.classes = files.classes
        self.sha256 = files.sha256

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: Tensor) -> Batch:
        """Returns the rows at (B,) int64 `index`.

        -1 gives a padding row with the first image. A skipped image becomes a padding row.
        """
        row = self.row[index.clamp(min=0)]
        image, kept = self.files.decode(row.tolist())
        index = index.where(kept, -1)
        return Batch(image, self.files.label[row].where(index >= 0, -1), index)

    def subset(self, index: Tensor | slice) -> "StoredImages":
        """Returns the set of these rows, renumbered from 0."""
        return StoredImages(self.files, self.row[index])

    def to(self, device: torch.device | str) -> "StoredImages":
        """Returns itself, since each batch is sent to the device when it is used."""
        return self


class Source(ABC):
    """Base class of the sources of images, which download and decode them.

    A source checks its arguments when it is constructed. Subclasses implement `load`.

    Attributes:
        classes: Class names, where label k is `classes[k]`; empty if there are no labels.
        view: Describes how images become network inputs.
        notes: What a user should know about what was found, in sentences.
    """

    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    view: View | str = "as it comes"

    def prepare(self) -> None:  # noqa: B027, most sources have nothing to download
        """Downloads what is missing; called by one process only."""

    @abstractmethod
    def load(self) -> ImageSet | StoredImages:
        """Returns the set, decoded unless it is too large for memory."""

    @property
    def key(self) -> tuple[str, str] | None:
        """Digests of the settings and of the files; None if the set is not to be cached."""
        return None


class PictureSource(Source):
    """Base class of the sources that read existing pictures, one by one."""

    view: View

    @abstractmethod
    def pictures(self) -> tuple[list[str], Callable[[int], Image.Image]]:
        """Returns the names of all pictures, and a function that opens one by its position."""


def spread(n: int, count: int) -> Tensor:
    """Returns at most `count` of n positions, spread evenly."""
    return torch.arange(min(n, count)) * n // max(1, min(n, count))
