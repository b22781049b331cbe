"""Where in an image a gate looks: the activation of the deciding block, laid over the image."""

__all__ = ["Pixels", "deciding_block", "heat", "heat_maps", "is_small", "photo"]

import base64
from collections.abc import Sequence
from io import BytesIO
from math import isqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from src.gate.gate import Gate
from src.network.precision import in_float32

SIDE = 224  # pixels of a photo, at most
PIXELATED = 64  # pixels up to which a photo is enlarged without smoothing
HEAT_SIDE = 96  # pixels of a heat map
Pixels = NDArray[np.uint8]


def deciding_block(gate: Gate) -> str:
    """Returns the block that the detector reads if it names one, else the selected or the last."""
    named, network = gate.detector.named_blocks(), gate.network
    if len(named) == 1:
        return network.block(named[0])
    return network.selected or network.blocks[-1]


def mean_rectified(feature_map: Tensor) -> Tensor:
    """Returns the (B, H, W) mean over the channels of the rectified feature map (B, C, H, W)."""
    return feature_map.float().relu().mean(dim=1)


def heat_maps(gate: Gate, pixels: Sequence[Pixels], block: str) -> list[NDArray[Any]]:
    """Returns the (h, w) mean rectified activation of a block for each image."""
    maps = []
    with in_float32(gate.device), torch.inference_mode(False), torch.no_grad():
        for each in pixels:
            image = torch.from_numpy(each.copy())[None].to(gate.device).float().div_(255)
            seen = gate.network.observe(
                image, keep_maps=False, read=[(block, mean_rectified)], until=block
            )
            maps.append(_squared(seen.read(block, mean_rectified)[0]).cpu().numpy())
    return maps


def _squared(heat_map: Tensor) -> Tensor:
    """Returns the map of tokens (N, 1) as a square, without the tokens before it."""
    tokens, width = heat_map.shape
    if width > 1 or tokens == 1:
        return heat_map
    side = isqrt(tokens)
    return heat_map[tokens - side**2 :].reshape(side, side)


def is_small(pixels: Pixels) -> bool:
    """Whether an image is shown enlarged, each of its pixels as a square."""
    return len(pixels[0]) <= PIXELATED


def photo(pixels: Pixels) -> str:
    """Returns (C, H, W) pixels as a data URL."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())
    if is_small(pixels):
        return data_url(image, "PNG")
    image.thumbnail((SIDE, SIDE))
    return data_url(image, "JPEG")


def heat(values: NDArray[Any]) -> str:
    """Returns an (h, w) map within [0, 1] as a data URL: the stronger, the brighter and denser."""
    from matplotlib import colormaps

    enlarged = Image.fromarray(values.astype(np.float32)).resize(
        (HEAT_SIDE, HEAT_SIDE), Image.Resampling.BILINEAR
    )
    strength = np.asarray(enlarged).clip(0, 1)
    color = colormaps["inferno"](strength)
    color[..., 3] = 0.25 + 0.5 * strength
    return data_url(Image.fromarray((255 * color).round().astype(np.uint8)), "PNG")


def data_url(image: Image.Image, kind: str) -> str:
    """Returns an image as a data URL."""
    image.save(file := BytesIO(), kind)
    code = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{code}"
