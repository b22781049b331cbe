"""The common part of image folders and image lists."""

__all__ = ["ImageFiles", "chosen", "decoded", "digest", "entries_of", "state_of"]

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import PIL
import torch
from PIL import Image
from torch import Tensor

from src.data.datasets import ImageSet, PictureSource, StoredImages
from src.data.decoding import OnCorrupt, View, decode
from src.data.names import alike, readable
from src.data.opening import MAX_PIXELS, open_file, open_member


class ImageFiles(PictureSource):
    """Image files in a folder or an archive, the base of `ImageFolder` and `ImageList`.

    Args:
        path: Folder of the images.
        names: Paths of the images, relative to `path`.
        label: (N,) int64, -1 for an image without a label.
        classes: Class names; empty if there are no labels.
        size: Side of the RGB images, in pixels. Other images are resized (bilinear) without
            keeping their aspect ratio, unless `short_side` is set.
        short_side: Length of the short side after a resize that keeps the aspect ratio; the
            centre is then cropped, as is usual for ImageNet.
        count: Number of images that a published protocol requires; None accepts any number.
        sample: Number of images to draw at random; None takes all.
        seed: Seed of the sample.
        in_memory: Whether all images are decoded at once, or each batch when it is used.
        on_corrupt: "refuse" if a corrupt image is an error, "skip" if it is left out and counted.
        max_pixels: Largest number of pixels of an image, before and after the resize. A file may
            have eight bytes for each. Larger ones count as corrupt.
        archive: ZIP file that holds the images; None if they are in a folder.
        prefix: Prefix of the names in the archive.
        notes: What a user should know about what was found there, in sentences.

    Raises:
        ValueError: If the number of images is not `count` or is below `sample`, if `short_side` is
            below `size`, if `on_corrupt` is unknown, or if two classes have one readable name.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        label: Tensor,
        classes: Sequence[str],
        size: int,
        *,
        short_side: int | None = None,
        count: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        in_memory: bool = True,
        on_corrupt: OnCorrupt = "refuse",
        max_pixels: int = MAX_PIXELS,
        archive: Path | None = None,
        prefix: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        if short_side is not None and short_side < size:
            raise ValueError(
                f"expected a short_side of at least the size {size}, got {short_side}; "
                "256 for a size of 224 is usual"
            )
        if on_corrupt not in ("refuse", "skip"):
            raise ValueError(f"expected on_corrupt 'refuse' or 'skip', got {on_corrupt!r}")
        self.path, self.archive, self.prefix = path, archive, prefix
        self.classes = tuple(readable(name) for name in classes)
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(
                f"expected classes of different names in {path}, got {self.classes[:10]} after "
                "bytes that are not UTF-8 were written as \\x..; rename one"
            )
        same = [
            f"the classes {' and '.join(map(repr, each))} differ only in case or in how their "
            "letters are encoded; merge them if they are one class"
            for each in alike(self.classes)
        ]
        self.notes = (*notes, *same)
        self.view = View(size, short_side, max_pixels=max_pixels)
        self.in_memory, self.on_corrupt = in_memory, on_corrupt
        self.asked = (bool(classes), sample, seed)
        row = chosen(len(names), count, sample, seed, str(path))
        self.names, self.label = [names[number] for number in row], label[row]
        self.opened: dict[int, ZipFile] = {}  # one per process: forks would share a file position

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": {}}

    def load(self) -> ImageSet | StoredImages:
        """Returns the set in the order of the names.

        Raises:
            ValueError: If a file cannot be decoded and is not skipped, or if none can.
        """
        if not self.in_memory:
            return StoredImages(self, torch.arange(len(self.names)))
        image, kept = self.decode(range(len(self.names)))
        self.opened.clear()
        return decoded(image, self.label, self.classes, kept, str(self.path))

    def pictures(self) -> tuple[list[str], Callable[[int], Image.Image]]:
        """Returns the paths of all images, and a function that opens one by its position."""
        return [self.place(row) for row in range(len(self.names))], self.open

    def place(self, row: int) -> str:
        """Returns the path of the image at this position, to be shown."""
        return readable(str(self.path / self.names[row]))

    def decode(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the images at these positions, and False for those that are corrupt.

        Raises:
            ValueError: If a file cannot be decoded and is not skipped.
        """
        names = [self.place(row) for row in rows]
        return decode(lambda number: self.open(rows[number]), names, self.view, self.on_corrupt)

    def open(self, row: int) -> Image.Image:
        """Opens the file at this position without decoding it.

        Raises:
            OSError: If it cannot be read or has none of the formats.
            ValueError: If it is no regular file or larger than permitted.
        """
        if self.archive is None:
            return open_file(self.path / self.names[row], self.view.max_pixels)
        if os.getpid() not in self.opened:
            self.opened[os.getpid()] = ZipFile(self.archive)
        archive, name = self.opened[os.getpid()], self.prefix + self.names[row]
        return open_member(archive, name, self.view.max_pixels)

    @property
    def sha256(self) -> str:
        """Digest of names and file sizes, in place of the content of images not in memory."""
        if self.archive is None:
            sizes = [(self.path / name).stat().st_size for name in self.names]
        else:
            entries = entries_of(self.archive)
            sizes = [entries[self.prefix + name][0] for name in self.names]
        return digest("\n".join(self.names), repr(sizes))

    @property
    def key(self) -> tuple[str, str] | None:
        """Digests of the settings and of the files; None if images are not held in memory.

        The second digest changes with the size of a file and the time of its last change, or with
        the size and checksum of an archive's entry.
        """
        if not self.in_memory:
            return None
        if self.archive is None:
            files = [state_of(self.path / name) for name in self.names]
        else:
            entries = entries_of(self.archive)
            files = [(*entries[self.prefix + name], 0) for name in self.names]
        how = (str(self.path.absolute()), self.view, self.on_corrupt, self.asked)
        state = (PIL.__version__, self.classes, files)
        label = self.label.numpy().tobytes()
        return digest(repr(how)), digest(repr(state), "\n".join(self.names), label)


def decoded(
    image: Tensor, label: Tensor, classes: Sequence[str], kept: Tensor, where: str
) -> ImageSet:
    """Returns the set without the images that are corrupt.

    Raises:
        ValueError: If all of them are.
    """
    if not kept.any():
        raise ValueError(f"expected images in {where}, got none that can be decoded")
    skipped = len(kept) - int(kept.sum())
    if skipped:
        image, label = image[kept], label[kept]
    return ImageSet(image, label, classes, skipped)


def digest(*parts: str | bytes) -> str:
    """Returns the SHA-256 digest of several parts."""
    total = sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8) + data)
    return total.hexdigest()


def chosen(n: int, count: int | None, sample: int | None, seed: int, where: str) -> list[int]:
    """Returns the positions of a sample of n images, or of all images.

    Raises:
        ValueError: If n is not `count` or is below `sample`.
    """
    if count not in (None, n):
        raise ValueError(
            f"expected {count} images in {where}, as the protocol requires, got {n}; "
            "complete them, or set count=null, which is another protocol"
        )
    if sample is None:
        return list(range(n))
    if not 1 <= sample <= n:
        raise ValueError(
            f"expected a sample of 1..{n} images, which {where} has, got {sample}; lower it"
        )
    generator = torch.Generator().manual_seed(seed)
    row: list[int] = torch.randperm(n, generator=generator)[:sample].sort().values.tolist()
    return row


def state_of(file: Path) -> tuple[int, int, int]:
    """Returns the size of a file and the times of its last changes."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def entries_of(archive: Path) -> dict[str, tuple[int, int]]:
    """Returns the name of each entry of an archive -> its size and checksum."""
    state = archive.stat()
    return _read_entries(
        archive, (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    )


@lru_cache(8)  # parts of a set share an archive, and reading its directory takes a second
def _read_entries(archive: Path, state: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    if not is_zipfile(archive):
        raise ValueError(
            f"expected a ZIP archive, got {archive}, which is truncated or of another type; fetch "
            "it again"
        )
    with ZipFile(archive) as entries:
        return {info.filename: (info.file_size, info.CRC) for info in entries.infolist()}
