"""Pseudo-OOD images, made from ID images alone."""

__all__ = [
    "Blur",
    "Invert",
    "Jigsaw",
    "Mixture",
    "Noise",
    "PhaseScramble",
    "PixelShuffle",
    "PseudoOOD",
    "Rotate",
    "Zoom",
]

import math
from abc import ABC, abstractmethod
from copy import copy
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from src.counter_random import random_bits


class PseudoOOD(ABC):
    """Turns ID images into images that no class explains.

    What happens to an image depends on (seed, index) alone: it is the same in every epoch and
    batch, on every device, and for any number of processes.

    Attributes:
        seed: Seed of the random draws.
    """

    seed = 0

    @property
    def smallest(self) -> int:
        """Shortest side that an image may have, in pixels."""
        return 1

    @abstractmethod
    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the changed images of a batch, of the same shape and type.

        Args:
            image: (B, C, H, W) images in [0, 1].
            index: (B,) int64 positions of the images in their set.

        Raises:
            ValueError: If the images are too small.
        """

    def with_seed(self, seed: int) -> Self:
        """Returns a copy that draws from another seed."""
        other = copy(self)
        other.seed = seed
        return other

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class Jigsaw(PseudoOOD):
    """Cuts images into grid x grid tiles and shuffles the tiles.

    The order of an image's tiles depends on (seed, index) alone: it is the same in every epoch
    and batch, on every device, and for any number of processes.

    Args:
        grid: Number of tiles per side.
        border: Treatment of the rows and columns that remain if the side is not a multiple of
            `grid`: "zero" makes them black, "keep" leaves them unchanged.
        identity: Whether the order may stay unchanged, as happens for one in (grid^2)! images. If
            not, the tiles of such an image are rotated by a random number of places.
        seed: Seed of the random orders.

    Raises:
        ValueError: If `border` is unknown or `grid` is below 2.

    Source:
        Yu et al., CVPR 2023, https://arxiv.org/abs/2212.02295: 3 x 3 tiles.
    Differs:
        `utils/dataset.py` of the official code draws unseeded orders; here `seed` fixes them. Its
        tiles have sides of W // 3; here they have sides of H // grid and W // grid. Its border is
        "zero".
    """

    def __init__(
        self, grid: int = 3, *, border: str = "zero", identity: bool = True, seed: int = 0
    ) -> None:
        if border not in ("zero", "keep"):
            raise ValueError(f"expected border to be 'zero' or 'keep', got {border!r}; choose one")
        if grid < 2:
            raise ValueError(f"expected a grid of at least 2, got {grid}; the paper uses 3")
        self.grid = grid
        self.border = border
        self.identity = identity
        self.seed = seed

    @property
    def smallest(self) -> int:
        """The number of tiles per side."""
        return self.grid

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the puzzles of a batch.

        Args:
            image: (B, C, H, W) images of any type.
            index: (B,) int64 positions of the images in their set, which determine the orders.

        Raises:
            ValueError: If the grid is larger than the image.
        """
        height, width = image.shape[-2:]
        if self.grid > min(height, width):
            raise ValueError(
                f"expected a jigsaw grid of at most {min(height, width)} for images of "
                f"{height}x{width}, got {self.grid}; lower grid"
            )
        source = self._source_pixel(self.order(index), height, width)
        puzzle = image.flatten(2).gather(2, source[:, None].expand(-1, image.shape[1], -1))
        puzzle = puzzle.view_as(image)
        if self.border == "zero":
            puzzle[..., height // self.grid * self.grid :, :] = 0
            puzzle[..., width // self.grid * self.grid :] = 0
        return puzzle

    def order(self, index: Tensor) -> Tensor:
        """Returns (B, grid^2) int64, the tile that moves to each place, row by row."""
        tiles = self.grid**2
        bits = random_bits(index, tiles + 1, seed=self.seed)
        order = bits[:, :tiles].argsort(dim=1)
        if not self.identity:
            place = torch.arange(tiles, device=index.device)
            rotated = (place + 1 + bits[:, tiles:] % (tiles - 1)) % tiles
            order = torch.where((order == place).all(dim=1, keepdim=True), rotated, order)
        return order

    def _source_pixel(self, order: Tensor, height: int, width: int) -> Tensor:
        """Returns (B, H * W) int64, the flat position from which each pixel is taken."""
        tile_height, tile_width = height // self.grid, width // self.grid
        row = torch.arange(height, device=order.device)[:, None]
        column = torch.arange(width, device=order.device)
        place = (row // tile_height) * self.grid + column // tile_width
        inside = (row < tile_height * self.grid) & (column < tile_width * self.grid)
        tile = order[:, place.clamp(max=self.grid**2 - 1)]  # (B, H, W)
        moved_row = tile // self.grid * tile_height + row % tile_height
        moved_column = tile % self.grid * tile_width + column % tile_width
        source = torch.where(inside, moved_row * width + moved_column, row * width + column)
        return source.flatten(1)

    def __repr__(self) -> str:
        return (
            f"Jigsaw(grid={self.grid}, border={self.border!r}, identity={self.identity}, "
            f"seed={self.seed})"
        )


class PixelShuffle(PseudoOOD):
    """Shuffles the pixels of each image, all channels alike.

    Args:
        seed: Seed of the random orders.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the shuffled images of a batch."""
        flat = image.flatten(2)
        order = random_bits(index, flat.shape[2], seed=self.seed).argsort(dim=1)
        return flat.gather(2, order[:, None].expand_as(flat)).view_as(image)


class Blur(PseudoOOD):
    """Replaces each pixel by the mean of a square around it, mirrored at the edges.

    Args:
        size: Side of the square, an odd number of pixels.

    Raises:
        ValueError: If the side is even or below 3.
    """

    def __init__(self, size: int = 5) -> None:
        if size < 3 or size % 2 == 0:
            raise ValueError(f"expected an odd size of at least 3, got {size}; 5 is usual")
        self.size = size

    @property
    def smallest(self) -> int:
        """One pixel more than are mirrored."""
        return self.size // 2 + 1

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the blurred images of a batch."""
        _require(self, image)
        padded = F.pad(image, (self.size // 2,) * 4, mode="reflect")
        return F.avg_pool2d(padded, self.size, stride=1)


class Zoom(PseudoOOD):
    """Enlarges the middle of each image to its whole size.

    Args:
        factor: Side of the image over that of the middle.

    Raises:
        ValueError: If the factor is not above 1.
    """

    def __init__(self, factor: float = 4) -> None:
        if factor <= 1:
            raise ValueError(f"expected a factor above 1, got {factor}; 4 is usual")
        self.factor = factor

    @property
    def smallest(self) -> int:
        """As many pixels as show one of the middle."""
        return math.ceil(self.factor)

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the enlarged images of a batch."""
        _require(self, image)
        height, width = image.shape[-2:]
        h, w = round(height / self.factor), round(width / self.factor)
        top, left = (height - h) // 2, (width - w) // 2
        middle = image[..., top : top + h, left : left + w]
        return F.interpolate(middle, (height, width), mode="bilinear", align_corners=False)


class PhaseScramble(PseudoOOD):
    """Keeps the power of each spatial frequency and draws its phase, all channels alike.

    Args:
        seed: Seed of the random phases.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the scrambled images of a batch, clipped to [0, 1]."""
        shape = image.shape[-2:]
        noise = _uniform(index, shape.numel(), self.seed).view(-1, 1, *shape)
        turn = torch.fft.rfft2(noise - 0.5)  # that of a real image, so the result is real too
        turn = turn / turn.abs().clamp_min(1e-12)
        turn[..., 0, 0] = 1  # the mean stays
        scrambled: Tensor = torch.fft.irfft2(torch.fft.rfft2(image) * turn, s=shape)
        return scrambled.clamp(0, 1)


class Invert(PseudoOOD):
    """Makes bright pixels dark and dark ones bright."""

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the negatives of a batch."""
        return 1 - image


class Rotate(PseudoOOD):
    """Turns images by a quarter, a half or three quarters; those that are not square by a half.

    Args:
        seed: Seed of the choice.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the turned images of a batch."""
        half = image.flip(2, 3)
        if image.shape[2] != image.shape[3]:
            return half
        quarter = random_bits(index, 1, seed=self.seed).view(-1, 1, 1, 1) % 3
        turned = torch.where(quarter == 0, image.rot90(1, (2, 3)), image.rot90(3, (2, 3)))
        return torch.where(quarter == 1, half, turned)


class Noise(PseudoOOD):
    """Adds uniform noise to each value, clipped to [0, 1].

    Args:
        strength: Largest change of a value, in (0, 1].
        seed: Seed of the noise.

    Raises:
        ValueError: If the strength is out of range.
    """

    def __init__(self, strength: float = 0.5, *, seed: int = 0) -> None:
        if not 0 < strength <= 1:
            raise ValueError(f"expected a strength within (0, 1], got {strength}; 0.5 is usual")
        self.strength, self.seed = strength, seed

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the noisy images of a batch."""
        noise = _uniform(index, image[0].numel(), self.seed).view_as(image)
        return (image + self.strength * (2 * noise - 1)).clamp(0, 1)


class Mixture(PseudoOOD):
    """Lays over each image its own half turn, both at half strength."""

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the mixed images of a batch."""
        return (image + image.flip(2, 3)) / 2


def _uniform(index: Tensor, draws: int, seed: int) -> Tensor:
    """Returns (B, draws) float32 numbers, uniform in [0, 1)."""
    return (random_bits(index, draws, seed=seed) >> 39).float() / 2**24


def _require(change: PseudoOOD, image: Tensor) -> None:
    height, width = image.shape[-2:]
    if min(height, width) < change.smallest:
        raise ValueError(
            f"expected images of at least {change.smallest} pixels a side for {change!r}, got "
            f"{height}x{width}; leave it out"
        )
