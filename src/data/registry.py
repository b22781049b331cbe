"""The registry of public image sets: where they come from and how they may be used."""

__all__ = ["Known", "RemoteFile", "known", "known_names", "where_from"]

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REGISTRY = Path(__file__).with_name("registry.yaml")


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched.

    Attributes:
        name: Path of the file in the folder of its set.
        urls: HTTPS addresses of the same bytes, in the order in which they are tried.
        bytes: Size of the file; None if it is unknown.
        md5: Published MD5 digest; None if there is none.
        sha256: Published SHA-256 digest; None if there is none.
        extract: Whether the file is an archive that is unpacked in its folder and then deleted.
        max_bytes: Largest size of a file whose size is unknown.
    """

    name: str
    urls: tuple[str, ...]
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    extract: bool = False
    max_bytes: int = 2**34


@dataclass(frozen=True)
class Known:
    """A registered image set.

    Attributes:
        name: Name of the entry and of the folder in data_dir.
        title: Common name of the set.
        homepage: Address of its description.
        files: Files to fetch; empty if the set must be fetched by hand.
        manual: Instructions to fetch the set by hand; "" if `files` are complete.
        images: Number of images in the part that benchmarks use.
        licence: Name of the licence, or "none stated".
        terms: Permitted use, in one sentence.
        citation: Authors, title, place and year.
    """

    name: str
    title: str
    homepage: str
    images: int
    licence: str
    terms: str
    citation: str
    files: tuple[RemoteFile, ...] = field(default=())
    manual: str = ""


@cache
def _registry() -> dict[str, Known]:
    entries: dict[str, dict[str, Any]] = yaml.safe_load(REGISTRY.read_text())
    known = {}
    for name, entry in entries.items():
        files = tuple(
            RemoteFile(**{**file, "urls": tuple(file["urls"])}) for file in entry.pop("files", ())
        )
        known[name] = Known(name=name, files=files, **entry)
    return known


def known_names() -> tuple[str, ...]:
    """Returns the names of all registered sets."""
    return tuple(_registry())


def known(name: str) -> Known:
    """Returns the entry of a set.

    Raises:
        ValueError: If there is no set of that name.
    """
    if name not in _registry():
        raise ValueError(f"expected one of the sets {', '.join(_registry())}, got {name!r}")
    return _registry()[name]


def where_from(name: str | None) -> str:
    """Returns how to get a set, for an error message; "" if the name is None.

    Raises:
        ValueError: If there is no set of that name.
    """
    if name is None:
        return ""
    entry = known(name)
    how = entry.manual or "python -m src.data data=<benchmark> prepare=true fetches it"
    return f"; this is {entry.title}, {entry.homepage}: {how}"
