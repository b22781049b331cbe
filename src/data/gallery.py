"""A figure with images of each set, as the network sees them."""

__all__ = ["gallery"]

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from src.data.datasets import PictureSource, Source, spread
from src.data.decoding import decode
from src.records.atomic import write_whole

SHOWN = 10  # images of each set


def gallery(sources: Mapping[str, Source], folder: Path) -> Path:
    """Draws ten images of each set, one row per set, and returns the path of the figure."""
    figure = Figure(figsize=(1 + 0.7 * SHOWN, 0.85 * len(sources)), layout="constrained")
    panels = figure.subplots(len(sources), SHOWN, squeeze=False)
    for row, (name, source) in zip(panels, sources.items(), strict=True):
        for axes, image in zip(row, some_of(source), strict=False):
            pixel = image.permute(1, 2, 0).numpy()
            axes.imshow(np.repeat(pixel, 3, axis=2) if pixel.shape[2] == 1 else pixel)
        for axes in row:
            axes.set_axis_off()
        row[0].set_title(name, fontsize=8, loc="left")
    path = folder / "images.png"
    write_whole(path, lambda partial: figure.savefig(partial, dpi=110))
    return path


def some_of(source: Source) -> Tensor:
    """Returns ten images (10, C, H, W) uint8, spread evenly; corrupt ones are black."""
    if not isinstance(source, PictureSource):
        images = source.load()
        return images[spread(len(images), SHOWN)].image
    names, read = source.pictures()
    rows = spread(len(names), SHOWN).tolist()
    named = [names[row] for row in rows]
    return decode(lambda number: read(rows[number]), named, source.view, "skip")[0]
