"""Folders of images with one sub-folder per class, or ZIP archives with the same layout."""

__all__ = ["Found", "ImageFolder", "in_archive", "walked"]

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from src.data.files import ImageFiles, entries_of
from src.data.names import natural, readable
from src.data.opening import SUFFIXES
from src.data.registry import where_from

HIDDEN = re.compile(r"(^|/)\.")  # macOS adds ._<image> to each image
LAYOUT = "<data_dir>/<set>/[<part>/][<class>/]<image>, or the same inside <data_dir>/<set>.zip"


class ImageFolder(ImageFiles):
    """Images of a folder, or of a ZIP archive that takes its place.

    If `<data_dir>/cifar10/train` does not exist but `<data_dir>/cifar10.zip` does, the entries
    `train/...` of the archive are read. Each folder is read once, whatever links lead to it.
    Hidden files are ignored; others that are no images are counted in `notes`.

    Args:
        path: Folder of images, or of one sub-folder per class, in alphabetical order.
        size: Side of the images, in pixels; see `ImageFiles`.
        labelled: Whether sub-folders are classes; if not, every label is -1.
        natural_order: Whether numbers in the names of classes are sorted as numbers, as in timm;
            if not, 10 comes before 2, as in torchvision.
        known: Name in the registry, which describes where to get the images.
        options: Other arguments of `ImageFiles`: short_side, count, sample, seed, in_memory,
            on_corrupt, max_pixels.

    Raises:
        FileNotFoundError: If there is neither a folder nor an archive.
        ValueError: If there is no image, if only some images are in a class sub-folder, if a class
            has no image, if the target of a link is missing and corrupt images are not skipped,
            or if `ImageFiles` raises it.
    """

    def __init__(
        self,
        path: str | Path,
        size: int,
        *,
        labelled: bool = True,
        natural_order: bool = False,
        known: str | None = None,
        **options: Any,
    ) -> None:
        path = Path(path)
        try:
            archive, prefix, found = _find(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}{where_from(known)}") from None
        if found.missing and options.get("on_corrupt") != "skip":
            raise ValueError(
                f"expected images in {path}, got {links(found.missing)}, whose targets are "
                "missing; restore or delete them, or set on_corrupt=skip"
            )
        names = [name for name in found.files if name.lower().endswith(SUFFIXES)]
        if not names:
            raise ValueError(
                f"expected images ({' '.join(SUFFIXES)}) in {path}, got none; "
                f"add them, laid out as {LAYOUT}"
            )
        folder = [name.split("/")[0] if "/" in name else "" for name in names]
        key = natural if natural_order else None
        classes = sorted(set(folder) - {""}, key=key) if labelled else []
        if classes and "" in folder:
            raise ValueError(
                f"expected every image of {path} in a class sub-folder, got "
                f"{names[folder.index('')]!r} next to {', '.join(classes[:3])}; "
                "move it, or set labelled=False"
            )
        if classes and (empty := sorted(found.folders - set(classes))):
            what = f"{empty[0]!r}" + ", a link to a folder that is read already" * (
                empty[0] in found.again
            )
            raise ValueError(
                f"expected images in every class of {path}, got none in {what}; "
                "add them or remove the folder"
            )
        number = {name: label for label, name in enumerate(classes)}
        label = torch.tensor([number.get(name, -1) for name in folder])
        super().__init__(
            path, names, label, classes, size,
            archive=archive, prefix=prefix, notes=found.notes(), **options,
        )  # fmt: skip


@dataclass
class Found:
    """What lies in a folder or in an archive, hidden entries left out; paths are relative to it.

    Attributes:
        files: Sorted paths of all files.
        folders: Names of the folders at the top, of links to folders too.
        again: Links to folders that are read by another path.
        missing: Links whose target is missing.
        other: Number of pipes, sockets and devices.
    """

    files: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    again: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    other: int = 0

    def notes(self) -> list[str]:
        """Returns sentences about what was not read."""
        kinds = Counter(PurePosixPath(name).suffix.lower() for name in self.files)
        of_kind = [
            f"{count} {kind or 'without a suffix'}"
            for kind, count in sorted(kinds.items(), key=lambda each: (-each[1], each[0] or "~"))
            if kind not in SUFFIXES
        ]
        if self.other:
            of_kind.append(f"{self.other} pipes, sockets or devices")
        notes = [f"files left out: {', '.join(map(readable, of_kind))}"] if of_kind else []
        if self.missing:
            notes.append(f"{links(self.missing)}, whose targets are missing, left out")
        if self.again:
            notes.append(f"{links(self.again)} to folders that are read once, left out")
        return notes


def links(names: Sequence[str]) -> str:
    """Returns the number of links and the first of their names."""
    first = ", ".join(map(readable, sorted(names)[:3]))
    rest = ", ..." if len(names) > 3 else ""
    return f"{len(names)} link{'s' * (len(names) > 1)} ({first}{rest})"


def _find(path: Path) -> tuple[Path | None, str, Found]:
    """Returns the archive of a folder or None, its prefix there, and what lies in it."""
    if path.is_dir():
        return None, "", walked(path)
    archives = [p.with_name(p.name + ".zip") for p in (path, *path.parents) if p.name]
    for archive in filter(Path.is_file, archives):
        inside = path.relative_to(archive.with_suffix("")).as_posix()
        prefix = "" if inside == "." else inside + "/"
        if found := in_archive(archive, prefix):
            return archive, prefix, found
    raise FileNotFoundError(
        f"expected images in {path}, got no such folder, and none in an archive "
        f"{' or '.join(map(str, archives[:2]))}; set data_dir=<folder of the image sets>, "
        f"laid out as {LAYOUT}"
    )


def in_archive(archive: Path, prefix: str = "") -> Found | None:
    """Returns what lies in a ZIP archive below a prefix; None if it has no such entry.

    Raises:
        ValueError: If it is no ZIP archive.
    """
    entries = [n.removeprefix(prefix) for n in entries_of(archive) if n.startswith(prefix)]
    files = [n for n in entries if n and not n.endswith("/") and not HIDDEN.search(n)]
    return Found(sorted(files)) if entries else None


def walked(root: Path) -> Found:
    """Returns what lies in a folder: first what it holds itself, then what links lead to.

    Raises:
        ValueError: If a folder cannot be read.
    """
    found = Found()
    read = {_identity(folder) for folder in root.resolve().parents}
    own, linked = [""], list[str]()
    while own or linked:
        folder = own.pop() if own else linked.pop(0)
        identity = _identity(root / folder)
        if identity in read:
            found.again.append(folder)
            continue
        read.add(identity)
        for entry in _entries(root / folder):
            path = f"{folder}/{entry.name}".removeprefix("/")
            kind = _kind(entry)
            if kind == "folder":
                (linked if entry.is_symlink() else own).append(path)
                if not folder:
                    found.folders.add(path)
            elif kind == "file":
                found.files.append(path)
            elif kind == "missing":
                found.missing.append(path)
            else:
                found.other += 1
    found.files.sort()
    return found


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """Returns the entries of a folder that are not hidden, sorted by name."""
    try:
        shown = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(
            f"expected to read the folder {readable(str(folder))}, got: {error.strerror}; permit "
            "it, or move the folder away"
        ) from None
    return sorted(shown, key=lambda entry: entry.name)


def _identity(folder: Path) -> tuple[int, int]:
    """Returns what tells a folder from all others, by whatever path it is reached."""
    state = folder.stat()
    return state.st_dev, state.st_ino


def _kind(entry: "os.DirEntry[str]") -> str:
    """Returns "file", "folder", "missing" (a link) or "other", seen through links."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()
    except OSError:  # also links in a circle
        return "missing"
    return "other"
