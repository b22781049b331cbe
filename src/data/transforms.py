"""Augmentations that move or cover pixels, of a whole batch on its device."""

__all__ = ["CropFlip", "Cutout"]

import torch
from torch import Tensor
from torch.nn.functional import pad

from src.data.augmentation import Augmentation


class CropFlip(Augmentation):
    """Random crop of the zero-padded image and random horizontal flip, drawn per image.

    Args:
        padding: Number of black pixels added on each side before the crop.
        flip: Whether half of the images are mirrored.
        seed: Seed of the random draws.
    """

    stream = 0

    def __init__(self, padding: int = 4, flip: bool = True, seed: int = 0) -> None:
        self.padding, self.flip, self.seed = padding, flip, seed

    def __call__(self, image: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Returns the cropped images."""
        height, width = image.shape[2:]
        offsets = 2 * self.padding + 1
        top, left, mirrored = self.bits(index, epoch, 3)[:, :, None].unbind(1)
        column = torch.arange(width, device=image.device)
        if self.flip:
            column = torch.where(mirrored % 2 == 1, width - 1 - column, column)
        column = left % offsets + column  # (B, W)
        row = top % offsets + torch.arange(height, device=image.device)  # (B, H)
        pixel = row[:, :, None] * (width + 2 * self.padding) + column[:, None]  # (B, H, W)
        padded = pad(image, (self.padding,) * 4).flatten(2)
        # one gather of bytes is twice as fast as indexing `unfold` windows and flipping them
        crop = padded.gather(2, pixel.flatten(1)[:, None].expand(-1, image.shape[1], -1))
        return crop.view(image.shape)


class Cutout(Augmentation):
    """Covers a square whose middle is any pixel of the image, so that it may reach beyond it.

    Args:
        size: Side of the square in pixels: 16 for CIFAR-10, 8 for CIFAR-100.
        fill: Value of the covered pixels, 0..255.
        seed: Seed of the random draws.

    Raises:
        ValueError: If the size is below 1 or `fill` is no value of a pixel.

    Source:
        DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
        Cutout", 2017, https://arxiv.org/abs/1708.04552.
    Differs:
        The official code covers with 0 after the normalisation, so with the mean of the images.
        Here the images are not normalised yet, and `fill` is grey by default.
    """

    stream = 1

    def __init__(self, size: int = 16, fill: int = 128, seed: int = 0) -> None:
        if size < 1 or not 0 <= fill <= 255:
            raise ValueError(
                f"expected a size of at least 1 and a fill within 0..255, got size={size} and "
                f"fill={fill}; 16 and 128 are usual for images of 32 pixels"
            )
        self.size, self.fill, self.seed = size, fill, seed

    def __call__(self, image: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Returns the images, each with a square covered."""
        height, width = image.shape[2:]
        top, left = self.bits(index, epoch, 2).unbind(1)
        top, left = top % height - self.size // 2, left % width - self.size // 2
        covered = box(image, top, left, top + self.size, left + self.size)
        return image.masked_fill(covered, self.fill)


def box(image: Tensor, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Tensor:
    """Returns (B, 1, H, W) bool, the pixels of each image in its rectangle.

    Args:
        image: (B, C, H, W).
        top: (B,) first row, which may lie outside, as all others.
        left: (B,) first column.
        bottom: (B,) row behind the last.
        right: (B,) column behind the last.
    """
    row = torch.arange(image.shape[2], device=image.device)
    column = torch.arange(image.shape[3], device=image.device)
    inside_row = (row >= top[:, None]) & (row < bottom[:, None])  # (B, H)
    inside_column = (column >= left[:, None]) & (column < right[:, None])  # (B, W)
    return (inside_row[:, :, None] & inside_column[:, None])[:, None]
