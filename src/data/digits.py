"""Images that ship with scikit-learn, for the quickstart; nothing is downloaded."""

__all__ = ["Digits", "Noise", "Photographs"]

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from src.counter_random import random_bits
from src.data.datasets import ImageSet, Source


class Digits(Source):
    """Handwritten digits: 1,797 images of 8 x 8 pixels, enlarged (bilinear), one channel.

    Args:
        classes: Digits to keep; label k is the k-th of them.
        part: Part to load. Every fifth image in the original order is a test image.
        size: Side of the images, in pixels.

    Raises:
        ValueError: If `classes` are not different digits, or if `part` is unknown.

    Source:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998, https://doi.org/10.24432/C50P49 (its test part, as in scikit-learn).
    """

    def __init__(
        self, classes: Sequence[int], part: Literal["train", "test", "all"], size: int = 24
    ) -> None:
        if not classes or not set(classes) <= set(range(10)) or len(set(classes)) < len(classes):
            raise ValueError(f"expected different digits 0..9, got {classes}; set classes")
        if part not in ("train", "test", "all"):
            raise ValueError(f"expected part train, test or all, got {part!r}; set part")
        self.digits, self.part, self.size = torch.tensor([*classes]), part, size
        self.classes = tuple(str(digit) for digit in classes)

    def load(self) -> ImageSet:
        """Returns the images (N, 1, size, size) in scikit-learn's order."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        image = torch.from_numpy(digits.images)[:, None].float() * (255 / 16)  # (N, 1, 8, 8)
        image = interpolate(image, size=self.size, mode="bilinear").round().byte()
        match = torch.from_numpy(digits.target)[:, None] == self.digits  # (N, K)
        is_test = torch.arange(len(image)) % 5 == 0
        in_part = {"train": ~is_test, "test": is_test, "all": is_test | ~is_test}[self.part]
        chosen = match.any(1) & in_part
        return ImageSet(image[chosen], match[chosen].long().argmax(1), self.classes)


class Photographs(Source):
    """Random grey patches of scikit-learn's two photographs, a temple and a flower.

    Args:
        count: Number of patches, N.
        size: Side of the patches, in pixels of the photographs.
        seed: Seed of the random positions.
    """

    def __init__(self, count: int, size: int = 24, *, seed: int = 0) -> None:
        self.count, self.size, self.seed = count, size, seed

    def load(self) -> ImageSet:
        """Returns the patches (N, 1, size, size), without labels."""
        import numpy as np
        from sklearn.datasets import load_sample_images

        photo = torch.from_numpy(np.stack(load_sample_images().images))  # (2, H, W, 3)
        grey = photo.float().mean(3).round().byte()
        windows = grey.unfold(1, self.size, 1).unfold(2, self.size, 1)  # (2, top, left, H, W)
        which, top, left = random_bits(torch.arange(self.count), 3, seed=self.seed).unbind(1)
        _, tops, lefts = windows.shape[:3]
        patch = windows[which % 2, top % tops, left % lefts]
        return _unlabelled(patch[:, None])


class Noise(Source):
    """Uniform noise.

    Args:
        count: Number of images, N.
        size: Side of the images, in pixels.
        channels: Number of channels, C.
        seed: Seed of the random pixels.
    """

    def __init__(self, count: int, size: int = 24, *, channels: int = 1, seed: int = 0) -> None:
        self.count, self.seed = count, seed
        self.shape = (channels, size, size)

    def load(self) -> ImageSet:
        """Returns the images (N, C, size, size), without labels."""
        channels, height, width = self.shape
        draws = channels * height * width
        pixel = random_bits(torch.arange(self.count), draws, seed=self.seed) % 256
        return _unlabelled(pixel.byte().view(self.count, *self.shape))


def _unlabelled(image: Tensor) -> ImageSet:
    return ImageSet(image, torch.full((len(image),), -1))
