"""Image sets held in memory as one uint8 tensor, and the sources they are decoded from."""

__all__ = ["Batch", "ImageFolder", "ImageSet", "Source", "Torchvision"]

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

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


class Source(Protocol):
    """Where a set comes from: checked when constructed, downloaded and decoded later."""

    classes: tuple[str, ...]

    def prepare(self) -> None:
        """Downloads what is missing; called by one process only."""

    def load(self) -> ImageSet:
        """Returns the decoded set."""


class ImageFolder:
    """The images of a folder, read from disk or straight from a ZIP archive beside it.

    Where `<data_dir>/cifar10/train` does not exist but `<data_dir>/cifar10.zip` does, the entries
    `train/...` of the archive are read.

    Args:
        path: folder of images, or of one sub-folder per class; classes are in alphabetical order.
        size: images are resized (bilinear, aspect ratio not kept) to `size` x `size` RGB.
        labelled: whether sub-folders are classes; otherwise every label is -1.

    Raises:
        FileNotFoundError: if neither folder nor archive is there.
        ValueError: if there is no image, or if only some images lie in a class sub-folder.
    """

    def __init__(self, path: str | Path, size: int, *, labelled: bool = True) -> None:
        self.path, self.size = Path(path), size
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

    def prepare(self) -> None:
        """Does nothing: the images are there."""

    def load(self) -> ImageSet:
        """Returns the decoded set, in the alphabetical order of the paths.

        Raises:
            ValueError: if a file cannot be decoded.
        """
        with ZipFile(self.archive) if self.archive else nullcontext() as archive:

            def read(row: int) -> Image.Image:
                name = self.names[row]
                file = BytesIO(archive.read(self.prefix + name)) if archive else self.path / name
                return Image.open(file)

            image = decode(read, [str(self.path / name) for name in self.names], self.size)
        return ImageSet(image, self.label, self.classes)


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


def decode(read: Callable[[int], Image.Image], names: Sequence[str], size: int) -> Tensor:
    """Returns (N, 3, size, size) uint8, decoded by one thread per core; PIL frees the GIL.

    Args:
        read: opens the image of a row.
        names: what an image is called in an error message, one per row.
        size: images of another size are resized, bilinear.

    Raises:
        ValueError: if an image cannot be decoded.
    """
    image = np.empty((len(names), 3, size, size), dtype=np.uint8)
    threads = os.cpu_count() or 1

    def decode_share(first: int) -> None:
        for row in range(first, len(names), threads):
            try:
                picture = read(row).convert("RGB")
            except Exception as error:  # decoders raise many kinds; all mean a broken file
                raise ValueError(
                    f"expected an image, got {names[row]}, which cannot be decoded ({error}); "
                    "replace or delete it"
                ) from error
            if picture.size != (size, size):
                picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            image[row] = np.asarray(picture).transpose(2, 0, 1)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode_share, range(threads)))
    return torch.from_numpy(image)


def _find(path: Path) -> tuple[Path | None, str, list[str]]:
    """Returns the archive a folder is in, if any, its prefix there, and its sorted file names."""
    if path.is_dir():
        walk = os.walk(path, followlinks=True)
        files = (Path(folder, file) for folder, _, inside in walk for file in inside)
        return None, "", sorted(file.relative_to(path).as_posix() for file in files)
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
