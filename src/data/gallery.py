"""A picture of what a network sees of each set."""

__all__ = ["gallery"]

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from src.data.datasets import Source, spread

SHOWN = 10  # images of each set


def gallery(sources: Mapping[str, Source], folder: Path) -> Path:
    """Draws ten evenly spread images of each set, one row per set; returns the path."""
    figure = Figure(figsize=(1 + 0.7 * SHOWN, 0.85 * len(sources)), layout="constrained")
    panels = figure.subplots(len(sources), SHOWN, squeeze=False)
    for row, (name, source) in zip(panels, sources.items(), strict=True):
        images = source.load()
        batch = images[spread(len(images), SHOWN)]
        for axes, image in zip(row, batch.image, strict=False):
            pixel = image.permute(1, 2, 0).numpy()
            axes.imshow(np.repeat(pixel, 3, axis=2) if pixel.shape[2] == 1 else pixel)
        for axes in row:
            axes.set_axis_off()
        row[0].set_title(name, fontsize=8, loc="left")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "images.png"
    figure.savefig(path, dpi=110)
    return path
