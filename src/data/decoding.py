"""Decodes image files to the pixels that a network sees."""

__all__ = ["Codec", "OnCorrupt", "View", "decode", "rgb", "threads_for", "undecodable"]

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin
from torch import Tensor
from torch.utils.data import get_worker_info
from tqdm import tqdm

from src.data.opening import MAX_PIXELS, check_pixels

OnCorrupt = Literal["refuse", "skip"]
SMALL = 96 * 96  # pixels; below this size, threads cost more than they gain (measured)
SHOW_FROM = 2000  # images; fewer are decoded before anybody could read a progress bar


def rgb(picture: Image.Image) -> Image.Image:
    """Returns the picture as 8-bit RGB.

    Grey and palette images are expanded, CMYK is converted, 16-bit grey is divided by 257,
    transparency is dropped, and the EXIF orientation is ignored. This matches torchvision, which
    published protocols use, except for 16-bit grey, which torchvision turns white.

    Raises:
        ValueError: If pixels are floats or integers of more than 16 bits.
    """
    if picture.mode.startswith(("I", "F")):
        value = np.asarray(picture)
        if value.dtype.kind == "f" or value.min() < 0 or value.max() > 65535:
            raise ValueError(f"expected pixels of 8 or 16 bits, got mode {picture.mode}")
        picture = Image.fromarray((value / 257).round().astype(np.uint8))
    return picture.convert("RGB")


@dataclass(frozen=True)
class Codec:
    """The JPEG compression of an image, to be applied to others.

    Attributes:
        tables: Quantisation tables.
        subsampling: Chroma subsampling in Pillow's numbers: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
    """

    tables: tuple[tuple[int, ...], ...]
    subsampling: int

    @classmethod
    def of(cls, picture: Image.Image) -> "Codec | None":
        """Returns the codec of an opened file; None if it is not a JPEG file."""
        if not isinstance(picture, JpegImagePlugin.JpegImageFile):
            return None
        tables = tuple(tuple(table) for _, table in sorted(picture.quantization.items()))
        return cls(tables, JpegImagePlugin.get_sampling(picture))

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Returns the picture compressed and decompressed."""
        file = BytesIO()
        tables = [list(table) for table in self.tables]
        picture.save(file, "JPEG", qtables=tables, subsampling=self.subsampling)
        return Image.open(file)


@dataclass(frozen=True)
class View:
    """Turns pictures into network inputs.

    Attributes:
        size: Side of the result, in pixels. Other pictures are resized (bilinear).
        short_side: Length of the short side after a resize that keeps the aspect ratio; the
            centre is then cropped. None squashes the whole picture.
        codec: Codec that compresses each picture; None leaves it as it is.
        codec_last: Whether pictures are compressed after the resize, not before it.
        max_pixels: Largest number of pixels of a picture, before and after the resize.
    """

    size: int
    short_side: int | None = None
    codec: Codec | None = None
    codec_last: bool = True
    max_pixels: int = field(default=MAX_PIXELS, repr=False)

    def __str__(self) -> str:
        """Returns a description."""
        side = self.size
        how = f"squash to {side}"
        if self.short_side is not None:
            how = f"resize the short side to {self.short_side}, crop the central {side}"
        codec = f"compress as the ID images {'after' if self.codec_last else 'before'} that"
        return f"{how}, bilinear" + (f"; {codec}" if self.codec else "")

    def __call__(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Returns (3, size, size) uint8 pixels of an opened file.

        Raises:
            ValueError: If it has more than `max_pixels`, or pixels that `rgb` refuses.
        """
        check_pixels(picture.size, self.max_pixels)
        picture = rgb(picture)
        if self.codec and not self.codec_last:
            picture = self.codec(picture)
        picture = resized(picture, self.size, self.short_side, self.max_pixels)
        if self.codec and self.codec_last:
            picture = self.codec(picture)
        return np.asarray(picture).transpose(2, 0, 1)


def resized(
    picture: Image.Image, size: int, short_side: int | None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Returns the picture at size x size pixels, squashed or cropped.

    With a short side, the pixels equal those of torchvision's `Resize(short_side)` and
    `CenterCrop(size)`.

    Raises:
        ValueError: If the short side would make a long and thin picture exceed `max_pixels`.
    """
    shape = (size, size)
    if short_side is not None:
        width, height = (int(short_side * side / min(picture.size)) for side in picture.size)
        shape = (width, height)
        check_pixels(shape, max_pixels)
    if picture.size != shape:
        picture = picture.resize(shape, Image.Resampling.BILINEAR)
    if short_side is None:
        return picture
    left, top = (round((side - size) / 2) for side in shape)
    return picture.crop((left, top, left + size, top + size))


def decode(
    read: Callable[[int], Image.Image],
    names: Sequence[str],
    view: View,
    on_corrupt: OnCorrupt = "refuse",
) -> tuple[Tensor, Tensor]:
    """Decodes images, and shows a progress bar on a terminal.

    Args:
        read: Function that opens the image of a row.
        names: Name of each row's image, for error messages.
        view: View that turns a picture into a network input.
        on_corrupt: "refuse" if a corrupt image is an error, "skip" if it is returned black.

    Returns:
        (N, 3, size, size) uint8 images, and (N,) bool, False for those that are corrupt.

    Raises:
        ValueError: If an image cannot be decoded and is not skipped.
    """
    image = np.zeros((len(names), 3, view.size, view.size), dtype=np.uint8)
    kept = np.ones(len(names), dtype=bool)
    threads = threads_for(read, len(names))
    quiet = len(names) < SHOW_FROM or not sys.stderr.isatty()

    def decode_share(first: int) -> None:
        for row in range(first, len(names), threads):
            try:
                with read(row) as picture:
                    image[row] = view(picture)
            except Exception as error:  # decoders raise many types, which all mean a broken file
                if on_corrupt == "refuse":
                    raise undecodable(names[row], error) from None
                kept[row] = False
            if not quiet and not row % 100:
                bar.update(min(100, len(names) - bar.n))

    with (
        tqdm(total=len(names), desc="decoding", unit=" images", disable=quiet) as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        list(pool.map(decode_share, range(threads)))
    return torch.from_numpy(image), torch.from_numpy(kept)


def undecodable(name: str, error: Exception) -> ValueError:
    """Returns the error for a corrupt image."""
    return ValueError(
        f"expected an image, got {name}, which cannot be decoded ({error}); replace or delete it, "
        "or set on_corrupt=skip"
    )


def threads_for(read: Callable[[int], Image.Image], count: int) -> int:
    """Returns the number of threads that decode images fastest, judged by the first image.

    Pillow releases the interpreter only while it decodes, which takes no time for a small image.
    """
    if get_worker_info() or count == 0:  # a worker is already one of many
        return 1
    try:
        with read(0) as picture:
            return 1 if picture.width * picture.height < SMALL else os.cpu_count() or 1
    except Exception:  # reported when this image is decoded
        return os.cpu_count() or 1
