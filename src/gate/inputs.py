"""The images that a gate decides about: a file, a folder, a glob, an archive, a list or a pipe."""

__all__ = ["Images", "find_images"]

import os
import re
import sys
from collections.abc import Callable, Iterable
from glob import glob, has_magic
from pathlib import Path
from zipfile import ZipFile

from PIL import Image

from src.data.folders import in_archive, walked
from src.data.lists import listed, path_in
from src.data.names import readable
from src.data.opening import SUFFIXES, open_bytes, open_file, open_member

Open = Callable[[str, int], Image.Image]  # (path, most pixels) -> opened picture
STANDARD_INPUT = "-"
# how the files of pictures begin, of the formats that are opened
PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8[79]a|BM.{4}\0{4}|RIFF.{4}WEBP|(II|MM)(\*\0|\0\*|\+)"
    rb"|P[1-6]\s+[\d#]",
    re.DOTALL,
)


class Images:
    """Pictures of different paths, sorted by path.

    Args:
        paths: Paths; one that occurs twice counts once.
        open_path: Opens the picture of a path.
        where: What holds them, for error messages.

    Attributes:
        names: Paths as they are shown, with an escape for a byte that is not UTF-8.

    Raises:
        ValueError: If there is no path.
    """

    def __init__(self, paths: Iterable[str], open_path: Open, where: str) -> None:
        self.paths, self.open_path = sorted(set(paths)), open_path
        self.names = [readable(path) for path in self.paths]
        if not self.paths:
            raise ValueError(
                f"expected images ({' '.join(SUFFIXES)}) in {readable(where)}, got none; add "
                "some, or correct images="
            )

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, row: int, max_pixels: int) -> Image.Image:
        """Opens the picture in this row without decoding it.

        Raises:
            OSError: If it cannot be read or has none of the formats.
            ValueError: If it is no regular file or larger than permitted.
            BadZipFile: If it is a damaged entry of an archive.
        """
        return self.open_path(self.paths[row], max_pixels)


def find_images(asked: str) -> Images:
    """Returns the images that a text means.

    Args:
        asked: A picture; a folder, with all that is below it; a glob, where `**` stands for any
            folders; a ZIP archive; an image list as .txt (a path in each line, with or without a
            label) or .csv (with a column `path`), relative to its folder; or "-" for standard
            input: the bytes of one picture if it begins as one, else a path in each line. Hidden
            files are left out, and of folders, globs and archives all that is no picture by its
            name.

    Raises:
        OSError: If there is nothing of that name, or it cannot be read.
        ValueError: If it holds no image.
    """
    if asked == STANDARD_INPUT:
        return _in_pipe(sys.stdin.buffer.read())
    path = Path(asked)
    if path.is_dir():
        found = walked(path)
        return Images(_below(asked, [*found.files, *found.missing]), _open_file, asked)
    if path.is_file():
        return _in_file(path)
    if path.exists():
        raise ValueError(
            f"expected a file or folder, got {readable(asked)}, a pipe or device; send what it "
            "holds to standard input and set images=-"
        )
    if not has_magic(asked):
        raise FileNotFoundError(
            f"expected images, got no file or folder {readable(asked)}; correct images="
        )
    matches = glob(asked, recursive=True)  # noqa: PTH207, of Path's the root must be told apart
    matches = [each for each in matches if not Path(each).is_dir()]
    return Images(filter(_is_picture, matches), _open_file, asked)


def _in_file(path: Path) -> Images:
    kind = path.suffix.lower()
    if kind == ".zip":
        found, start = in_archive(path), f"{path}/"
        archive = ZipFile(path)

        def open_entry(name: str, max_pixels: int) -> Image.Image:
            return open_member(archive, name.removeprefix(start), max_pixels)

        return Images(_below(str(path), found.files if found else ()), open_entry, str(path))
    if kind in (".txt", ".csv"):
        paths = [os.path.normpath(path.parent / name) for name in listed(path)]
        return Images(paths, _open_file, str(path))
    return Images([str(path)], _open_file, str(path))


def _in_pipe(content: bytes) -> Images:
    if PICTURE.match(content):
        return Images(
            [STANDARD_INPUT], lambda _, max_pixels: open_bytes(content, max_pixels), "a pipe"
        )
    lines = [path_in(line) for line in os.fsdecode(content).split("\n") if line.strip()]
    return Images(lines, _open_file, "standard input")


def _below(folder: str, names: Iterable[str]) -> list[str]:
    """Returns the pictures out of the names in a folder, with its path before each."""
    return [f"{folder.rstrip('/') or '/'}/{name}" for name in names if _is_picture(name)]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _open_file(path: str, max_pixels: int) -> Image.Image:
    return open_file(Path(path), max_pixels)
