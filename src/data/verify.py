"""Are the images of a benchmark whole, different, and ID or OOD but not both?"""

__all__ = ["Contents", "contents", "findings"]

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from tqdm import tqdm

from src.data.decoding import rgb, threads_for
from src.data.files import digest


class Pictures(Protocol):
    """A source whose images can be opened one by one."""

    def pictures(self) -> tuple[list[str], Any]:
        """Returns names, and what opens an image by position."""


@dataclass(frozen=True)
class Contents:
    """What is in a set.

    Attributes:
        names: of all images.
        pixels: digest of each image's size and pixels in RGB; None if it cannot be decoded.
        corrupt: name -> why it cannot be decoded.
    """

    names: list[str]
    pixels: list[str | None]
    corrupt: dict[str, str]


def contents(source: Pictures, title: str) -> Contents:
    """Decodes every image of a source, with a bar on a terminal."""
    names, read = source.pictures()
    corrupt: dict[str, str] = {}

    def look(row: int) -> str | None:
        try:
            with read(row) as picture:
                picture = rgb(picture)
            return digest(repr(picture.size), picture.tobytes())
        except Exception as error:  # decoders raise many kinds; all mean a broken file
            corrupt[names[row]] = str(error)
            return None

    with ThreadPoolExecutor(threads_for(read, len(names))) as pool:
        found = pool.map(look, range(len(names)))
        pixels = list(tqdm(found, title, len(names), unit=" images", disable=None, leave=False))
    return Contents(names, pixels, dict(sorted(corrupt.items())))


def findings(sets: Mapping[str, Contents]) -> dict[str, Any]:
    """Returns what is wrong with the sets of a benchmark, of which `train` and `id` are ID.

    Returns:
        corrupt: set -> name -> reason; duplicates: set -> lists of names with the same pixels;
        overlaps: "first, second" -> pairs of names, of `train` with `id` and of each with OOD.
    """
    where: dict[str, dict[str, list[str]]] = {}
    for name, each in sets.items():
        where[name] = defaultdict(list)
        for image, pixels in zip(each.names, each.pixels, strict=True):
            if pixels is not None:
                where[name][pixels].append(image)
    overlaps: dict[str, list[tuple[str, str]]] = {}
    for first in ("train", "id"):
        for second in sets:
            if first in sets and second not in ("train", first):
                both = where[first].keys() & where[second].keys()
                pairs = sorted((where[first][p][0], where[second][p][0]) for p in both)
                if pairs:
                    overlaps[f"{first}, {second}"] = pairs
    duplicates = {
        name: sorted(images for images in of.values() if len(images) > 1)
        for name, of in where.items()
    }
    return {
        "corrupt": {name: each.corrupt for name, each in sets.items() if each.corrupt},
        "duplicates": {name: images for name, images in duplicates.items() if images},
        "overlaps": overlaps,
    }
