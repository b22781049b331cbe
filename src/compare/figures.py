"""Draws the figures of a comparison as SVG in the text color of the page."""

__all__ = ["figures"]

from collections.abc import Sequence
from io import StringIO
from itertools import cycle
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.compare.rows import Row, Rows
from src.compare.tables import best_detectors, short_names
from src.records.palette import COLORS, GREY, SELECTED, STYLE

INK = "#123456"  # replaced by the text color of the page
WIDTH = 3.9  # inches: text of 8 points stays readable on a phone
SHOWN = 5  # more detectors are hard to distinguish
MARKERS = "osD^v"
LONGEST = 28  # characters in the name of a row
PAGE: Any = STYLE | {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "svg.hashsalt": "comparison",
    "legend.fontsize": 7.5,
}


def figures(found: Rows) -> dict[str, str]:
    """Returns the figures that the runs have numbers for: "title: caption" -> SVG element."""
    titles = {
        "Average AUROC: in percent. Large dots: mean over seeds. Small dots: single runs. "
        "Lines: one standard deviation": detectors_figure(found),
        "Selected and best block: average AUROC of FeatureNorm in percent. Dot: at the selected "
        "block. Ring: at the best block in hindsight. Number: the gap": gap_figure(found),
        "NormRatio by relative depth: one line per run. A dot marks the selected block": (
            depth_figure(found)
        ),
    }
    return {title: svg(figure) for title, figure in titles.items() if figure is not None}


def svg(figure: Figure) -> str:
    """Returns a figure as an SVG element without any URL."""
    with rc_context(PAGE):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn := StringIO(), format="svg", transparent=True, metadata=nothing)
    text = drawn.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    start, end = text.find("<metadata>"), text.find("</metadata>")
    if start >= 0:
        text = text[:start] + text[end + len("</metadata>") :]
    for name in ("", ":xlink"):  # HTML needs neither namespace
        address = "http://www.w3.org/" + ("1999/xlink" if name else "2000/svg")
        text = text.replace(f' xmlns{name}="{address}"', "")
    return text


def row_names(found: Rows) -> list[str]:
    """Returns the names of the rows, cut to fit beside the axes."""
    names = short_names(found)
    return [text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for text in names]


def row_axes(found: Rows) -> tuple[Figure, Axes]:
    """Returns axes with one line per row, the first row on top."""
    rows = len(found.rows)
    figure = Figure(figsize=(WIDTH, 0.9 + 0.26 * rows))
    axes = figure.subplots()
    axes.set_yticks(range(rows), row_names(found))
    axes.set_ylim(rows - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GREY, alpha=0.3, lw=0.6)
    axes.set_axisbelow(True)
    return figure, axes


@rc_context(PAGE)
def detectors_figure(found: Rows) -> Figure | None:
    """Returns a dot plot of the average AUROC of the best detectors, one line per row."""
    shown = best_detectors(found, SHOWN)
    if not shown:
        return None
    figure, axes = row_axes(found)
    for at, (name, color, marker) in enumerate(zip(shown, COLORS, cycle(MARKERS), strict=False)):
        place = (at - (len(shown) - 1) / 2) * 0.1
        look: dict[str, Any] = {"color": color, "marker": marker, "lw": 0}
        label: str | None = name
        for line, row in enumerate(found.rows):
            sample = row.score(name, "auroc")
            if sample is None:
                continue
            y = line + place
            if sample.std is not None:
                reach = [100 * (sample.mean - sample.std), 100 * (sample.mean + sample.std)]
                axes.plot(reach, [y, y], color=color, lw=1.2, solid_capstyle="butt")
                single = [run.score(name, "auroc") for run in row.runs]
                values = [100 * value for value in single if value is not None]
                axes.plot(values, [y] * len(values), ms=2, alpha=0.6, mew=0, **look)
            axes.plot([100 * sample.mean], [y], ms=4.5, mew=0, label=label, **look)
            label = None
    axes.set_xlabel("average AUROC (%)")
    figure.legend(loc="outside lower center", ncols=5, handletextpad=0.1, columnspacing=1)
    return figure


@rc_context(PAGE)
def gap_figure(found: Rows) -> Figure | None:
    """Returns a plot of FeatureNorm's AUROC at the selected and at the best block."""
    if not any(row.sample(lambda run: run.gap) for row in found.rows):
        return None
    figure, axes = row_axes(found)
    for line, row in enumerate(found.rows):
        gap = row.sample(lambda run: run.gap)
        best = row.sample(best_auroc)
        if gap is None or best is None:
            continue
        reached, possible = 100 * (best.mean - gap.mean), 100 * best.mean
        axes.plot([reached, possible], [line, line], color=GREY, lw=1.5, zorder=1)
        axes.plot([possible], [line], "o", ms=7, mfc="none", mec=INK, mew=1, zorder=2)
        axes.plot([reached], [line], "o", ms=4.5, color=SELECTED, mew=0, zorder=3)
        axes.annotate(
            f"{100 * gap.mean:.1f}", (possible, line), (7, 0), textcoords="offset points",
            va="center", fontsize=7,
        )  # fmt: skip
    axes.margins(x=0.12)
    axes.set_xlabel("average AUROC of FeatureNorm (%)")
    return figure


def best_auroc(run: Any) -> float | None:
    """Returns the average AUROC of FeatureNorm at the best block, or None without a gap."""
    return None if run.gap is None else max(run.auroc_by_block.values())


@rc_context(PAGE)
def depth_figure(found: Rows) -> Figure | None:
    """Returns curves of NormRatio over relative depth: one panel per row, one line per run."""
    rows = [
        (name, row)
        for name, row in zip(row_names(found), found.rows, strict=True)
        if any(run.blocks for run in row.runs)
    ]
    if not rows:
        return None
    columns = min(2, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(WIDTH, 0.5 + (1.05 if columns == 2 else 2) * lines))
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=True).flat)
    for axes, (name, row) in zip(panels, rows, strict=False):
        draw_depth(axes, row)
        axes.set_title(name, fontsize=7)
    for axes in panels[len(rows) :]:
        axes.remove()
    figure.supxlabel("depth / number of blocks", fontsize=8)
    return figure


def draw_depth(axes: Axes, row: Row) -> None:
    """Draws the NormRatio of each run of a row."""
    for run in row.runs:
        ratio: Sequence[float] = list(run.metrics["norm_ratio"].values())
        depth = [(at + 1) / len(ratio) for at in range(len(ratio))]
        axes.plot(depth, ratio, color=GREY, lw=1.2)
        if run.metrics["selected_block"] in run.blocks:
            at = run.blocks.index(run.metrics["selected_block"])
            axes.plot([depth[at]], [ratio[at]], "o", ms=4.5, color=SELECTED, mew=0)
    axes.axhline(1, color=GREY, lw=0.8, ls=":")
    axes.set_xlim(0, 1.06)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.margins(y=0.2)
