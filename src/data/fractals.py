"""Coloured fractals, drawn by formula: pictures of structure without any object."""

__all__ = ["draw_fractals"]

import math

import torch
from torch import Tensor

from src.counter_random import random_bits
from src.data.augmentation import unit

MAPS = 6  # most maps of a system
WALKERS = 256  # points of each system that wander at the same time
SETTLING = 24  # steps after which a point lies on the attractor
DENSITY = 12  # points that are drawn, for each pixel
CHUNK = 32  # systems drawn at the same time, whose points then fit into a cache


def draw_fractals(count: int, shape: tuple[int, int, int], *, seed: int = 0) -> Tensor:
    """Returns coloured attractors of random iterated function systems.

    Each system has two to six contracting affine maps, half of the systems followed by a sine or
    a swirl, as in fractal flames. Points wander by random maps (the chaos game) and carry a mean
    of the colours of the maps. A pixel shows the logarithm of how many points met it, over a
    gradient of two other colours.

    Fractal i depends on (seed, i) and the shape alone. They are drawn on the CPU, since the last
    bits of a sine differ between devices.

    Args:
        count: Number of fractals.
        shape: (C, H, W) of the pictures; other than three channels are of one grey.
        seed: Seed of the systems and of the points.

    Returns:
        (count, C, H, W) uint8.

    Raises:
        ValueError: If there is to be no fractal.

    Source:
        Barnsley, "Fractals Everywhere", 1988; Draves and Reckase, "The Fractal Flame Algorithm",
        2003, https://flam3.com/flame_draves.pdf. The singular values of the maps are drawn so
        that no map collapses, as in Anderson and Farrell, "Improving Fractal Pre-training", WACV
        2022, https://arxiv.org/abs/2110.03091.
    """
    if count < 1:
        raise ValueError(f"expected at least one fractal, got {count}; 256 are usual")
    number = torch.arange(count)
    return torch.cat([_drawn(each, shape, seed) for each in number.split(CHUNK)])


def _drawn(number: Tensor, shape: tuple[int, int, int], seed: int) -> Tensor:
    channels, height, width = shape
    draws = unit(random_bits(number, 4 + 12 * MAPS + 6, seed=seed)).float()
    maps = (2 + draws[:, 0] * (MAPS - 1)).long()
    walk = _Walk(draws[:, 4 : 4 + 9 * MAPS].view(-1, MAPS, 9), maps, draws[:, 1])
    tint = draws[:, 4 + 9 * MAPS :].view(-1, MAPS + 2, 3)
    if channels != 3:
        tint = tint[..., :1]
    step = number[:, None] * WALKERS + torch.arange(WALKERS)
    steps = SETTLING * 2 + -(-DENSITY * height * width // WALKERS)
    point = torch.zeros(len(number), WALKERS, 2)
    colour = torch.zeros(len(number), WALKERS, tint.shape[2])
    least, most = point.amin(1) + math.inf, point.amax(1) - math.inf
    total = torch.zeros(len(number) * height * width, 1 + tint.shape[2])
    first = torch.arange(len(number))[:, None] * height * width
    for turn in range(steps):
        if turn % 3 == 0:  # 16 bits of a number choose a map
            bits = random_bits(step.flatten() + (turn << 32), 1, seed=seed ^ 1 << 40).view_as(step)
        chosen = ((bits >> 16 * (turn % 3)) % 2**16 * maps[:, None]) >> 16
        point = walk(point, chosen)
        colour = (colour + tint.gather(1, chosen[..., None].expand_as(colour))) / 2
        if SETTLING <= turn < 2 * SETTLING:
            least = least.minimum(point.amin(1))
            most = most.maximum(point.amax(1))
        elif turn >= 2 * SETTLING:
            place = (point - least[:, None]) / (most - least).clamp(min=1e-6)[:, None]
            row, column = (
                (place[..., axis] * size).long().clamp(0, size - 1)
                for axis, size in ((0, height), (1, width))
            )
            met = torch.cat([torch.ones_like(colour[..., :1]), colour], dim=2).flatten(0, 1)
            total.index_add_(0, (first + row * width + column).flatten(), met)
    return _shown(total.view(len(number), height, width, -1), tint[:, MAPS:], channels)


class _Walk:
    """One step of all points of all systems.

    Args:
        draws: (N, MAPS, 9) numbers in [0, 1) that determine the maps.
        maps: (N,) number of maps of each system.
        kind: (N,) numbers in [0, 1) that choose what follows a map.
    """

    def __init__(self, draws: Tensor, maps: Tensor, kind: Tensor) -> None:
        turn, other = (2 * math.pi * draws[..., :2]).unbind(2)
        large = 0.45 + 0.5 * draws[..., 2]
        small = large * (0.3 + 0.7 * draws[..., 3])
        # the fewer maps, the less each may contract: else little more than dust is left
        enough = (1.5 / maps)[:, None].sqrt()
        large, small = large.maximum(enough).clamp(max=0.95), small.maximum(enough * 0.7)
        mirrored = torch.where(draws[..., 4] < 0.5, -small, small)
        first = _rotation(turn) * torch.stack([large, mirrored], dim=2)[:, :, None]
        matrix = first @ _rotation(other)  # (N, MAPS, 2, 2)
        offset = 2 * draws[..., 5:7] - 1
        self.affine = torch.cat([matrix.flatten(2), offset], dim=2)
        self.kind = kind[:, None, None]

    def __call__(self, point: Tensor, chosen: Tensor) -> Tensor:
        """Returns the (N, WALKERS, 2) points after the chosen (N, WALKERS) maps."""
        system = torch.arange(len(point))[:, None]
        a, b, c, d, e, f = self.affine[system, chosen].unbind(2)
        x, y = point.unbind(2)
        x, y = a * x + b * y + e, c * x + d * y + f
        radius = x * x + y * y
        sine, cosine = radius.sin(), radius.cos()
        point = torch.stack([x, y], dim=2)
        swirled = torch.stack([x * sine - y * cosine, x * cosine + y * sine], dim=2)
        point = torch.where(self.kind < 0.25, (1.6 * point).sin(), point)
        return torch.where(self.kind > 0.75, swirled, point)


def _rotation(angle: Tensor) -> Tensor:
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([cosine, -sine, sine, cosine], dim=-1).view(*angle.shape, 2, 2)


def _shown(total: Tensor, ground: Tensor, channels: int) -> Tensor:
    """Returns (N, C, H, W) uint8 pictures of (N, H, W, 1 + C) counts and sums of colours."""
    count, colour = total[..., :1], total[..., 1:]
    colour = colour / count.clamp(min=1)
    least, most = colour.amin((1, 2), keepdim=True), colour.amax((1, 2), keepdim=True)
    colour = (colour - least) / (most - least).clamp(min=1e-6)
    bright = (1 + count).log()
    bright = (bright / bright.amax((1, 2), keepdim=True)) ** 0.7
    share = torch.linspace(0, 1, total.shape[1])[:, None, None]
    behind = ground[:, None, None, 0] * (1 - share) + ground[:, None, None, 1] * share
    picture = bright * colour + (1 - bright) * behind * 0.6
    picture = (picture * 255).round().clamp(0, 255).to(torch.uint8).movedim(3, 1)
    return picture.expand(-1, channels, -1, -1).contiguous()
