"""What every augmentation of training images is, and several of them in a row."""

__all__ = ["Augmentation", "Compose", "Drawn", "unit"]

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from src.counter_random import random_bits


class Drawn:
    """Something that draws at random, for each image and epoch anew.

    Each draw depends on (seed, epoch, index) alone: it is the same in every batch and order, on
    every device, and for any number of processes.

    Attributes:
        stream: Number of the class, so that no two classes draw the same bits from one seed.
        seed: Seed of the random draws, in 0..2**32 - 1.
    """

    stream: ClassVar[int]
    seed = 0

    def bits(self, index: Tensor, epoch: int, draws: int) -> Tensor:
        """Returns (B, draws) int64, uniform in [0, 2**63), of images at (B,) positions."""
        return random_bits(index + (epoch << 32), draws, seed=self.seed ^ self.stream << 32)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class Augmentation(Drawn, ABC):
    """Changes the images of a training batch on their device, each by draws of its own."""

    @abstractmethod
    def __call__(self, image: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Returns the augmented images.

        Args:
            image: (B, C, H, W) uint8 images.
            index: (B,) int64 positions of the images in their set.
            epoch: Number of the epoch.

        Returns:
            (B, C, H, W) uint8 images.
        """


class Compose(Augmentation):
    """Several augmentations, one after the other.

    Args:
        augmentations: Name of each augmentation -> augmentation, in their order; None leaves one
            out.

    Raises:
        ValueError: If one is no augmentation.
    """

    stream = 0  # it draws nothing

    def __init__(self, **augmentations: Augmentation | None) -> None:
        for name, each in augmentations.items():
            if not isinstance(each, Augmentation | None):
                raise ValueError(
                    f"expected augmentations by their names, got {name}={each!r}; give one that "
                    "stands alone a name of its own in data.augmentation: crop_flip: {_target_: "
                    "src.data.CropFlip, ...}"
                )
        self.augmentations = {name: each for name, each in augmentations.items() if each}

    def __call__(self, image: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Returns the images after all augmentations."""
        for augmentation in self.augmentations.values():
            image = augmentation(image, index, epoch)
        return image

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.augmentations.items())
        return f"Compose({arguments})"


def unit(bits: Tensor) -> Tensor:
    """Returns float64 numbers, uniform in [0, 1), in steps of 2**-24, of random bits."""
    return (bits >> 39).to(torch.float64) / 2**24
