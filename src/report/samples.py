"""Figures of images and classes: which images a detector gets wrong, and which classes."""

__all__ = ["Pictures", "sample_figures"]

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from src.records.palette import COLORS, GREY, STYLE
from src.report.evidence import MOST_IMAGES, Confusion, Evidence, Extremes

# (source, (n,) positions in it) -> (n, C, H, W) uint8
Pictures = Callable[[str, Tensor], Tensor]
MOST_CLASSES = 30  # in a matrix; of more classes, the most frequent confusions are listed
MOST_PAIRS = 20
MOST_WRITTEN = 15  # classes: the counts of more do not fit into the cells


def images_of(pictures: Pictures, source: str, extremes: Extremes) -> Any:
    """Returns (n, H, W, C) uint8 images."""
    images = pictures(source, torch.from_numpy(extremes.position))
    return images.permute(0, 2, 3, 1).numpy()


@rc_context(STYLE)
def most_confusing(extremes: Mapping[str, Mapping[str, Extremes]], pictures: Pictures) -> Figure:
    """Returns the ID images of the lowest scores, and of each OOD set those of the highest."""
    figure = Figure(figsize=(0.3 + 0.82 * MOST_IMAGES, 0.1 + 1.16 * len(extremes)))
    rows = figure.subfigures(len(extremes), squeeze=False)[:, 0]
    for row, (source, ends) in zip(rows, extremes.items(), strict=True):
        end, name = ("lowest", "ID") if source == "id" else ("highest", source)
        images = images_of(pictures, source, ends[end])
        row.suptitle(f"{name}: the {end} scores", x=0.01, ha="left", weight="bold", fontsize=8)
        for axes in (panels := row.subplots(1, MOST_IMAGES, squeeze=False)[0]):
            axes.set_axis_off()
        for axes, image, (score, said) in zip(panels, images, ends[end].captions, strict=False):
            draw_image(axes, image, f"{score}\n{said[:14]}")
    return figure


def draw_image(axes: Axes, image: Any, text: str) -> None:
    """Draws an (H, W, C) image without smoothing, and a text below it."""
    pixels = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    axes.imshow(pixels, interpolation="nearest")
    axes.text(0.5, -0.04, text, transform=axes.transAxes, ha="center", va="top", fontsize=6.5)


@rc_context(STYLE)
def confusion_matrix(confusion: Confusion) -> Figure:
    """Returns the confusion of the ID classes as a matrix, or its largest parts as bars."""
    counts, names = confusion
    if len(names) > MOST_CLASSES:
        return confused_pairs(confusion)
    side = 1.6 + 0.28 * len(names)
    figure = Figure(figsize=(max(3.2, side), max(2.8, side)))
    axes = figure.subplots()
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= MOST_WRITTEN:
        for row, column in np.argwhere(counts).tolist():
            color = "white" if share[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
    short = [name[:18] for name in names]
    axes.set_xticks(range(len(short)), short, rotation=90)
    axes.set_yticks(range(len(short)), short)
    axes.set(xlabel="predicted", ylabel="class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def confused_pairs(confusion: Confusion) -> Figure:
    """Returns the class pairs that are confused most often as bars: shares of the true class."""
    counts, names = confusion
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    worst = (-wrong).ravel().argsort(kind="stable")[:MOST_PAIRS].tolist()
    pairs = [divmod(at, len(names)) for at in worst if wrong.ravel()[at] > 0]
    share = [100 * counts[a, b] / counts[a].sum() for a, b in pairs]
    figure = Figure(figsize=(6, 0.8 + 0.2 * max(1, len(pairs))))
    axes = figure.subplots()
    axes.barh(range(len(pairs)), share, color=COLORS[0], height=0.7)
    for row, (a, b) in enumerate(pairs):
        axes.text(share[row], row, f" {counts[a, b]}", va="center", fontsize=7, color=GREY)
    labels = [f"{names[a][:24]} predicted as {names[b][:24]}" for a, b in pairs]
    axes.set_yticks(range(len(pairs)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("share of the class (%), number: images")
    return figure


def sample_figures(
    evidence: Evidence, pictures: Pictures | None
) -> dict[str, Callable[[], Figure]]:
    """Returns what draws each figure of images and classes, by its name.

    Args:
        evidence: What the scores of the run show.
        pictures: Returns the images of a source; without it no image is drawn.
    """
    figures: dict[str, Callable[[], Figure]] = {}
    if pictures and evidence.extremes:
        figures["most_confusing"] = partial(most_confusing, evidence.extremes, pictures)
    if evidence.confusion:
        figures["confusion"] = partial(confusion_matrix, evidence.confusion)
    return figures
