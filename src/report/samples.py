"""Figures of single images: which ones confuse a detector, and which classes the network."""

__all__ = ["Pictures", "save_sample_figures"]

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from src.metrics.score_table import Scores
from src.records.columns import chosen_column
from src.report.figures import COLORS, GREY, STYLE, save_figure

# (name of a set, (n,) positions in it) -> (n, C, H, W) uint8
Pictures = Callable[[str, Tensor], Tensor]
SHOWN = 8  # images of each set
MOST_CLASSES = 30  # in a matrix; of more, the most frequent confusions are listed
MOST_PAIRS = 20
MOST_WRITTEN = 15  # classes whose counts fit into the cells
PLAIN_TEXT: Any = STYLE | {"text.parse_math": False}  # names are the user's: a dollar is a dollar


@rc_context(PLAIN_TEXT)
def most_confusing(
    scores: Scores, detector: str, pictures: Pictures, classes: Sequence[str]
) -> Figure:
    """Returns the ID images of the lowest scores, and of each OOD set those of the highest."""
    figure = Figure(figsize=(0.3 + 0.82 * SHOWN, 0.1 + 1.16 * len(scores.sources)))
    rows = figure.subfigures(len(scores.sources), squeeze=False)[:, 0]
    for row, (number, source) in zip(rows, enumerate(scores.sources), strict=True):
        here = (scores.source == number).nonzero()[:, 0]
        score = scores.score[here, scores.column(detector)]
        order = score.argsort(descending=number > 0, stable=True)[:SHOWN]
        images = pictures(source, scores.index[here[order]]).permute(0, 2, 3, 1).numpy()
        row.suptitle(
            f"{source}: the highest scores" if number else "ID: the lowest scores",
            x=0.01, ha="left", weight="bold", fontsize=8,
        )  # fmt: skip
        for axes in (panels := row.subplots(1, SHOWN, squeeze=False)[0]):
            axes.set_axis_off()
        for axes, image, at in zip(panels, images, order.tolist(), strict=False):
            said = int(scores.prediction[here[at]])
            name = str(classes[said]) if said < len(classes) else str(said)
            draw_image(axes, image, f"{score[at]:#.4g}\n{name[:14]}")
    return figure


def draw_image(axes: Axes, image: Any, text: str) -> None:
    """Draws (H, W, C) pixels, each as it is, above a text."""
    pixels = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    axes.imshow(pixels, interpolation="nearest")
    axes.text(0.5, -0.04, text, transform=axes.transAxes, ha="center", va="top", fontsize=6.5)


@rc_context(PLAIN_TEXT)
def confusion(count: Tensor, classes: Sequence[str]) -> Figure:
    """Returns the (K, K) confusions, labels as rows: a matrix, or of many classes the worst."""
    if len(classes) > MOST_CLASSES:
        return confused_pairs(count, classes)
    side = 1.6 + 0.28 * len(classes)
    figure = Figure(figsize=(max(3.2, side), max(2.8, side)))
    axes = figure.subplots()
    share = (count / count.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= MOST_WRITTEN:
        for row, column in count.nonzero().tolist():
            color = "white" if share[row, column] > 0.5 else "black"
            text = str(int(count[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
    names = [str(name)[:18] for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def confused_pairs(count: Tensor, classes: Sequence[str]) -> Figure:
    """Returns bars of the class pairs that are confused most often, as a share of the class."""
    wrong = count.clone().fill_diagonal_(0)
    worst = wrong.flatten().argsort(descending=True, stable=True)[:MOST_PAIRS].tolist()
    pairs = [divmod(at, len(classes)) for at in worst if wrong.flatten()[at] > 0]
    share = [100 * float(count[a, b] / count[a].sum()) for a, b in pairs]
    figure = Figure(figsize=(6, 0.8 + 0.2 * max(1, len(pairs))))
    axes = figure.subplots()
    axes.barh(range(len(pairs)), share, color=COLORS[0], height=0.7)
    for row, (a, b) in enumerate(pairs):
        axes.text(share[row], row, f" {int(count[a, b])}", va="center", fontsize=7, color=GREY)
    names = [f"{classes[a][:24]} taken for {classes[b][:24]}" for a, b in pairs]
    axes.set_yticks(range(len(pairs)), names)
    axes.invert_yaxis()
    axes.set_xlabel("share of the class (%), number: images")
    return figure


def confusions(scores: Scores, classes: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Returns (K, K) counts of label and prediction of the labelled ID images, and K names."""
    labelled = (scores.source == 0) & (scores.label >= 0)
    label, prediction = scores.label[labelled], scores.prediction[labelled]
    known = int(torch.cat([label, prediction, torch.tensor([-1])]).max()) + 1
    names = [*map(str, classes), *map(str, range(len(classes), known))]
    count = torch.bincount(label * len(names) + prediction, minlength=len(names) ** 2)
    return count.view(len(names), len(names)), names


def save_sample_figures(
    run_dir: Path,
    scores: Scores,
    *,
    selected_block: str | None,
    classes: Sequence[str] = (),
    pictures: Pictures | None = None,
) -> list[Path]:
    """Draws what there is into `figures/`; returns the paths.

    Args:
        run_dir: directory of the run.
        scores: the score table.
        selected_block: the block that the method uses, if one was selected.
        classes: names of the ID classes; numbers stand where there are none.
        pictures: gives images of a set; without it none are shown.
    """
    figures: dict[str, Figure] = {}
    detector = chosen_column(scores.detectors, selected_block)
    if pictures is not None and detector is not None:
        figures["most_confusing"] = most_confusing(scores, detector, pictures, classes)
    count, names = confusions(scores, classes)
    if count.sum():
        figures["confusion"] = confusion(count, names)
    paths = [run_dir / "figures" / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(path, figure, colors=256)
    return paths
