"""Images in files: folders, ZIP archives and lists."""

__all__ = ["ImageFiles", "ImageFolder", "ImageList", "chosen", "digest"]

import csv
import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import PIL
import torch
from PIL import Image
from torch import Tensor

from src.data.datasets import ImageSet, StoredImages
from src.data.decoding import OnCorrupt, View, decode
from src.data.registry import where_from

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
HIDDEN = re.compile(r"(^|/)\.")  # macOS leaves ._<image> beside each image
LAYOUT = "<data_dir>/<set>/[<part>/][<class>/]<image>, or the same inside <data_dir>/<set>.zip"


class ImageFiles:
    """Images by name, in a folder or an archive. What `ImageFolder` and `ImageList` share.

    Args:
        path: folder that the names are relative to.
        names: of the files.
        label: (N,) int64, -1 where there is none.
        classes: names of the classes.
        size: images become `size` x `size` RGB, resized (bilinear) without keeping their aspect
            ratio, unless `short_side` says otherwise.
        short_side: resize to this short side, keeping the aspect ratio, then crop the centre, as
            is usual for ImageNet.
        count: how many images there must be, as a published protocol has it; None for any number.
        sample: how many images to take, a random choice by `seed`; None takes all.
        seed: of the sample.
        in_memory: whether to decode all images at once; otherwise batch by batch, when used.
        on_corrupt: whether an image that cannot be decoded is an error ("refuse") or left out and
            counted ("skip").
        archive: ZIP file that holds them, if they are not in a folder.
        prefix: of the names in the archive.

    Raises:
        ValueError: if the number of images is not `count`, or below `sample`, or if `short_side`
            is below `size`.
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
        archive: Path | None = None,
        prefix: str = "",
    ) -> None:
        if short_side is not None and short_side < size:
            raise ValueError(
                f"expected a short_side of at least the size {size}, got {short_side}; "
                "256 for a size of 224 is usual"
            )
        if on_corrupt not in ("refuse", "skip"):
            raise ValueError(f"expected on_corrupt 'refuse' or 'skip', got {on_corrupt!r}")
        self.path, self.archive, self.prefix = path, archive, prefix
        self.classes = tuple(classes)
        self.view, self.in_memory, self.on_corrupt = View(size, short_side), in_memory, on_corrupt
        self.asked = (bool(classes), sample, seed)
        row = chosen(len(names), count, sample, seed, str(path))
        self.names, self.label = [names[number] for number in row], label[row]
        self.opened: dict[int, ZipFile] = {}  # by process: forks must not share a file's position

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": {}}

    def prepare(self) -> None:
        """Does nothing: the images are there."""

    def load(self) -> ImageSet | StoredImages:
        """Returns the set, in the order of the names.

        Raises:
            ValueError: if a file cannot be decoded and is not skipped, or if none can.
        """
        if not self.in_memory:
            return StoredImages(self, torch.arange(len(self.names)))
        image, kept = self.decode(range(len(self.names)))
        self.opened.clear()
        if not kept.any():
            raise ValueError(f"expected images in {self.path}, got none that can be decoded")
        skipped = len(kept) - int(kept.sum())
        if skipped:
            image = image[kept]
        return ImageSet(image, self.label[kept], self.classes, skipped)

    def pictures(self) -> tuple[list[str], Callable[[int], Image.Image]]:
        """Returns the paths of all images, and what opens one of them by position."""
        return [str(self.path / name) for name in self.names], self.open

    def decode(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the images at these positions, and which of them could be decoded.

        Raises:
            ValueError: if a file cannot be decoded and is not skipped.
        """
        names = [str(self.path / self.names[row]) for row in rows]
        return decode(lambda number: self.open(rows[number]), names, self.view, self.on_corrupt)

    def open(self, row: int) -> Image.Image:
        """Returns the opened file at this position, not yet decoded."""
        if self.archive is None:
            return Image.open(self.path / self.names[row])
        if os.getpid() not in self.opened:
            self.opened[os.getpid()] = ZipFile(self.archive)
        return Image.open(BytesIO(self.opened[os.getpid()].read(self.prefix + self.names[row])))

    @property
    def sha256(self) -> str:
        """Digest of names and sizes, which stands for the content of images not in memory."""
        if self.archive is None:
            sizes = [(self.path / name).stat().st_size for name in self.names]
        else:
            entries = _entries(self.archive)
            sizes = [entries[self.prefix + name][0] for name in self.names]
        return digest("\n".join(self.names), repr(sizes))

    @property
    def key(self) -> tuple[str, str] | None:
        """Digests of what is asked for and of the files it comes from; None if not in memory.

        The second changes with a file's size or the time of its last change, which cannot be set
        back, and with the size or checksum of an archive's entry.
        """
        if not self.in_memory:
            return None
        if self.archive is None:
            stats = ((self.path / name).stat() for name in self.names)
            files = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats]
        else:
            entries = _entries(self.archive)
            files = [(*entries[self.prefix + name], 0) for name in self.names]
        how = (str(self.path.absolute()), self.view, self.on_corrupt, self.asked)
        state = (PIL.__version__, self.classes, files)
        label = self.label.numpy().tobytes()
        return digest(repr(how)), digest(repr(state), "\n".join(self.names), label)


def digest(*parts: str | bytes) -> str:
    """Returns the SHA-256 of parts, each with its length."""
    total = sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8) + data)
    return total.hexdigest()


def chosen(n: int, count: int | None, sample: int | None, seed: int, where: str) -> list[int]:
    """Returns the positions of a sample of n images, or of all of them.

    Raises:
        ValueError: if n is not `count`, or below `sample`.
    """
    if count not in (None, n):
        raise ValueError(
            f"expected {count} images in {where}, as the protocol has it, got {n}; "
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


class ImageFolder(ImageFiles):
    """The images of a folder, read from disk or straight from a ZIP archive beside it.

    Where `<data_dir>/cifar10/train` does not exist but `<data_dir>/cifar10.zip` does, the entries
    `train/...` of the archive are read.

    Args:
        path: folder of images, or of one sub-folder per class; classes are in alphabetical order.
        size: as of `ImageFiles`.
        labelled: whether sub-folders are classes; otherwise every label is -1.
        known: name in the registry, which says where the images come from.
        options: those of `ImageFiles`: short_side, count, sample, seed, in_memory, on_corrupt.

    Raises:
        FileNotFoundError: if neither folder nor archive is there.
        ValueError: if there is no image, if only some images lie in a class sub-folder, if a
            class has no image, or as of `ImageFiles`.
    """

    def __init__(
        self,
        path: str | Path,
        size: int,
        *,
        labelled: bool = True,
        known: str | None = None,
        **options: Any,
    ) -> None:
        path = Path(path)
        try:
            archive, prefix, found = _find(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}{where_from(known)}") from None
        names = [n for n in found if n.lower().endswith(SUFFIXES) and not HIDDEN.search(n)]
        if not names:
            raise ValueError(
                f"expected images ({' '.join(SUFFIXES)}) in {path}, got none; "
                f"add them, laid out as {LAYOUT}"
            )
        folder = [name.split("/")[0] if "/" in name else "" for name in names]
        classes = sorted(set(folder) - {""}) if labelled else []
        if classes and "" in folder:
            raise ValueError(
                f"expected every image of {path} in a class sub-folder, got "
                f"{names[folder.index('')]!r} beside {', '.join(classes[:3])}; "
                "move it, or set labelled=False"
            )
        if classes and archive is None:
            folders = {entry.name for entry in os.scandir(path) if entry.is_dir()}
            if empty := sorted(f for f in folders - set(classes) if not f.startswith(".")):
                raise ValueError(
                    f"expected images in every class of {path}, got none in {empty[0]!r}; "
                    "add them or remove the folder"
                )
        number = {name: label for label, name in enumerate(classes)}
        label = torch.tensor([number.get(name, -1) for name in folder])
        super().__init__(
            path, names, label, classes, size, archive=archive, prefix=prefix, **options
        )


class ImageList(ImageFiles):
    """The images that a list names: OpenOOD's `path label` lines, or a CSV file with a header.

    Args:
        path: the list: a CSV file if it ends in .csv, else lines of a path and a number.
        root: folder that the paths are relative to.
        size: as of `ImageFiles`.
        labelled: whether there are labels; otherwise every label is -1.
        known: name in the registry, which says where the images come from.
        columns: of a CSV file: that of the paths, and that of the labels, which are numbers or
            names; the latter are numbered in alphabetical order.
        num_classes: of numbered labels; None for the largest and one more.
        options: those of `ImageFiles`: short_side, count, sample, seed, in_memory, on_corrupt.

    Raises:
        FileNotFoundError: if list, folder or one of the images is not there.
        ValueError: if the list is empty, a line has no label, a column is missing, a path leads
            out of the folder, or as of `ImageFiles`.
    """

    def __init__(
        self,
        path: str | Path,
        root: str | Path,
        size: int,
        *,
        labelled: bool = True,
        known: str | None = None,
        columns: Sequence[str] = ("path", "label"),
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        path, root = Path(path), Path(root)
        if not path.is_file():
            raise FileNotFoundError(
                f"expected a list of images, got no file {path}{where_from(known)}"
            )
        rows = _rows_of_csv(path, columns, labelled) if path.suffix == ".csv" else _rows(path)
        if not rows:
            raise ValueError(f"expected images in the list {path}, got none; name some")
        names = [os.path.normpath(name).replace(os.sep, "/") for name, _ in rows]
        if outside := [name for name in names if name.startswith(("../", "/"))]:
            raise ValueError(
                f"expected paths below {root} in {path}, got {outside[0]!r}; set root to a folder "
                "that holds all images"
            )
        missing = next((name for name in names if not (root / name).is_file()), None)
        if missing:
            raise FileNotFoundError(
                f"expected the images of {path} in {root}, got no {missing}{where_from(known)}"
            )
        label, classes = torch.full((len(rows),), -1), list[str]()
        if labelled:
            label, classes = _numbered(path, [text for _, text in rows], num_classes)
        super().__init__(root, names, label, classes, size, **options)


def _rows(path: Path) -> list[tuple[str, str]]:
    """Returns (path, label) of each line; the path may hold spaces."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            name, _, label = line.strip().rpartition(" ")
            if not name:
                raise ValueError(
                    f"expected a path and a label in line {number} of {path}, got {line!r}"
                )
            rows.append((name, label))
    return rows


def _rows_of_csv(path: Path, columns: Sequence[str], labelled: bool) -> list[tuple[str, str]]:
    """Returns (path, label) of each row."""
    image, label = columns
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        wanted = {image, label} if labelled else {image}
        if absent := wanted - set(reader.fieldnames or ()):
            raise ValueError(
                f"expected a column {sorted(absent)[0]!r} in {path}, got "
                f"{', '.join(reader.fieldnames or ['none'])}; set columns=[<paths>,<labels>]"
            )
        return [(row[image], row[label] if labelled else "") for row in reader]


def _numbered(path: Path, text: list[str], count: int | None) -> tuple[Tensor, list[str]]:
    """Returns (N,) labels and the names of the classes."""
    if not all(re.fullmatch(r"\d+", each) for each in text):
        if wrong := [each for each in text if not each or re.fullmatch(r"-\d+", each)]:
            raise ValueError(
                f"expected a class for each image of {path}, got {wrong[0]!r}; set labelled=false"
            )
        classes = sorted(set(text))
        number = {name: label for label, name in enumerate(classes)}
        return torch.tensor([number[each] for each in text]), classes
    label = torch.tensor([int(each) for each in text])
    count = int(label.max()) + 1 if count is None else count
    if label.max() >= count:
        raise ValueError(
            f"expected labels below num_classes={count} in {path}, got {int(label.max())}"
        )
    return label, [str(k) for k in range(count)]


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
        names = [n.removeprefix(prefix) for n in _entries(archive) if n.startswith(prefix)]
        if names:
            return archive, prefix, sorted(names)
    raise FileNotFoundError(
        f"expected images in {path}, got no such folder, and none in an archive "
        f"{' or '.join(map(str, archives[:2]))}; set data_dir=<folder of the image sets>, "
        f"laid out as {LAYOUT}"
    )


def _entries(archive: Path) -> dict[str, tuple[int, int]]:
    """Returns size and checksum of each entry of an archive."""
    state = archive.stat()
    return _entries_of(
        archive, (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    )


@lru_cache(8)  # parts of a set share an archive, whose directory takes a second to read
def _entries_of(archive: Path, state: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    with ZipFile(archive) as entries:
        return {info.filename: (info.file_size, info.CRC) for info in entries.infolist()}
