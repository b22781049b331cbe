"""Checks that the images of a benchmark are whole, different, and not both ID and OOD."""

__all__ = ["Contents", "contents", "findings"]

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from src.data.datasets import PictureSource
from src.data.decoding import rgb, threads_for
from src.data.files import digest
from src.data.opening import check_pixels


@dataclass(frozen=True)
class Contents:
    """The images of a set.

    Attributes:
        names: Names of all images.
        pixels: Digest of each image's size and RGB pixels; None if it cannot be decoded.
        corrupt: Name of each corrupt image -> why it cannot be decoded.
    """

    names: list[str]
    pixels: list[str | None]
    corrupt: dict[str, str]


def contents(source: PictureSource, title: str) -> Contents:
    """Decodes every image of a source, and shows a progress bar on a terminal."""
    names, read = source.pictures()
    corrupt: dict[str, str] = {}

    def look(row: int) -> str | None:
        try:
            with read(row) as picture:
                check_pixels(picture.size, source.view.max_pixels)
                picture = rgb(picture)
            return digest(repr(picture.size), picture.tobytes())
        except Exception as error:  # decoders raise many types, which all mean a broken file
            corrupt[names[row]] = str(error)
            return None

    with ThreadPoolExecutor(threads_for(read, len(names))) as pool:
        found = pool.map(look, range(len(names)))
        pixels = list(tqdm(found, title, len(names), unit=" images", disable=None, leave=False))
    return Contents(names, pixels, dict(sorted(corrupt.items())))


def findings(sets: Mapping[str, Contents]) -> dict[str, Any]:
    """Returns the faults in the sets of a benchmark, of which `train` and `id` are ID.

    Returns:
        corrupt: Set -> name -> reason.
        duplicates: Set -> lists of names of images with the same pixels.
        overlaps: "first, second" -> pairs of names of images with the same pixels in both sets,
            for `train` and `id`, and for each of these and every OOD set.
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
