"""The public image sets of the field: where they come from and what may be done with them."""

__all__ = ["Known", "RemoteFile", "known", "known_names", "where_from"]

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REGISTRY = Path(__file__).with_name("registry.yaml")


@dataclass(frozen=True)
class RemoteFile:
    """One file that can be fetched.

    Attributes:
        name: of the file, in the set's folder.
        urls: https addresses of the same bytes, in the order in which they are tried.
        bytes: its size, if known.
        md5: as published, if it is.
        sha256: as published, if it is.
        extract: whether it is an archive to unpack beside itself and delete.
    """

    name: str
    urls: tuple[str, ...]
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    extract: bool = False


@dataclass(frozen=True)
class Known:
    """One image set.

    Attributes:
        name: of its entry, and of its folder in data_dir.
        title: as the field calls it.
        homepage: where it is described.
        files: what is fetched; empty if it has to be fetched by hand.
        manual: how to get it by hand and how to lay it out; "" if `files` are all there is.
        images: how many there are in the part that benchmarks use.
        licence: its name, or "none stated".
        terms: what it may be used for, in a sentence.
        citation: authors, title, place and year.
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
    """Returns the names of all sets."""
    return tuple(_registry())


def known(name: str) -> Known:
    """Returns the entry of a set.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in _registry():
        raise ValueError(f"expected one of the sets {', '.join(_registry())}, got {name!r}")
    return _registry()[name]


def where_from(name: str | None) -> str:
    """Returns how to get a set, for an error message; "" if none is named.

    Raises:
        ValueError: if the name is not that of a set.
    """
    if name is None:
        return ""
    entry = known(name)
    how = entry.manual or "python -m src.data benchmark=<protocol> prepare=true fetches it"
    return f"; this is {entry.title}, {entry.homepage}: {how}"
