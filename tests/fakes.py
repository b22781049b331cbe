"""Small real objects that several test files share."""

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.data import ImageSet, Source
from src.network import Network


class Memory(Source):
    """A source of random images of three classes."""

    classes = ("a", "b", "c")

    def __init__(self, n: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 256, (n, 3, 12, 12), generator=generator, dtype=torch.uint8)
        self.images = ImageSet(image, torch.arange(n) % 3, self.classes)

    def load(self) -> ImageSet:
        return self.images


class Harmful:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class PageReader(HTMLParser):
    """Reads a page whose elements must close in order.

    Attributes:
        elements: Tag and attributes of each element.
        text: Text outside of style sheets.
    """

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("dt", "dd", "th", "td", "p"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def two_map_network(classes: int, width: int, std: float | Sequence[float] = 0.5) -> Network:
    """A network for (3, 9, 9) images with a feature of the given width, and blocks "1", "3"."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, width, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
    )  # fmt: skip
    return Network(net, ["1", "3"], image_shape=(3, 9, 9), std=std).eval()


def grey_network(classes: int) -> Network:
    """A network for (1, 8, 8) images whose blocks "1", "4" have 3 and 4 channels."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip
    return Network(net, ["1", "4"], image_shape=(1, 8, 8)).eval()
