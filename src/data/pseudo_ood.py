"""Pseudo-OOD images, made from ID images alone."""

__all__ = ["Jigsaw", "Jigsaws", "PseudoOOD"]

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from src.counter_random import random_bits

CHOICE = 0x5EED_0F61  # a stream of its own, independent of the orders of the tiles


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


class Jigsaws(PseudoOOD):
    """Jigsaw puzzles of several grids: each image is cut by one of them.

    So a criterion looks at all grids and still costs one forward pass of the images. The choice
    depends on (seed, index) alone, and is independent of the orders of the tiles.

    Args:
        grids: Numbers of tiles per side.
        border: As in `Jigsaw`.
        identity: As in `Jigsaw`.
        seed: Seed of the random choices and orders.

    Raises:
        ValueError: If there is no grid, or one that `Jigsaw` refuses.
    """

    def __init__(
        self, grids: Iterable[int], *, border: str = "zero", identity: bool = True, seed: int = 0
    ) -> None:
        self.grids, self.border, self.identity, self.seed = tuple(grids), border, identity, seed
        if not self.members():
            raise ValueError("expected at least one grid, got none; the paper uses 3")

    @property
    def smallest(self) -> int:
        """The largest number of tiles per side."""
        return max(self.grids)

    def members(self) -> list[Jigsaw]:
        """Returns the jigsaw of each grid."""
        options = {"border": self.border, "identity": self.identity, "seed": self.seed}
        return [Jigsaw(grid, **options) for grid in self.grids]  # type: ignore[arg-type]

    def __call__(self, image: Tensor, index: Tensor) -> Tensor:
        """Returns the puzzles of a batch.

        Raises:
            ValueError: If a grid is larger than the image.
        """
        puzzles = torch.stack([jigsaw(image, index) for jigsaw in self.members()])
        chosen = random_bits(index, 1, seed=self.seed ^ CHOICE)[:, 0] % len(self.grids)
        return puzzles[chosen, torch.arange(len(index), device=index.device)]
