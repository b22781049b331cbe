"""Distortions of ID images beside the puzzles: blurred, enlarged, scrambled, inverted, mixed."""

__all__ = [
    "Blur",
    "Invert",
    "Mixture",
    "Noise",
    "PhaseScramble",
    "PixelShuffle",
    "Rotate",
    "Zoom",
]

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from src.counter_random import random_bits
from src.data.pseudo_ood import PseudoOOD


class _Drawn(PseudoOOD):
    """One that draws."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed


class PixelShuffle(_Drawn):
    """Shuffles the pixels of each image, all channels alike.

    Args:
        seed: Seed of the random orders.
    """

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


class PhaseScramble(_Drawn):
    """Keeps the power of each spatial frequency and draws its phase, all channels alike.

    Args:
        seed: Seed of the random phases.
    """

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


class Rotate(_Drawn):
    """Turns images by a quarter, a half or three quarters; those that are not square by a half.

    Args:
        seed: Seed of the choice.
    """

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
