"""Mixtures of two training images with labels mixed in the same shares."""

__all__ = ["CutMix", "Mixing", "Mixup"]

from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from scipy.special import betaincinv
from torch import Tensor

from src.data.augmentation import Drawn
from src.data.datasets import Batch
from src.data.transforms import box

LEVELS = 1 << 12  # values that a share is drawn from, equally likely
ONE = 1 << 16  # in fixed point


class Mixing(Drawn, ABC):
    """Mixes each image of a training batch with another one of the whole training part.

    The partner is drawn like everything else, and augmented as in its own place in the epoch. The
    label stays that of the image itself.

    Args:
        alpha: Both parameters of the Beta distribution of the share; 1 is uniform.
        seed: Seed of the random draws.

    Raises:
        ValueError: If alpha is not above 0.
    """

    def __init__(self, alpha: float = 1.0, seed: int = 0) -> None:
        if not alpha > 0:
            raise ValueError(f"expected alpha above 0, got {alpha}; 1 draws shares uniformly")
        self.alpha, self.seed = alpha, seed

    def partner(self, index: Tensor, epoch: int, images: int) -> Tensor:
        """Returns (B,) int64, the position of another image for each of these positions.

        Args:
            index: (B,) int64 positions.
            epoch: Number of the epoch.
            images: Number of training images.
        """
        drawn = self.bits(index, epoch, 1)[:, 0] % max(1, images - 1)
        return (index + 1 + drawn) % images

    def __call__(self, batch: Batch, other: Batch, epoch: int, num_classes: int) -> Batch:
        """Returns the mixed batch with its targets.

        Args:
            batch: Images (B, C, H, W) in uint8, augmented.
            other: Their partners.
            epoch: Number of the epoch.
            num_classes: Number of classes, K.

        Returns:
            The batch with mixed images in uint8 and (B, K) float32 `target`.
        """
        draws = self.bits(batch.index, epoch, 4)[:, 1:]
        table = quantiles(float(self.alpha), batch.image.device)
        image, share = self.mix(batch.image, other.image, table[draws[:, 0] % LEVELS], draws)
        classes = torch.arange(num_classes, device=image.device)
        own, others = ((each.label[:, None] == classes).float() for each in (batch, other))
        target = share[:, None] * own + (1 - share[:, None]) * others
        return batch._replace(image=image, target=target)

    @abstractmethod
    def mix(
        self, image: Tensor, other: Tensor, share: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the mixed images, and what share of each is the image itself.

        Args:
            image: (B, C, H, W) uint8.
            other: (B, C, H, W) uint8 partners.
            share: (B,) int64 drawn shares, of 2**16.
            draws: (B, 3) int64 random bits; the first were used for the share.

        Returns:
            (B, C, H, W) uint8 images, and (B,) float32 shares.
        """


class Mixup(Mixing):
    """Weighted means of two images.

    Source:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018,
        https://arxiv.org/abs/1710.09412; the official code for CIFAR-10 has alpha 1.
    Differs:
        The share of the image itself is the larger of the two, so that its label is that of the
        greater part; two images are then mixed as often and in the same shares. The paper mixes
        within a batch. Mixed values are rounded to 8 bits.
    """

    stream = 4

    def mix(
        self, image: Tensor, other: Tensor, share: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the weighted means, and the weights of the images."""
        share = share.maximum(ONE - share)
        weight = share.int()[:, None, None, None]
        mixed = (weight * image.int() + (ONE - weight) * other.int() + ONE // 2) >> 16
        return mixed.to(torch.uint8), share.float() / ONE


class CutMix(Mixing):
    """Pastes a rectangle of another image into each.

    Source:
        Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
        Features", ICCV 2019, https://arxiv.org/abs/1905.04899.
    Differs:
        The paper mixes within a batch, with the same rectangle for all.
    """

    stream = 5

    def mix(
        self, image: Tensor, other: Tensor, share: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the images with their rectangles, and the shares of pixels outside."""
        height, width = image.shape[2:]
        side = (1 - share.double() / ONE).sqrt()
        tall, wide = (side * height).long() // 2, (side * width).long() // 2
        y, x = draws[:, 1] % height, draws[:, 2] % width
        pasted = box(image, y - tall, x - wide, y + tall, x + wide)
        outside = pasted.logical_not().sum(dim=(1, 2, 3))
        return torch.where(pasted, other, image), outside.float() / (height * width)


@lru_cache(maxsize=8)
def quantiles(alpha: float, device: torch.device) -> Tensor:
    """Returns (4096,) int64 equally likely values of Beta(alpha, alpha), of 2**16, ascending."""
    middle = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    values = torch.from_numpy(betaincinv(alpha, alpha, middle.numpy()))
    return (values * ONE).round().long().to(device)
