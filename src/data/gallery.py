"""A picture of what a network sees of each set."""

__all__ = ["gallery"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from src.data.datasets import Source, spread
from src.data.decoding import decode

SHOWN = 10  # images of each set


def gallery(sources: Mapping[str, Source], folder: Path) -> Path:
    """Draws ten evenly spread images of each set, one row per set; returns the path."""
    figure = Figure(figsize=(1 + 0.7 * SHOWN, 0.85 * len(sources)), layout="constrained")
    panels = figure.subplots(len(sources), SHOWN, squeeze=False)
    for row, (name, source) in zip(panels, sources.items(), strict=True):
        for axes, image in zip(row, some_of(source), strict=False):
            pixel = image.permute(1, 2, 0).numpy()
            axes.imshow(np.repeat(pixel, 3, axis=2) if pixel.shape[2] == 1 else pixel)
        for axes in row:
            axes.set_axis_off()
        row[0].set_title(name, fontsize=8, loc="left")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "images.png"
    figure.savefig(path, dpi=110)
    return path


def some_of(source: Any) -> Tensor:
    """Returns ten images (10, C, H, W) uint8, evenly spread; black if it cannot be decoded."""
    if not hasattr(source, "pictures"):  # made, not read
        images = source.load()
        made: Tensor = images[spread(len(images), SHOWN)].image
        return made
    names, read = source.pictures()
    rows = spread(len(names), SHOWN).tolist()
    named = [names[row] for row in rows]
    return decode(lambda number: read(rows[number]), named, source.view, "skip")[0]
