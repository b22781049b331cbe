"""The figure of what each block weighs in a detector that weighs them."""

__all__ = ["block_weights"]

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.records.palette import COLORS, GREY, SELECTED, STYLE
from src.report.evidence import Evidence

Color = str | tuple[float, ...]


@rc_context(STYLE)
def block_weights(evidence: Evidence) -> Figure:
    """Returns the weights of each block, a panel for each detector, above NormRatio if known."""
    ratio = {b.name: b.norm_ratio for b in evidence.blocks if b.norm_ratio is not None}
    weighed = [place for weights in evidence.weights.values() for place in weights]
    place = sorted(dict.fromkeys([*ratio, *weighed]), key="logits".__eq__)  # blocks come first
    heights = [2.0] * len(evidence.weights) + [1.3] * bool(ratio)
    figure = Figure(figsize=(max(6, 0.25 * len(place)), sum(heights) + 0.8))
    panels = figure.subplots(
        len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    inputs = [key for w in evidence.weights.values() for each in w.values() for key in each]
    color = dict(zip(dict.fromkeys(inputs), COLORS, strict=False))
    for axes, (name, weights) in zip(panels, evidence.weights.items(), strict=False):
        draw_weights(axes, weights, place, color)
        axes.set_title(f"{name}: weights of the standardised inputs")
    if ratio:
        panels[-1].plot(range(len(ratio)), [*ratio.values()], color=GREY, marker="o", ms=3)
        panels[-1].axhline(1, color=GREY, lw=0.8, ls=":")
        panels[-1].set_ylabel("NormRatio")
    for at, block in enumerate(evidence.blocks):
        if block.is_selected and ratio:
            panels[-1].set_title(f"selected block: {block.name}")
            for axes in panels:
                axes.axvspan(at - 0.5, at + 0.5, color=SELECTED, alpha=0.15, lw=0, zorder=0)
    panels[-1].set_xticks(range(len(place)), place, rotation=45, ha="right")
    panels[-1].set_xlim(-0.6, len(place) - 0.4)
    keys: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        keys |= zip(labels, handles, strict=True)
    figure.legend(keys.values(), keys, loc="outside right upper")
    figure.align_ylabels()
    return figure


def draw_weights(
    axes: Axes,
    weights: Mapping[str, Mapping[str, float | None]],
    place: Sequence[str],
    color: Mapping[str, Color],
) -> None:
    """Draws the weights of a detector as bars; a cross marks an input that never varies."""
    width = 0.8 / max(map(len, weights.values()))
    for name in dict.fromkeys(key for each in weights.values() for key in each):
        bars = [
            (place.index(block) + width * ([*each].index(name) - (len(each) - 1) / 2), each[name])
            for block, each in weights.items()
            if name in each
        ]
        x, y = zip(*bars, strict=True)
        axes.bar(x, [value or 0 for value in y], width, color=color[name], label=name)
        silent = [at for at, value in bars if value is None]
        label = "never varies" if silent else None
        axes.plot(silent, [0] * len(silent), "x", ms=4, color="black", label=label)
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_ylabel("weight (> 0: ID)")
