"""PixMix: training images mixed with fractals and with augmented copies of themselves."""

__all__ = ["PixMix"]

from functools import lru_cache

import torch
from torch import Tensor

from src.data.augmentation import Augmentation, unit
from src.data.fractals import draw_fractals
from src.data.operations import NUMBER, OPERATIONS, apply, change_some

HEAD, COPY, ROUND = 3, 3, 5  # draws of an image, of an augmented copy and of a mixing


class PixMix(Augmentation):
    """Mixes each image, up to k times, with a fractal or with an augmented copy of itself.

    Images are added or multiplied, in shares that are Beta distributed. Half of the images are
    augmented before.

    Args:
        k: Most mixings of an image; each number of them from 0 on is equally likely.
        beta: The larger it is, the more of the image itself stays.
        severity: Largest strength of an augmented copy, of 10.
        pictures: Number of fractals.
        seed: Seed of the random draws and of the fractals.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Hendrycks et al., "PixMix: Dreamlike Pictures Comprehensively Improve Safety Measures",
        CVPR 2022, https://arxiv.org/abs/2112.05135, and `pixmix_utils.py` of the official code
        with all operations (`--all-ops`).
    Differs:
        Fractals are drawn by formula, at the size of the images, instead of 14,230 downloaded
        pictures. Moved copies take the nearest pixel instead of a bilinear mean. Values are
        rounded to 8 bits after each mixing.
    """

    stream = 6

    def __init__(
        self,
        k: int = 4,
        beta: float = 3.0,
        severity: float = 3.0,
        pictures: int = 256,
        seed: int = 0,
    ) -> None:
        if k < 0 or not beta > 0 or not 0.1 <= severity <= 10 or pictures < 1:
            raise ValueError(
                "expected k of at least 0, beta above 0, severity within 0.1..10 and at least one "
                f"picture, got k={k}, beta={beta}, severity={severity} and pictures={pictures}; "
                "4, 3, 3 and 256 are usual"
            )
        self.k, self.beta, self.severity, self.pictures = k, beta, severity, pictures
        self.seed = seed

    def __call__(self, image: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Returns the mixed images."""
        copies = HEAD + (self.k + 1) * COPY
        bits = self.bits(index, epoch, copies + self.k * ROUND)
        copy = bits[:, HEAD:copies].view(len(index), self.k + 1, COPY)
        mixing = bits[:, copies:].view(len(index), self.k, ROUND)
        shape = (image.shape[1], image.shape[2], image.shape[3])
        drawn = fractals(self.pictures, shape, self.seed, image.device)
        picture = drawn[bits[:, 0] % self.pictures]
        mixed = change_some(image, bits[:, 1] % 2 == 1, self._copied, copy[:, 0])
        for turn in range(self.k):
            given = (image, picture, copy[:, turn + 1], mixing[:, turn])
            mixed = change_some(mixed, bits[:, 2] % (self.k + 1) > turn, self._mixed, *given)
        return mixed

    def _copied(self, image: Tensor, draws: Tensor) -> Tensor:
        """Returns the images, each after one operation."""
        operation = 1 + draws[:, 0] % (len(OPERATIONS) - 1)
        level = 0.1 + (self.severity - 0.1) * unit(draws[:, 1])
        start, slope, is_whole = strengths(image.shape[2], image.shape[3], image.device)[
            :, operation
        ]
        change = torch.where(is_whole == 1, (slope * level).trunc(), slope * level)
        turned = (draws[:, 2] % 2 == 1) & (operation <= NUMBER["rotate"])
        return apply(image, operation, start + torch.where(turned, -change, change))

    def _mixed(
        self, mixed: Tensor, image: Tensor, picture: Tensor, copy: Tensor, draws: Tensor
    ) -> Tensor:
        """Returns `mixed` after one mixing with a picture or a copy of the image."""
        other = change_some(
            picture, draws[:, 0] % 2 == 1, lambda _, *of: self._copied(*of), image, copy
        )
        adds = (draws[:, 1] % 2 == 1)[:, None]
        first, second = (unit(each)[:, None] ** (1 / self.beta) for each in draws[:, 3:].unbind(1))
        inside = (draws[:, 2] % 2 == 1)[:, None]  # both shares positive
        own = torch.where(inside, first, 2 - first)
        others = torch.where(inside, 1 - second, second - 1)
        level = torch.arange(256, device=image.device, dtype=torch.float64) * (2 / 255)
        # tables of all values: a power of each pixel would be slow, and inexact in float32
        table = torch.where(adds, own * (level - 1), level**own)
        other_table = torch.where(adds, others * (level - 1), level.clamp(min=1e-37) ** others)
        one, two = (
            each.float().gather(1, of.flatten(1).long())
            for each, of in ((table, mixed), (other_table, other))
        )
        value = torch.where(adds, one + two + 1, one * two) * 127.5
        return value.round().clamp(0, 255).to(torch.uint8).view_as(mixed)


@lru_cache(maxsize=8)
def strengths(height: int, width: int, device: torch.device) -> Tensor:
    """Returns (3, 14) float64: at level 0, change per level, and whether it is truncated."""
    factor = (-0.9, 0.18, 0)
    rows = dict.fromkeys(OPERATIONS, (0.0, 0.0, 0)) | {
        **dict.fromkeys(("shear_x", "shear_y"), (0, 0.03, 0)),
        **{"translate_x": (0, width / 30, 1), "translate_y": (0, height / 30, 1)},
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), factor),
        **{"rotate": (0, 3, 1), "posterize": (4, -0.4, 1), "solarize": (256, -25.6, 1)},
    }
    values = [rows[name] for name in OPERATIONS]
    return torch.tensor(values, dtype=torch.float64).T.contiguous().to(device)


@lru_cache(maxsize=4)
def fractals(count: int, shape: tuple[int, int, int], seed: int, device: torch.device) -> Tensor:
    """Returns (count, C, H, W) uint8 fractals on a device, drawn once."""
    return draw_fractals(count, shape, seed=seed).to(device)
