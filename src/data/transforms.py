"""Training augmentation of a whole batch on its device."""

__all__ = ["CropFlip"]

import torch
from torch import Tensor
from torch.nn.functional import pad

from src.counter_random import random_bits


class CropFlip:
    """Random crop of the zero-padded image and random horizontal flip, drawn per image.

    Each draw depends on (seed, epoch, index) alone: it is the same in every batch, on every
    device, and for any number of processes.

    Args:
        padding: Number of black pixels added on each side before the crop.
        flip: Whether half of the images are mirrored.
        seed: Seed of the random draws.
    """

    def __init__(self, padding: int = 4, flip: bool = True, seed: int = 0) -> None:
        self.padding, self.flip, self.seed = padding, flip, seed

    def __call__(self, image: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Returns the augmented images.

        Args:
            image: (B, C, H, W) uint8 images.
            index: (B,) int64 positions of the images in their set.
            epoch: Number of the epoch.

        Returns:
            (B, C, H, W) uint8 images.
        """
        height, width = image.shape[2:]
        offsets = 2 * self.padding + 1
        bits = random_bits(index + (epoch << 32), 3, seed=self.seed)
        top, left, mirrored = bits[:, :, None].unbind(1)
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
