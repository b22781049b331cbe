"""Figures of a finished run: what NormRatio saw in training, and what it bought at test time."""

__all__ = ["save_figure", "save_figures"]

from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from src.metrics.ood import accepted
from src.metrics.score_table import Scores
from src.records.atomic import try_to_write
from src.records.columns import block_columns, detector_columns
from src.records.history import Array, History, read_history
from src.records.palette import COLORS, GREY, PALE, SELECTED, STYLE

PSEUDO_OOD = "pseudo-OOD"
SHOWN = 8  # detectors in one figure: more lines cannot be told apart
Color = str | tuple[float, ...]
Results = Mapping[str, Mapping[str, Mapping[str, float]]]


@rc_context(STYLE)
def norm_ratio_curves(history: History) -> Figure:
    """Returns NormRatio of each block over epochs; a dot marks the block selected at an epoch."""
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
    axes.set_title(f"selected block: {blocks[last]}   (dot: selected at that epoch)")
    label_ends(axes, blocks, history.ratio[-1], color)
    return figure


@rc_context(STYLE)
def norm_ratio_by_depth(
    norm_ratio: Mapping[str, float], selected_block: str | None, auroc: Mapping[str, float]
) -> Figure:
    """Returns NormRatio of each block, above the mean AUROC of FeatureNorm of it (if given)."""
    figure = Figure(figsize=(max(6, 0.22 * len(norm_ratio)), 4 if auroc else 2.4))
    panels = figure.subplots(2 if auroc else 1, sharex=True, squeeze=False)[:, 0]
    depth = np.arange(len(norm_ratio))
    color = [SELECTED if block == selected_block else PALE for block in norm_ratio]
    panels[0].bar(depth, [ratio - 1 for ratio in norm_ratio.values()], bottom=1, color=color)
    panels[0].axhline(1, color=GREY, lw=0.8)
    panels[0].set_ylabel("NormRatio")
    panels[0].set_title(f"selected block: {selected_block}")
    if auroc:
        percent = [100 * auroc.get(block, np.nan) for block in norm_ratio]
        panels[1].plot(depth, percent, color=GREY, lw=1, zorder=1)
        panels[1].scatter(depth, percent, c=color, s=28, zorder=2)
        panels[1].set_ylabel("mean AUROC (%)")
        for block, at, y in zip(norm_ratio, depth, percent, strict=True):
            if block == selected_block or y == np.nanmax(percent):
                panels[1].text(at, y, f"{y:.1f}\n", ha="center", va="baseline")
        panels[1].margins(y=0.2)
    panels[-1].set_xticks(depth, list(norm_ratio), rotation=45, ha="right")
    figure.align_ylabels()
    return figure


@rc_context(STYLE)
def norm_by_depth(
    scores: Scores, blocks: Sequence[str], selected_block: str | None, history: History | None
) -> Figure:
    """Returns mean FeatureNorm of each source at each block, in units of the ID mean there."""
    columns = block_columns(scores.detectors)
    column = [scores.column(columns[block]) for block in blocks]
    mean = {name: scores.of(name)[:, column].mean(0).numpy() for name in scores.sources}
    lines = {name: mean[name] / mean["id"] for name in scores.sources}
    color = dict(zip(lines, ("black", *COLORS * len(lines)), strict=False))
    if history and history.block == blocks:
        lines[PSEUDO_OOD] = history.norm_pseudo_ood[-1] / history.norm_id[-1]
        color[PSEUDO_OOD] = GREY
    figure = Figure(figsize=(max(6, 0.22 * len(blocks)), 3.4))
    axes = figure.subplots()
    for name, line in lines.items():
        style = "--" if name == PSEUDO_OOD else "-"
        axes.plot(line, style, color=color[name], marker="o", ms=3, clip_on=False)
    if selected_block in blocks:
        at = blocks.index(selected_block)
        axes.axvspan(at - 0.4, at + 0.4, color=SELECTED, alpha=0.15, lw=0)
        axes.set_title(f"selected block: {selected_block}")
    axes.set_xticks(range(len(blocks)), blocks, rotation=45, ha="right")
    axes.set_ylabel("mean FeatureNorm / that of ID")
    ends = np.array([line[-1] for line in lines.values()])
    label_ends(axes, list(lines), ends, list(color.values()))
    return figure


@rc_context(STYLE)
def score_histograms(scores: Scores, results: Results, detectors: Sequence[str]) -> Figure:
    """Returns score densities, ID against OOD: detectors as rows, OOD sets as columns."""
    sources = scores.sources[1:]
    figure = Figure(figsize=(1.2 + 1.3 * len(sources), 0.6 + 0.9 * len(detectors)))
    panels = figure.subplots(len(detectors), len(sources), squeeze=False, sharex="row")
    for (row, detector), (column, source) in product(enumerate(detectors), enumerate(sources)):
        axes = panels[row, column]
        of = {name: scores.of(name)[:, scores.column(detector)] for name in scores.sources}
        low, high = np.quantile(np.concatenate(list(of.values())), (0.002, 0.998))
        look: dict[str, Any] = {"range": (low, high), "density": True, "histtype": "stepfilled"}
        for name, color in (("id", COLORS[0]), (source, COLORS[3])):
            label = "ID" if name == "id" else "OOD"
            axes.hist(of[name], 40, color=color, label=label, alpha=0.55, **look)
        axes.set_title(f"{100 * results[detector][source]['auroc']:.1f}", loc="right", pad=-6)
        axes.set(xticks=[], yticks=[])
        axes.spines["left"].set_visible(False)
        if row == 0:
            axes.annotate(source, (0, 1.12), xycoords="axes fraction", weight="bold")
        if column == 0:
            axes.set_ylabel(detector, rotation=0, ha="right", va="center")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        *handles, loc="outside lower center", ncols=2, title="score (number: AUROC in %)"
    )
    return figure


@rc_context(STYLE)
def roc(scores: Scores, results: Results, detectors: Sequence[str]) -> Figure:
    """Returns ROC curves (ID positive): one panel per OOD set, one line per detector."""
    sources = scores.sources[1:]
    columns = min(3, len(sources))
    rows = -(-len(sources) // columns)
    side = max(2.5, 0.4 * len(detectors))  # the legend takes the lower right half of a panel
    figure = Figure(figsize=(side * columns, side * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    looks = list(zip(detectors, cycle(product(("-", "--", ":"), COLORS)), strict=False))
    for axes, source in zip(panels, sources, strict=False):
        for detector, (style, color) in looks:
            column = scores.column(detector)
            count = accepted(scores.of("id")[:, column], scores.of(source)[:, column])
            accepted_id, accepted_ood = (100 * count / count[:, -1:]).numpy()
            label = f"{100 * results[detector][source]['auroc']:.1f}  {detector}"
            axes.plot(accepted_ood, accepted_id, ls=style, color=color, lw=1.2, label=label)
        axes.axhline(95, color=GREY, lw=0.6, ls=":")
        axes.set_title(source, weight="bold")
        axes.legend(title="AUROC (%)", title_fontsize="small", loc="lower right")
    for axes in panels[len(sources) :]:
        axes.remove()
    figure.supxlabel("OOD accepted (%)", fontsize="medium")
    figure.supylabel("ID accepted (%)", fontsize="medium")
    return figure


def best_of(results: Results, detectors: Sequence[str]) -> list[str]:
    """Returns the first detector and the others of largest average AUROC, in the order given."""
    ranked = sorted(detectors[1:], key=lambda name: -results[name]["average"]["auroc"])
    shown = {detectors[0], *ranked[: SHOWN - 1]}
    return [name for name in detectors if name in shown]


def label_ends(axes: Axes, names: Sequence[str], ends: Array, colors: Sequence[Color]) -> None:
    """Names lines at their right ends, pushed apart no further than it takes to be readable."""
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


def save_figures(
    run_dir: Path,
    scores: Scores,
    results: Results,
    *,
    norm_ratio: Mapping[str, float],
    selected_block: str | None,
) -> list[Path]:
    """Draws what the run has data for into `figures/`; returns the paths. See `write_report`."""
    history = read_history(run_dir)
    columns = block_columns(scores.detectors)
    blocks, detectors = list(columns), detector_columns(scores.detectors)
    figures: dict[str, Figure] = {}
    if history:
        figures["norm_ratio_curves"] = norm_ratio_curves(history)
    if norm_ratio:
        auroc = {block: results[name]["average"]["auroc"] for block, name in columns.items()}
        figures["norm_ratio_by_depth"] = norm_ratio_by_depth(norm_ratio, selected_block, auroc)
    if len(blocks) > 1:
        figures["norm_by_depth"] = norm_by_depth(scores, blocks, selected_block, history)
    if detectors:
        shown = best_of(results, detectors)
        figures["score_histograms"] = score_histograms(scores, results, shown)
        figures["roc"] = roc(scores, results, shown)
        if len(shown) < len(detectors):
            for name in ("score_histograms", "roc"):
                figures[name].suptitle(
                    f"{shown[0]}, and the best {len(shown) - 1} of {len(detectors) - 1} others by "
                    "average AUROC (all: ood.csv)",
                    fontsize="large",
                )
    paths = [run_dir / "figures" / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(path, figure)
    return paths


def save_figure(path: Path, figure: Figure, *, colors: int = 64) -> None:
    """Writes a PNG of few colors: 64 take a third of the bytes, at no loss that shows."""
    figure.savefig(picture := BytesIO(), dpi=130)
    image = Image.open(picture).convert("RGB").quantize(colors)
    try_to_write(path, partial(image.save, optimize=True))
