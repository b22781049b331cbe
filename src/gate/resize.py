"""Pillow's bilinear resize of 8-bit images in torch operations, which can be exported."""

__all__ = ["Resize"]

from typing import Any

import torch
from torch import Tensor, nn

ONE = 2**22  # Pillow's fixed-point coefficients of 8-bit images are multiples of 1 / ONE


class Resize(nn.Module):
    r"""Resizes uint8 images of any size to size x size, to the very bytes that Pillow gives.

    Each output pixel is a mean of the input. Its weights form a triangle, which is as wide as an
    output pixel when the image shrinks, so that nothing is skipped, and as an input pixel when it
    grows. Pillow rounds the weights to multiples of \(2^{-22}\), and the image to whole numbers
    after each of two passes: along x, then along y, or the other way round if the height loses
    more than twice as many pixels as the width. Products of such integers stay below \(2^{53}\),
    where matrix products in float64 are exact in any order of summation.

    Args:
        size: Side of the result.
        short_side: Length of the short side after a resize that keeps the aspect ratio; the
            central size x size pixels are then cut out, and what lies outside is black. None
            squashes the whole image.

    Source:
        Pillow 13, `src/libImaging/Resample.c`, BILINEAR; for the order of its passes
        https://github.com/python-pillow/Pillow/pull/9549; for the crop
        `src.data.decoding.resized`.
    """

    def __init__(self, size: int, short_side: int | None = None) -> None:
        super().__init__()
        self.size, self.short_side = size, short_side

    def forward(self, image: Tensor) -> Tensor:
        """Returns (B, C, size, size) uint8 pixels of (B, C, H, W) uint8 images."""
        height, width = (_number(side, image) for side in image.shape[2:])
        tall, wide = self._whole(height, width), self._whole(width, height)
        down = self._weights(image.shape[2], height, tall)  # (size, H)
        across = self._weights(image.shape[3], width, wide).T  # (W, size)
        pixels = image.double()
        across_first = _rounded(down @ _rounded(pixels @ across))
        down_first = _rounded(_rounded(down @ pixels) @ across)
        lost, lost_across = height - tall, width - wide
        is_down_first = (lost > 0) & (lost > 2 * lost_across)
        return torch.where(is_down_first, down_first, across_first).to(torch.uint8)

    def _whole(self, side: Tensor, other: Tensor) -> Tensor:
        """Returns the length to which a side is resized, before the crop."""
        if self.short_side is None:
            return torch.full_like(side, self.size)
        return (self.short_side * side / torch.minimum(side, other)).floor()

    def _weights(self, length: int, side: Tensor, whole: Tensor) -> Tensor:
        """Returns the (size, length) weights of an axis, whole numbers in float64."""
        of: dict[str, Any] = {"dtype": side.dtype, "device": side.device}
        place = torch.arange(self.size, **of) + ((whole - self.size) / 2).round()
        scale = side / whole
        centre = ((place + 0.5) * scale)[:, None]
        support = scale.clamp_min(1)  # half the width of the triangle, in input pixels
        distance = (torch.arange(length, **of) - centre + 0.5) * (1 / support)
        weight = (1 - distance.abs()).clamp_min(0)
        weight = weight / weight.sum(dim=1, keepdim=True)
        is_inside = ((place >= 0) & (place < whole))[:, None]
        return torch.where(is_inside, (weight * ONE + 0.5).floor(), 0.0)

    def extra_repr(self) -> str:
        """Describes the sizes."""
        return f"size={self.size}, short_side={self.short_side}"


def _number(value: int, like: Tensor) -> Tensor:
    """Returns a number, of which an export knows only the name, as a () tensor in float64."""
    return torch.full((), value, dtype=torch.float64, device=like.device)


def _rounded(total: Tensor) -> Tensor:
    """Returns pixels, whole numbers within [0, 255], of sums of pixels times weights."""
    return ((total + ONE / 2) / ONE).floor().clamp(0, 255)
