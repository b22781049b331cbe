"""Folders of images with one sub-folder per class, or ZIP archives with the same layout."""

__all__ = ["ImageFolder"]

import os
import re
from pathlib import Path
from typing import Any

import torch

from src.data.files import ImageFiles, entries_of
from src.data.registry import where_from

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
HIDDEN = re.compile(r"(^|/)\.")  # macOS adds ._<image> to each image
LAYOUT = "<data_dir>/<set>/[<part>/][<class>/]<image>, or the same inside <data_dir>/<set>.zip"


class ImageFolder(ImageFiles):
    """Images of a folder, or of a ZIP archive that takes its place.

    If `<data_dir>/cifar10/train` does not exist but `<data_dir>/cifar10.zip` does, the entries
    `train/...` of the archive are read.

    Args:
        path: Folder of images, or of one sub-folder per class, in alphabetical order.
        size: Side of the images, in pixels; see `ImageFiles`.
        labelled: Whether sub-folders are classes; if not, every label is -1.
        known: Name in the registry, which describes where to get the images.
        options: Other arguments of `ImageFiles`: short_side, count, sample, seed, in_memory,
            on_corrupt.

    Raises:
        FileNotFoundError: If there is neither a folder nor an archive.
        ValueError: If there is no image, if only some images are in a class sub-folder, if a class
            has no image, or if `ImageFiles` raises it.
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
                f"{names[folder.index('')]!r} next to {', '.join(classes[:3])}; "
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


def _find(path: Path) -> tuple[Path | None, str, list[str]]:
    """Returns the archive of a folder or None, its prefix there, and its sorted file names."""
    if path.is_dir():
        walk = os.walk(path, followlinks=True)
        within = ((Path(folder).relative_to(path).as_posix(), files) for folder, _, files in walk)
        found = (f"{folder}/{file}" for folder, files in within for file in files)
        return None, "", sorted(name.removeprefix("./") for name in found)
    archives = [p.with_name(p.name + ".zip") for p in (path, *path.parents) if p.name]
    for archive in filter(Path.is_file, archives):
        inside = path.relative_to(archive.with_suffix("")).as_posix()
        prefix = "" if inside == "." else inside + "/"
        names = [n.removeprefix(prefix) for n in entries_of(archive) if n.startswith(prefix)]
        if names:
            return archive, prefix, sorted(names)
    raise FileNotFoundError(
        f"expected images in {path}, got no such folder, and none in an archive "
        f"{' or '.join(map(str, archives[:2]))}; set data_dir=<folder of the image sets>, "
        f"laid out as {LAYOUT}"
    )
