"""Augmentation policies that draw an operation and its strength for each image."""

__all__ = ["RandAugment", "TrivialAugment"]

from functools import lru_cache

import torch
from torch import Tensor

from src.data.augmentation import Augmentation
from src.data.operations import NUMBER, OPERATIONS, apply

BINS = 31  # strengths of each operation
SIGNED = NUMBER["sharpness"]  # the last operation that goes both ways


class TrivialAugment(Augmentation):
    """Applies one of 14 operations at one of 31 strengths to each image, all equally likely.

    Args:
        seed: Seed of the random draws.

    Source:
        Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
        ICCV 2021, https://arxiv.org/abs/2103.10158: its wide space, as in torchvision's
        TrivialAugmentWide.
    """

    stream = 2

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, image: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Returns the images, each after one operation."""
        operation, strength, sign = self.bits(index, epoch, 3).unbind(1)
        space = strengths(True, image.shape[2], image.shape[3], image.device)
        return _applied(image, space, operation, strength % BINS, sign)


class RandAugment(Augmentation):
    """Applies some of 14 operations to each image, one after the other, all at one strength.

    Args:
        n: Number of operations per image.
        magnitude: Strength, within 0..30.
        seed: Seed of the random draws.

    Raises:
        ValueError: If `n` is below 1 or `magnitude` is out of range.

    Source:
        Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search
        space", NeurIPS 2020, https://arxiv.org/abs/1909.13719; operations and strengths are those
        of torchvision's RandAugment.
    """

    stream = 3

    def __init__(self, n: int = 2, magnitude: int = 9, seed: int = 0) -> None:
        if n < 1 or not 0 <= magnitude < BINS:
            raise ValueError(
                f"expected n of at least 1 and a magnitude within 0..{BINS - 1}, got n={n} and "
                f"magnitude={magnitude}; 2 and 9 are usual"
            )
        self.n, self.magnitude, self.seed = n, magnitude, seed

    def __call__(self, image: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Returns the images, each after n operations."""
        space = strengths(False, image.shape[2], image.shape[3], image.device)
        bits = self.bits(index, epoch, 2 * self.n)
        for operation, sign in zip(bits[:, : self.n].T, bits[:, self.n :].T, strict=True):
            image = _applied(image, space, operation, self.magnitude, sign)
        return image


def _applied(
    image: Tensor, space: Tensor, operation: Tensor, strength: Tensor | int, sign: Tensor
) -> Tensor:
    operation = operation % len(OPERATIONS)
    negative = (sign % 2 == 1) & (operation <= SIGNED)
    value = space[operation, strength]
    return apply(image, operation, torch.where(negative, -value, value))


@lru_cache(maxsize=8)
def strengths(wide: bool, height: int, width: int, device: torch.device) -> Tensor:
    """Returns (14, 31) float64, what each strength of each operation means.

    It is made once for a device, which would otherwise be waited for at each step.
    """
    shear, turn, factor, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    across, down = (32.0, 32.0) if wide else (150 / 331 * width, 150 / 331 * height)
    strength, last = torch.arange(BINS, dtype=torch.float64), BINS - 1
    largest = dict.fromkeys(OPERATIONS, 0.0) | dict.fromkeys(("shear_x", "shear_y"), shear)
    largest |= {"translate_x": across, "translate_y": down, "rotate": turn}
    largest |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), factor)
    rows = {name: most * strength / last for name, most in largest.items()}
    rows |= {"posterize": (8 - bits * strength / last).round()}
    rows |= {"solarize": 255 * (last - strength) / last}
    return torch.stack([rows[name] for name in OPERATIONS]).to(device)
