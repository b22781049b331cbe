"""The image operations of augmentation policies, each image with an operation of its own.

All arithmetic is in integers: a float may differ in its last bit between devices, and a pixel
would then differ by a grey level.
"""

__all__ = ["OPERATIONS", "apply", "change_some"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

# what the strength of each is: none, pixels per pixel, pixels, degrees (counter-clockwise), the
# factor minus 1, bits that are kept, or the value from which pixels are inverted
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness"),
    *("posterize", "solarize", "autocontrast", "equalize"),
)
NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
ONE = 1 << 16  # in fixed point
RGB = (19595, 38470, 7471)  # weights of the luma of ITU-R 601, of a sum of 2**16


def apply(image: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Returns each image after its operation.

    Args:
        image: (B, C, H, W) uint8; with other than three channels, "color" changes nothing.
        operation: (B,) int64 positions in `OPERATIONS`.
        strength: (B,) float64, in the unit of the operation.

    Returns:
        (B, C, H, W) uint8 images.

    Source:
        The kernels of torchvision.transforms.v2, with the nearest pixel and black outside.
    Differs:
        A colour is at most 1 grey level off (2 for "color", whose weights of the channels have
        more digits here), and where two pixels are equally near, the other one may be taken.
    """
    families = ((_moved, "shear_x", "rotate"), (_blended, "brightness", "sharpness"),
                (_mapped, "posterize", "equalize"))  # fmt: skip
    for change, first, last in families:
        chosen = (operation >= NUMBER[first]) & (operation <= NUMBER[last])
        image = change_some(image, chosen, change, operation, strength)
    return image


def change_some(
    image: Tensor, chosen: Tensor, change: Callable[..., Tensor], *given: Tensor
) -> Tensor:
    """Returns the images, the chosen ones changed.

    On the CPU, only those are computed. On an accelerator all are: the host would have to wait
    for it to learn how many are chosen.

    Args:
        image: (B, C, H, W).
        chosen: (B,) bool.
        change: Takes images and the values of `given` that belong to them.
        given: (B, ...) each.
    """
    if image.device.type == "cpu":
        row = chosen.nonzero()[:, 0]
        return image.index_copy(0, row, change(image[row], *(each[row] for each in given)))
    return torch.where(chosen[:, None, None, None], change(image, *given), image)


def _moved(image: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Shears about the first pixel, translations by whole pixels, and turns about the middle."""
    height, width = image.shape[2:]

    def of(name: str, value: Tensor) -> Tensor:
        return torch.where(operation == NUMBER[name], value, 0)

    angle = of("rotate", strength * (math.pi / 180))
    shear_x, shear_y, whole = of("shear_x", strength), of("shear_y", strength), strength.trunc()
    # from doubled distances to the middle, which are integers, to those of the source pixel
    source_x = angle.cos(), shear_x - angle.sin(), shear_x * height - of("translate_x", 2 * whole)
    source_y = shear_y + angle.sin(), angle.cos(), shear_y * width - of("translate_y", 2 * whole)
    x = 2 * torch.arange(width, device=image.device) + 1 - width
    y = (2 * torch.arange(height, device=image.device) + 1 - height)[:, None]
    column = (_linear(source_x, x, y) + width * ONE) >> 17  # (B, H, W)
    row = (_linear(source_y, x, y) + height * ONE) >> 17
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixel = torch.where(inside, row * width + column, 0).flatten(1)[:, None]
    moved = image.flatten(2).gather(2, pixel.expand(-1, image.shape[1], -1)).view_as(image)
    return moved * inside[:, None]


def _linear(factors: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Returns (B, H, W) int64 a x + b y + c in fixed point."""
    a, b, c = ((each * ONE).round().long()[:, None, None] for each in factors)
    return a * x + b * y + c


def _blended(image: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Mixtures with black, the grey image, its mean or the blurred image, or away from them."""
    wide = image.int()
    grey = wide
    if image.shape[1] == 3:
        red, green, blue = wide.unbind(1)
        grey = ((RGB[0] * red + RGB[1] * green + RGB[2] * blue) >> 16)[:, None]
    mean = grey.sum(dim=(1, 2, 3), keepdim=True) // grey.shape[1:].numel()
    number = operation[:, None, None, None]
    other = torch.where(number == NUMBER["color"], grey, 0)
    other = torch.where(number == NUMBER["contrast"], mean.int(), other)
    other = torch.where(number == NUMBER["sharpness"], _smoothed(wide), other)
    factor = ((1 + strength) * ONE).round().int()[:, None, None, None]
    return ((factor * wide + (ONE - factor) * other) >> 16).clamp(0, 255).to(torch.uint8)


def _smoothed(wide: Tensor) -> Tensor:
    """Rounded mean of a pixel, five times, and its eight neighbours; edges as they are."""
    if min(wide.shape[2:]) < 3:
        return wide
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    middle = wide[:, :, 1:-1, 1:-1]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * middle
    smoothed = wide.clone()
    smoothed[:, :, 1:-1, 1:-1] = (total + 6) // 13
    return smoothed


def _mapped(image: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Operations that give each value of a channel another one."""
    pixel = image.flatten(2)
    level = torch.arange(256, device=image.device)
    number, strength = operation[:, None, None], strength[:, None, None]
    dropped = (8 - strength.clamp(0, 8)).long()
    table = level >> dropped << dropped
    inverted = torch.where(level >= strength, 255 - level, level)
    table = torch.where(number == NUMBER["solarize"], inverted, table)
    table = torch.where(number == NUMBER["autocontrast"], _stretched(pixel, level), table)
    table = torch.where(number == NUMBER["equalize"], _equalized(pixel, level), table)
    return table.to(torch.uint8).gather(2, pixel.long()).view_as(image)


def _stretched(pixel: Tensor, level: Tensor) -> Tensor:
    """Returns the (B, C, 256) table that takes the smallest value to 0 and the largest to 255."""
    least, most = pixel.amin(2, keepdim=True).long(), pixel.amax(2, keepdim=True).long()
    stretched = (level - least) * 255 // (most - least).clamp(min=1)
    return torch.where(most > least, stretched.clamp(0, 255), level)


def _equalized(pixel: Tensor, level: Tensor) -> Tensor:
    """Returns the (B, C, 256) table after which all values are about equally frequent."""
    count = torch.zeros((*pixel.shape[:2], 256), dtype=torch.int64, device=pixel.device)
    count.scatter_add_(2, pixel.long(), torch.ones_like(pixel, dtype=torch.int64))
    most = pixel.amax(2, keepdim=True).long()
    step = (pixel.shape[2] - count.gather(2, most)) // 255
    below = count.cumsum(2) - count
    equalized = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    return torch.where(step > 0, equalized, level)
