"""Figures of a finished run: NormRatio of its blocks, and the scores of its detectors."""

__all__ = ["figures_of", "save_figures"]

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from src.loggers import Histograms
from src.records.atomic import try_to_write
from src.records.columns import detector_columns
from src.records.history import Array, History
from src.records.palette import COLORS, GREY, PALE, SELECTED, STYLE, png_of
from src.report.blocks import Block
from src.report.drawing import drawn
from src.report.evidence import PSEUDO_OOD, Evidence
from src.report.weight_figure import block_weights

Color = str | tuple[float, ...]


@rc_context(STYLE)
def norm_ratio_curves(history: History, criterion: str = "NormRatio") -> Figure:
    """Returns NormRatio of each block over epochs; a dot marks the block selected at an epoch.

    Another criterion that selected it is named in the title, and so below.
    """
    blocks, last = history.block, history.selected[-1]
    figure = Figure(figsize=(6, max(3.4, 0.15 * len(blocks) + 0.7)))
    axes = figure.subplots()
    color: list[Color] = [
        tuple(c) for c in colormaps["cividis"](np.linspace(0, 0.75, len(blocks)))
    ]
    color[last] = SELECTED
    for line, ratio in enumerate(history.ratio.T):
        width = 2.2 if line == last else 0.9
        axes.plot(history.epoch, ratio, color=color[line], lw=width, zorder=1 + width)
    best = history.ratio[range(len(history.epoch)), history.selected]
    axes.plot(history.epoch, best, "o", ms=3.5, color=SELECTED, mec="white", mew=0.5, zorder=4)
    axes.axhline(1, color=GREY, lw=0.8, ls=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="NormRatio (ID / pseudo-OOD)")
    axes.set_title(f"{selected_by(blocks[last], criterion)}   (dot: selected at that epoch)")
    label_ends(axes, blocks, history.ratio[-1], color)
    return figure


@rc_context(STYLE)
def norm_ratio_by_depth(blocks: Sequence[Block], criterion: str = "NormRatio") -> Figure:
    """Returns NormRatio of each block, above the average AUROC of its FeatureNorm if scored."""
    is_scored = any(block.results for block in blocks)
    figure = Figure(figsize=(max(6, 0.22 * len(blocks)), 4 if is_scored else 2.4))
    panels = figure.subplots(2 if is_scored else 1, sharex=True, squeeze=False)[:, 0]
    depth = np.arange(len(blocks))
    color = [SELECTED if block.is_selected else PALE for block in blocks]
    ratio = np.array([block.norm_ratio for block in blocks], float)
    panels[0].bar(depth, ratio - 1, bottom=1, color=color)
    panels[0].axhline(1, color=GREY, lw=0.8)
    panels[0].set_ylabel("NormRatio")
    for block in blocks:
        if block.is_selected:
            panels[0].set_title(selected_by(block.name, criterion))
    if is_scored:
        draw_auroc(panels[1], blocks, color)
    panels[-1].set_xticks(depth, [block.name for block in blocks], rotation=45, ha="right")
    figure.align_ylabels()
    return figure


def selected_by(block: str, criterion: str) -> str:
    """Returns the title that names the selected block, and how it was selected if not as usual."""
    return f"selected block: {block}" + (f", by {criterion}" if criterion != "NormRatio" else "")


def draw_auroc(axes: Axes, blocks: Sequence[Block], color: Sequence[Color]) -> None:
    """Draws the average AUROC of each block, with the number at the selected and the best one."""
    depth, percent = range(len(blocks)), [100 * block.auroc for block in blocks]
    axes.plot(depth, percent, color=GREY, lw=1, zorder=1)
    axes.scatter(depth, percent, c=color, s=28, zorder=2)
    axes.set_ylabel("mean AUROC (%)")
    told = [at for at, block in enumerate(blocks) if block.is_selected or block.is_best]
    for at in told:  # neighbours, between which there may be no room, turn away from each other
        side = "right" if at + 1 in told else "left" if at - 1 in told else "center"
        axes.text(at, percent[at], f"{percent[at]:.1f}\n", ha=side, va="baseline")
    axes.margins(y=0.2)


@rc_context(STYLE)
def norm_by_depth(evidence: Evidence) -> Figure:
    """Returns mean FeatureNorm of each source at each block, in units of the ID mean there."""
    blocks = [block for block in evidence.blocks if block.results]
    lines = evidence.norms
    color = dict(zip(lines, ("black", *COLORS * len(lines)), strict=False))
    color |= {name: GREY for name in lines if name == PSEUDO_OOD}
    figure = Figure(figsize=(max(6, 0.22 * len(blocks)), 3.4))
    axes = figure.subplots()
    for name, line in lines.items():
        style = "--" if name == PSEUDO_OOD else "-"
        axes.plot(line, style, color=color[name], marker="o", ms=3, clip_on=False)
    for at, block in enumerate(blocks):
        if block.is_selected:
            axes.axvspan(at - 0.4, at + 0.4, color=SELECTED, alpha=0.15, lw=0)
            axes.set_title(f"selected block: {block.name}")
    axes.set_xticks(range(len(blocks)), [block.name for block in blocks], rotation=45, ha="right")
    axes.set_ylabel("mean FeatureNorm / that of ID")
    ends = np.array([line[-1] for line in lines.values()])
    label_ends(axes, list(lines), ends, list(color.values()))
    return figure


@rc_context(STYLE)
def score_histograms(evidence: Evidence, detectors: Sequence[str]) -> Figure:
    """Returns score densities, ID against OOD: detectors as rows, OOD sets as columns."""
    sources = list(evidence.roc)
    figure = Figure(figsize=(max(3.8, 1.2 + 1.3 * len(sources)), 0.6 + 0.9 * len(detectors)))
    panels = figure.subplots(len(detectors), len(sources), squeeze=False, sharex="row")
    for (row, detector), (column, source) in product(enumerate(detectors), enumerate(sources)):
        axes = panels[row, column]
        draw_densities(axes, evidence.histograms[detector], source)
        auroc = 100 * evidence.results[detector][source]["auroc"]
        axes.set_title(f"{auroc:.1f}", loc="right", pad=-6)
        if row == 0:
            axes.annotate(source, (0, 1.12), xycoords="axes fraction", weight="bold")
        if column == 0:
            axes.set_ylabel(detector, rotation=0, ha="right", va="center")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        *handles, loc="outside lower center", ncols=2, title="score (number: AUROC in %)"
    )
    return figure


def draw_densities(axes: Axes, histograms: Histograms, source: str) -> None:
    """Draws the densities of the scores of ID images and of an OOD set."""
    look: Any = {"density": True, "histtype": "stepfilled", "alpha": 0.55}
    bins, counts = histograms.edges.tolist(), histograms.counts
    for name, label, color in (("id", "ID", COLORS[0]), (source, "OOD", COLORS[3])):
        axes.hist(bins[:-1], bins, weights=counts[name], color=color, label=label, **look)
    axes.set(xticks=[], yticks=[])
    axes.spines["left"].set_visible(False)


@rc_context(STYLE)
def roc(evidence: Evidence, detectors: Sequence[str]) -> Figure:
    """Returns ROC curves (ID positive): one panel per OOD set, one line per detector."""
    columns = min(3, len(evidence.roc))
    rows = -(-len(evidence.roc) // columns)
    side = max(2.5, 0.4 * len(detectors))  # the legend takes the lower right half of a panel
    figure = Figure(figsize=(side * columns, side * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    looks = list(zip(detectors, cycle(product(("-", "--", ":"), COLORS)), strict=False))
    for axes, (source, curves) in zip(panels, evidence.roc.items(), strict=False):
        for detector, (style, color) in looks:
            x, y = 100 * curves[detector].accepted_ood, 100 * curves[detector].accepted_id
            label = f"{100 * evidence.results[detector][source]['auroc']:.1f}  {detector}"
            axes.plot(x, y, ls=style, color=color, lw=1.2, label=label)
        axes.axhline(95, color=GREY, lw=0.6, ls=":")
        axes.set_title(source, weight="bold")
        axes.legend(title="AUROC (%)", title_fontsize="small", loc="lower right")
    for axes in panels[len(evidence.roc) :]:
        axes.remove()
    figure.supxlabel("OOD accepted (%)", fontsize="medium")
    figure.supylabel("ID accepted (%)", fontsize="medium")
    return figure


def label_ends(axes: Axes, names: Sequence[str], ends: Array, colors: Sequence[Color]) -> None:
    """Labels lines at their right ends; moves labels apart just enough to stay readable."""
    axes.margins(x=0)
    low, high = axes.get_ylim()
    step = 13 * (high - low) / axes.bbox.height * np.arange(len(ends))  # 13 pixels a label
    order = np.argsort(ends)
    free = ends[order] - step  # labels keep their distance if and only if this never falls
    rising = np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]
    place = (rising / 2).clip(low, high - step[-1]) + step
    where: Any = axes.get_yaxis_transform()
    for line, y in zip(order, place, strict=True):
        color = colors[line]
        axes.annotate(
            names[line], (1, ends[line]), (1.04, y), where, where, color=color, fontsize=7,
            va="center", arrowprops={"arrowstyle": "-", "lw": 0.5, "color": color},
        )  # fmt: skip


def figures_of(evidence: Evidence) -> dict[str, Callable[[], Figure]]:
    """Returns what draws each figure that the run has data for, by its name."""
    figures: dict[str, Callable[[], Figure]] = {}
    by = evidence.criterion
    if evidence.history:
        figures["norm_ratio_curves"] = partial(norm_ratio_curves, evidence.history, by)
    if any(block.norm_ratio is not None for block in evidence.blocks):
        figures["norm_ratio_by_depth"] = partial(norm_ratio_by_depth, evidence.blocks, by)
    if evidence.weights:
        figures["block_weights"] = partial(block_weights, evidence)
    if sum(block.results is not None for block in evidence.blocks) > 1:
        figures["norm_by_depth"] = partial(norm_by_depth, evidence)
    if evidence.compared:
        figures["score_histograms"] = partial(of_compared, score_histograms, evidence)
        figures["roc"] = partial(of_compared, roc, evidence)
    return figures


def of_compared(draw: Callable[[Evidence, Sequence[str]], Figure], evidence: Evidence) -> Figure:
    """Returns a figure of the compared detectors, which says how many others there are."""
    shown = evidence.compared
    figure = draw(evidence, shown)
    others = len(detector_columns(evidence.results)) - 1
    if len(shown) - 1 < others:
        figure.suptitle(
            f"{shown[0]}, and the best {len(shown) - 1} of {others} others by average AUROC "
            "(all: ood.csv)",
            fontsize="large",
            wrap=True,  # one OOD set makes a narrow figure
        )
    return figure


def save_figures(
    run_dir: Path, figures: Mapping[str, Callable[[], Figure]], *, colors: int = 64
) -> list[Path]:
    """Draws figures into `figures/`; returns the paths of those that could be drawn.

    One that cannot be drawn costs nothing else; a warning names it.
    """
    paths = []
    for name, draw in figures.items():
        path = run_dir / "figures" / f"{name}.png"
        if drawn(f"figures/{name}.png", partial(save_figure, path, draw, colors=colors)):
            paths.append(path)
    return paths


def save_figure(path: Path, draw: Callable[[], Figure], *, colors: int = 64) -> bool:
    """Writes a PNG file of few colors: 64 save two thirds of the bytes, with no visible loss.

    Returns:
        True, also if there was no room: it is drawn, and missing.
    """
    image = Image.open(png_of(draw())).convert("RGB").quantize(colors)
    try_to_write(path, partial(image.save, optimize=True))
    return True
