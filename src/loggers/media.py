"""Figures, tables, charts and images of a run, in a form that every logger can use."""

__all__ = ["Histograms", "Lines", "Media"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from src.records.palette import STYLE, png_of


class Lines(NamedTuple):
    """Lines over one x axis."""

    title: str
    x_name: str
    x: Sequence[float]  # (n,)
    y: Mapping[str, Sequence[float]]  # name of a line -> (n,) values

    def picture(self) -> Image.Image:
        """Returns a picture of the lines, for loggers without charts of their own."""
        with rc_context(STYLE):
            figure = Figure(figsize=(4.5, max(3, 0.16 * len(self.y))))
            axes = figure.subplots()
            shades = colormaps["cividis"](np.linspace(0, 0.85, len(self.y)))
            for color, (name, values) in zip(shades, self.y.items(), strict=True):
                axes.plot(self.x, values, color=tuple(color), lw=1.2, label=name)
            axes.set(title=self.title, xlabel=self.x_name)
            if all(isinstance(x, int) for x in self.x):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            figure.legend(loc="outside right upper")
            return Image.open(png_of(figure)).convert("RGB")


class Histograms(NamedTuple):
    """Counts of several sets of values in the same bins."""

    edges: NDArray[np.float64]  # (n + 1,)
    counts: Mapping[str, NDArray[np.int64]]  # name of a set -> (n,)

    def density(self) -> Lines:
        """Returns the density of each set at the centers of the bins."""
        width, middle = np.diff(self.edges), (self.edges[1:] + self.edges[:-1]) / 2
        y = {name: (n / n.sum() / width).tolist() for name, n in self.counts.items()}
        return Lines("density of the score", "score", middle.tolist(), y)


@dataclass(frozen=True)
class Media:
    """Figures, tables, charts and images of a run, each under its name; few and small.

    Attributes:
        figures: PNG files.
        tables: CSV files with a header.
        lines: Charts of a few lines.
        histograms: Scores on each source, one chart per detector.
        images: Groups of images, each image with a caption.
        confusion: (K, K) counts, classes as rows and predictions as columns, and K names of
            classes; None if they were not counted or are too many.
    """

    figures: Mapping[str, Path] = field(default_factory=dict)
    tables: Mapping[str, Path] = field(default_factory=dict)
    lines: Mapping[str, Lines] = field(default_factory=dict)
    histograms: Mapping[str, Histograms] = field(default_factory=dict)
    images: Mapping[str, Sequence[tuple[Image.Image, str]]] = field(default_factory=dict)
    confusion: tuple[NDArray[np.int64], Sequence[str]] | None = None
