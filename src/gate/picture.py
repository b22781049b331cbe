"""From whatever holds an image to the pixels that the network of a gate sees."""

__all__ = ["Image", "Picture"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from src.data.decoding import View, resized, rgb
from src.data.opening import MAX_PIXELS, check_pixels, open_bytes, open_file

Image = Tensor | NDArray[Any] | Pillow.Image | bytes | str | Path


@dataclass(frozen=True)
class Picture:
    """Turns an image into the pixels that the network was trained on, by one path for all.

    A file, its bytes or a Pillow image is decoded and resized as the training images were: grey,
    palette, CMYK, 16-bit and transparent pictures become RGB, and the EXIF orientation is ignored.
    A network of one channel sees the luma of these, by ITU-R 601-2.

    A tensor is (C, H, W) and an array (H, W, C) or (H, W). In uint8 they are a picture of any
    size. In floating point, within [0, 1], they must have the network's size, and are taken as
    they are.

    Args:
        shape: (C, H, W) of the network's images.
        short_side: Length of the short side after a resize that keeps the aspect ratio; the
            centre is then cropped. None squashes the whole picture.
        max_pixels: Largest number of pixels of a picture, before and after the resize.
    """

    shape: tuple[int, ...]
    short_side: int | None = None
    max_pixels: int = field(default=MAX_PIXELS, repr=False)

    @classmethod
    def of(cls, shape: tuple[int, ...], view: View | str) -> "Picture":
        """Returns the pipeline of a source's view; one that is no `View` decodes no files."""
        if isinstance(view, View):
            return cls(shape, view.short_side, view.max_pixels)
        return cls(shape)

    def __call__(self, image: Image) -> Tensor:
        """Returns (C, H, W) float32 pixels in [0, 1].

        Raises:
            OSError: If a file cannot be read or is no picture.
            ValueError: If it is too large, or a tensor or array has another shape, another type
                or values outside [0, 1] or NaN.
        """
        if isinstance(image, np.ndarray):
            return self._of_array(image)
        if isinstance(image, Tensor):
            return self._of_tensor(image)
        if isinstance(image, Pillow.Image):
            return self._of_picture(image)
        if isinstance(image, bytes | bytearray | memoryview):
            with open_bytes(bytes(image), self.max_pixels) as picture:
                return self._of_picture(picture)
        if isinstance(image, str | Path):
            with open_file(Path(image), self.max_pixels) as picture:
                return self._of_picture(picture)
        raise ValueError(
            "expected an image as a tensor, an array, a Pillow image, bytes or a path, got "
            f"{type(image).__name__}; convert it"
        )

    def pixels(self, picture: Pillow.Image) -> NDArray[np.uint8]:
        """Returns (C, H, W) uint8 pixels of a picture.

        Raises:
            OSError: If it cannot be decoded.
            ValueError: If it is too large, or the network's images have no form of pictures.
        """
        channels, height, width = self.shape
        if channels not in (1, 3) or height != width:
            raise ValueError(
                f"expected a network of square images in grey or RGB to read pictures, got images "
                f"of shape {self.shape}; give tensors of that shape, in [0, 1]"
            )
        check_pixels(picture.size, self.max_pixels)
        picture = rgb(picture)
        if channels == 1:
            picture = picture.convert("L")
        seen = np.asarray(resized(picture, width, self.short_side, self.max_pixels))
        return seen[None] if channels == 1 else seen.transpose(2, 0, 1)

    def _of_picture(self, picture: Pillow.Image) -> Tensor:
        return torch.from_numpy(self.pixels(picture).copy()).float().div_(255)

    def _of_array(self, image: NDArray[Any]) -> Tensor:
        if image.dtype in (np.uint8, np.uint16) and image.ndim == 2:
            return self._of_picture(Pillow.fromarray(image))
        if image.ndim not in (2, 3) or image.dtype.kind not in "uif":
            raise ValueError(
                f"expected an array (H, W, C) or (H, W) of numbers, got {image.dtype} of shape "
                f"{image.shape}; give a list of arrays for several images"
            )
        tensor = torch.from_numpy(np.array(image, image.dtype.newbyteorder("=")))
        return self._of_tensor(tensor[None] if image.ndim == 2 else tensor.movedim(2, 0))

    def _of_tensor(self, image: Tensor) -> Tensor:
        is_pixels = image.dtype == torch.uint8
        if is_pixels and image.dim() == 3 and len(image) in (1, 3, 4):
            array = image.cpu().movedim(0, 2).numpy()
            return self._of_picture(
                Pillow.fromarray(array.squeeze(2) if len(image) == 1 else array)
            )
        if is_pixels or not image.is_floating_point() or image.shape != self.shape:
            raise ValueError(
                "expected a uint8 image of 1, 3 or 4 channels, or a floating-point one of shape "
                f"{self.shape} in [0, 1], got {str(image.dtype).removeprefix('torch.')} of shape "
                f"{tuple(image.shape)}; convert it"
            )
        low, high = image.aminmax()
        if not (low >= 0 and high <= 1):  # also NaN
            raise ValueError(
                f"expected pixels within [0, 1], got {float(low):.4g} to {float(high):.4g}; "
                "divide by 255, and leave the normalisation to the network"
            )
        return image.float()
