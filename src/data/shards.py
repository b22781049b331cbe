"""Images in shards: plain tar files, in the format of WebDataset."""

__all__ = ["ImageShards"]

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import PIL
import torch
from PIL import Image

from src.data.files import ImageFiles, digest, state_of
from src.data.folders import Found
from src.data.names import numbered
from src.data.opening import SUFFIXES, check_bytes, open_bytes
from src.data.registry import where_from

SAMPLE = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<kind>[^/]+)")  # not of hidden files
LABEL = "cls"
LONGEST = 2**12  # bytes of a label
HEADER = 2**20  # bytes of an extended header


class ImageShards(ImageFiles):
    """Images in the tar files of a folder, in the format of WebDataset.

    The members `0001.jpg` and `0001.cls` are one sample: its name ends at the first dot. The
    shards are not unpacked. Their headers are read at the start, and each image at its place when
    it is used, in any order.

    Args:
        path: Folder of the shards, sorted by name; a pattern such as `train-*.tar`; or one shard.
        size: Side of the images, in pixels; see `ImageFiles`.
        labelled: Whether each sample has a `.cls` with its class, a number or a name; if not,
            every label is -1.
        num_classes: Number of classes if labels are numbers; None for the largest label plus one.
        natural_order: Whether numbers in the names of classes are sorted as numbers, as in timm.
        known: Name in the registry, which describes where to get the images.
        options: Other arguments of `ImageFiles`: short_side, count, sample, seed, in_memory,
            on_corrupt, max_pixels.

    Raises:
        FileNotFoundError: If there is no shard.
        ValueError: If a shard is no plain tar file or is truncated, if a sample has several
            images or no label, or if `ImageFiles` raises it.

    Source:
        Format: https://github.com/webdataset/webdataset
    Differs:
        WebDataset streams each shard from its start and shuffles within a buffer. Here the order
        of training is the same permutation as that of files, so the disk must read at any place.
    """

    def __init__(
        self,
        path: str | Path,
        size: int,
        *,
        labelled: bool = True,
        num_classes: int | None = None,
        natural_order: bool = False,
        known: str | None = None,
        **options: Any,
    ) -> None:
        path = Path(path)
        self.shards = _shards(path, known)
        found = Found()
        samples: dict[str, _Sample] = {}
        for number, shard in enumerate(self.shards):
            samples |= _samples(shard, number, found)
        samples = {key: each for key, each in samples.items() if each.name}
        if not samples:
            raise ValueError(
                f"expected images ({' '.join(SUFFIXES)}) in the shards of {path}, got none; check "
                "what they hold with tar -tf"
            )
        label, classes = torch.full((len(samples),), -1), list[str]()
        if labelled:
            if bare := [each.name for each in samples.values() if each.label is None]:
                raise ValueError(
                    f"expected a .{LABEL} for each image of {path}, got none for {len(bare)} of "
                    f"them, such as {bare[0]}; add it, or set labelled=false"
                )
            texts = [str(each.label) for each in samples.values()]
            numbers, classes = numbered(texts, num_classes, path, natural_order=natural_order)
            label = torch.tensor(numbers)
        names = [each.name for each in samples.values()]
        folder = self.shards[0].parent
        super().__init__(folder, names, label, classes, size, notes=found.notes(), **options)
        place = {each.name: (each.shard, each.start, each.size) for each in samples.values()}
        self.member = torch.tensor([place[name] for name in self.names])  # (N, 3)

    def open(self, row: int) -> Image.Image:
        """Opens the image at this position without decoding it.

        Raises:
            OSError: If it cannot be read or has none of the formats.
            ValueError: If it is larger than permitted.
        """
        shard, start, size = self.member[row].tolist()
        check_bytes(size, self.view.max_pixels)
        with self.shards[shard].open("rb") as file:
            file.seek(start)
            return open_bytes(file.read(size), self.view.max_pixels)

    @property
    def sha256(self) -> str:
        """Digest of names and sizes, in place of the content of images not in memory."""
        return digest("\n".join(self.names), repr(self.member[:, 2].tolist()))

    @property
    def key(self) -> tuple[str, str] | None:
        """Digests of the settings and of the shards; None if images are not held in memory.

        The second digest changes with the size of a shard and the time of its last change.
        """
        if not self.in_memory:
            return None
        files = [(shard.name, *state_of(shard)) for shard in self.shards]
        how = (str(self.path.absolute()), [name for name, *_ in files], self.view, self.on_corrupt)
        state = (PIL.__version__, self.classes, files)
        label = self.label.numpy().tobytes()
        return digest(repr((*how, self.asked))), digest(repr(state), "\n".join(self.names), label)


class _Sample(NamedTuple):
    """Where the image of a sample lies, and its label."""

    name: str = ""  # <shard>/<member>; "" before its image is found
    shard: int = 0
    start: int = 0  # in the shard, bytes
    size: int = 0
    label: str | None = None


class _Header(tarfile.TarInfo):
    """A header that is refused where it would fill the memory or lead back."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        is_file = self.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if self.size < 0 or (self.size > HEADER and not is_file):
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


def _shards(path: Path, known: str | None) -> list[Path]:
    """Returns the shards of a folder, of a pattern or of one file."""
    folder, pattern = (path, "*.tar") if path.is_dir() else (path.parent, path.name)
    is_pattern = path.is_dir() or any(sign in pattern for sign in "*?[")
    found = sorted(folder.glob(pattern)) if is_pattern else [path]
    if shards := [each for each in found if each.is_file()]:
        return shards
    raise FileNotFoundError(
        f"expected shards (.tar) in {path}, got none; set path to their folder, to one of them, "
        f"or to a pattern with *{where_from(known)}"
    )


def _samples(shard: Path, number: int, found: Found) -> dict[str, _Sample]:
    """Returns the samples of a shard by their names; notes in `found` what else lies there.

    Raises:
        ValueError: If it is no plain tar file, is truncated, or has samples of several images.
    """
    samples: dict[str, _Sample] = {}
    for member, content in _members(shard):
        part = SAMPLE.fullmatch(member.name)
        if part is None:
            continue
        key = f"{shard.name}/{part['key']}"
        sample = samples.get(key, _Sample())
        kind = part["kind"].lower()
        if kind == LABEL:
            samples[key] = sample._replace(label=content)
        elif f".{kind}" in SUFFIXES:
            if sample.name:
                raise ValueError(
                    f"expected one image in each sample of {shard}, got {member.name} beside "
                    f"{sample.name}; name them so that they differ before the first dot"
                )
            name = f"{shard.name}/{member.name}"
            samples[key] = _Sample(name, number, member.offset_data, member.size, sample.label)
        else:
            found.files.append(member.name)
    return samples


def _members(shard: Path) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yields the regular files of a tar file, each with its text if it holds a label."""
    try:
        with tarfile.open(shard, "r:", tarinfo=_Header) as archive:
            for member in archive:
                if member.size < 0:  # by an extended header
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                if not member.isreg() or member.issparse():
                    continue
                text = ""
                if member.name.lower().endswith(f".{LABEL}"):
                    content = archive.extractfile(member)
                    text = content.read(LONGEST).decode().strip() if content else ""
                yield member, text
            end = archive.offset
        with shard.open("rb") as file:  # tarfile takes what is no header for the end
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {end}")
    except Exception as error:  # a broken file can raise anything
        raise ValueError(
            f"expected a plain tar file, got {shard}, which cannot be read ({error}); fetch it "
            "again, or unpack it if it is compressed"
        ) from None
