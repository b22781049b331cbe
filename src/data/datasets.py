"""Image sets, in memory as one uint8 tensor or decoded when indexed, and their sources."""

__all__ = ["Batch", "ImageFolder", "ImageSet", "Source", "StoredImages", "Torchvision"]

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, get_worker_info

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
HIDDEN = re.compile(r"(^|/)\.")  # macOS leaves ._<image> beside each image
LAYOUT = "<data_dir>/<set>/[<part>/][<class>/]<image>, or the same inside <data_dir>/<set>.zip"


class Batch(NamedTuple):
    """Images with their labels and their positions in the set."""

    image: Tensor  # (B, C, H, W)
    label: Tensor  # (B,) int64, -1 = no label
    index: Tensor  # type: ignore[assignment]  # (B,) int64, -1 = padding row; hides tuple.index


class ImageSet(Dataset[Batch]):
    """A data set in memory that is indexed by whole batches.

    Args:
        image: (N, C, H, W) uint8.
        label: (N,) int64, -1 where there is no label.
        classes: class names, label k is `classes[k]`; empty when there are none.
    """

    def __init__(self, image: Tensor, label: Tensor, classes: Sequence[str] = ()) -> None:
        self.image, self.label, self.classes = image, label, tuple(classes)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: Tensor) -> Batch:
        """Returns the rows at (B,) int64 `index`; -1 gives a padding row, the first image."""
        index = index.to(self.label.device)
        row = index.clamp(min=0)
        return Batch(self.image[row], self.label[row].where(index >= 0, -1), index)

    def subset(self, index: Tensor | slice) -> "ImageSet":
        """Returns the set of these rows, numbered anew from 0; a slice shares the memory."""
        return ImageSet(self.image[index], self.label[index], self.classes)

    def to(self, device: torch.device | str) -> "ImageSet":
        """Returns the set on that device, where it is then indexed."""
        return ImageSet(self.image.to(device), self.label.to(device), self.classes)


class StoredImages(Dataset[Batch]):
    """Images of a folder that are decoded when indexed, in the worker processes of a loader.

    Args:
        folder: where they are, and how they are resized.
        row: (N,) positions in the folder.
    """

    def __init__(self, folder: "ImageFolder", row: Tensor) -> None:
        self.folder, self.row = folder, row
        self.classes = folder.classes

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: Tensor) -> Batch:
        """Returns the rows at (B,) int64 `index`; -1 gives a padding row, the first image."""
        row = self.row[index.clamp(min=0)]
        return Batch(
            self.folder.decode(row.tolist()), self.folder.label[row].where(index >= 0, -1), index
        )

    def subset(self, index: Tensor | slice) -> "StoredImages":
        """Returns the set of these rows, numbered anew from 0."""
        return StoredImages(self.folder, self.row[index])

    def to(self, device: torch.device | str) -> "StoredImages":
        """Returns itself: its batches are sent to the device one by one."""
        return self


class Source(Protocol):
    """Where a set comes from: checked when constructed, downloaded and decoded later."""

    classes: tuple[str, ...]

    def prepare(self) -> None:
        """Downloads what is missing; called by one process only."""

    def load(self) -> ImageSet | StoredImages:
        """Returns the set, decoded unless it is too large for that."""


class ImageFolder:
    """The images of a folder, read from disk or straight from a ZIP archive beside it.

    Where `<data_dir>/cifar10/train` does not exist but `<data_dir>/cifar10.zip` does, the entries
    `train/...` of the archive are read.

    Args:
        path: folder of images, or of one sub-folder per class; classes are in alphabetical order.
        size: images become `size` x `size` RGB, resized (bilinear) without keeping their aspect
            ratio, unless `short_side` says otherwise.
        labelled: whether sub-folders are classes; otherwise every label is -1.
        short_side: resize to this short side, keeping the aspect ratio, then crop the centre, as
            is usual for ImageNet.
        sample: how many images to take, a random choice by `seed`; None takes all.
        seed: of the sample.
        in_memory: whether to decode all images at once; otherwise batch by batch, when used.

    Raises:
        FileNotFoundError: if neither folder nor archive is there.
        ValueError: if there is no image, or fewer than `sample`, if only some images lie in a
            class sub-folder, or if `short_side` is below `size`.
    """

    def __init__(
        self,
        path: str | Path,
        size: int,
        *,
        labelled: bool = True,
        short_side: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        in_memory: bool = True,
    ) -> None:
        self.path, self.size, self.short_side = Path(path), size, short_side
        self.in_memory = in_memory
        if short_side is not None and short_side < size:
            raise ValueError(
                f"expected a short_side of at least the size {size}, got {short_side}; "
                "256 for a size of 224 is usual"
            )
        self.archive, self.prefix, names = _find(self.path)
        self.names = [n for n in names if n.lower().endswith(SUFFIXES) and not HIDDEN.search(n)]
        if not self.names:
            raise ValueError(
                f"expected images ({' '.join(SUFFIXES)}) in {self.path}, got none; "
                f"add them, laid out as {LAYOUT}"
            )
        folder = [name.split("/")[0] if "/" in name else "" for name in self.names]
        self.classes = tuple(sorted(set(folder) - {""})) if labelled else ()
        if self.classes and "" in folder:
            raise ValueError(
                f"expected every image of {self.path} in a class sub-folder, got "
                f"{self.names[folder.index('')]!r} beside {', '.join(self.classes[:3])}; "
                "move it, or set labelled=False"
            )
        number = {name: label for label, name in enumerate(self.classes)}
        self.label = torch.tensor([number.get(name, -1) for name in folder])
        if sample is not None:
            if not 1 <= sample <= len(self.names):
                raise ValueError(
                    f"expected a sample of 1..{len(self.names)} images, which {self.path} has, "
                    f"got {sample}; lower it"
                )
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(self.names), generator=generator)[:sample].sort().values
            self.names, self.label = [self.names[row] for row in chosen], self.label[chosen]
        self.opened: dict[int, ZipFile] = {}  # by process: forks must not share a file's position

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": {}}

    def prepare(self) -> None:
        """Does nothing: the images are there."""

    def load(self) -> ImageSet | StoredImages:
        """Returns the set, in the alphabetical order of the paths.

        Raises:
            ValueError: if a file cannot be decoded.
        """
        if not self.in_memory:
            return StoredImages(self, torch.arange(len(self.names)))
        image = self.decode(range(len(self.names)))
        self.opened.clear()
        return ImageSet(image, self.label, self.classes)

    def decode(self, rows: Sequence[int]) -> Tensor:
        """Returns the images at these positions, (B, 3, size, size) uint8.

        Raises:
            ValueError: if a file cannot be decoded.
        """
        if self.archive and os.getpid() not in self.opened:
            self.opened[os.getpid()] = ZipFile(self.archive)
        archive = self.opened.get(os.getpid())

        def read(number: int) -> Image.Image:
            name = self.names[rows[number]]
            file = BytesIO(archive.read(self.prefix + name)) if archive else self.path / name
            return Image.open(file)

        names = [str(self.path / self.names[row]) for row in rows]
        return decode(read, names, self.size, self.short_side)


class Torchvision:
    """A data set of torchvision, by the name of its class.

    Args:
        dataset: class of `torchvision.datasets`, such as `"CIFAR10"`.
        root: folder of the downloaded files.
        size: images are resized (bilinear, aspect ratio not kept) to `size` x `size` RGB.
        num_classes: number of labels; 0 for a set without labels, whose own are then dropped.
        download: whether `prepare` downloads what is missing.
        split: one split, or several that are concatenated.
        options: further arguments of the class, such as `train=True`.

    Raises:
        FileNotFoundError: if the files are not there, and not downloaded either.
    """

    def __init__(
        self,
        dataset: str,
        root: str | Path,
        size: int,
        *,
        num_classes: int = 0,
        download: bool = True,
        split: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.dataset, self.root, self.size, self.download = dataset, Path(root), size, download
        self.classes = tuple(str(label) for label in range(num_classes))
        splits = [split] if isinstance(split, str) else split
        self.parts = [options] if splits is None else [{**options, "split": s} for s in splits]
        if not download:
            self._open()

    def _open(self, **download: bool) -> ConcatDataset[Any]:
        # torchvision is imported here: everything else works without it.
        from torchvision import datasets

        dataset = getattr(datasets, self.dataset)
        try:
            return ConcatDataset([dataset(self.root, **part, **download) for part in self.parts])
        except (RuntimeError, OSError) as error:  # not there, and not to be had
            raise FileNotFoundError(
                f"expected {self.dataset} in {self.root}, got: {error}; "
                "set download=true with a network, or data_dir to the folder that holds it"
            ) from error

    def prepare(self) -> None:
        """Downloads what is missing, if asked to."""
        if self.download:
            self._open(download=True)

    def load(self) -> ImageSet:
        """Returns the decoded set in torchvision's order."""
        samples = self._open()
        label = torch.full((len(samples),), -1)

        def read(row: int) -> Image.Image:
            sample: tuple[Image.Image, int] = samples[row]
            label[row] = sample[1] if self.classes else -1
            return sample[0]

        names = [f"{self.dataset}[{row}]" for row in range(len(samples))]
        return ImageSet(decode(read, names, self.size), label, self.classes)


def decode(
    read: Callable[[int], Image.Image],
    names: Sequence[str],
    size: int,
    short_side: int | None = None,
) -> Tensor:
    """Returns (N, 3, size, size) uint8, decoded by one thread per core; PIL frees the GIL.

    Args:
        read: opens the image of a row.
        names: what an image is called in an error message, one per row.
        size: images of another size are resized, bilinear.
        short_side: to resize to before the centre is cropped; None squashes.

    Raises:
        ValueError: if an image cannot be decoded.
    """
    image = np.empty((len(names), 3, size, size), dtype=np.uint8)
    threads = 1 if get_worker_info() else os.cpu_count() or 1  # a worker is one of many already

    def decode_share(first: int) -> None:
        for row in range(first, len(names), threads):
            try:
                picture = read(row).convert("RGB")
            except Exception as error:  # decoders raise many kinds; all mean a broken file
                raise ValueError(
                    f"expected an image, got {names[row]}, which cannot be decoded ({error}); "
                    "replace or delete it"
                ) from error
            image[row] = np.asarray(resized(picture, size, short_side)).transpose(2, 0, 1)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode_share, range(threads)))
    return torch.from_numpy(image)


def resized(picture: Image.Image, size: int, short_side: int | None) -> Image.Image:
    """Returns the picture at size x size: squashed, or the centre of one of that short side.

    The latter is pixel for pixel `Resize(short_side)` and `CenterCrop(size)` of torchvision.
    """
    shape = (size, size)
    if short_side is not None:
        width, height = (int(short_side * side / min(picture.size)) for side in picture.size)
        shape = (width, height)
    if picture.size != shape:
        picture = picture.resize(shape, Image.Resampling.BILINEAR)
    if short_side is None:
        return picture
    left, top = (round((side - size) / 2) for side in shape)
    return picture.crop((left, top, left + size, top + size))


def _find(path: Path) -> tuple[Path | None, str, list[str]]:
    """Returns the archive a folder is in, if any, its prefix there, and its sorted file names."""
    if path.is_dir():
        walk = os.walk(path, followlinks=True)
        within = ((Path(folder).relative_to(path).as_posix(), files) for folder, _, files in walk)
        found = (f"{folder}/{file}" for folder, files in within for file in files)
        return None, "", sorted(name.removeprefix("./") for name in found)
    archives = [p.with_name(p.name + ".zip") for p in (path, *path.parents) if p.name]
    for archive in filter(Path.is_file, archives):
        inside = path.relative_to(archive.with_suffix("")).as_posix()
        prefix = "" if inside == "." else inside + "/"
        with ZipFile(archive) as entries:
            names = [n.removeprefix(prefix) for n in entries.namelist() if n.startswith(prefix)]
        if names:
            return archive, prefix, sorted(names)
    raise FileNotFoundError(
        f"expected images in {path}, got no such folder, and none in an archive "
        f"{' or '.join(map(str, archives[:2]))}; set data_dir=<folder of the image sets>, "
        f"laid out as {LAYOUT}"
    )
