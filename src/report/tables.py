"""Tables for the terminal: detectors, blocks and the selection of a block."""

__all__ = ["block_list", "block_table", "result_table", "selection_table"]

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from src.network import Network
from src.records.columns import detector_columns
from src.report.blocks import blocks_of, criterion_of
from src.report.results import METRICS


class Fitting:
    """The first of some tables that is not too wide for what it is printed on, or the last."""

    def __init__(self, *tables: Table) -> None:
        self.tables = tables

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the table."""
        free = options.update(width=sys.maxsize)
        for table in self.tables:
            if Measurement.get(console, free, table).maximum <= options.max_width:
                yield table
                return
        yield self.tables[-1]


def result_table(metrics: Mapping[str, Any]) -> Table | Fitting:
    """Returns one row per detector: AUROC, and below it FPR95 in both conventions, in percent.

    Where the OOD sets do not fit beside their groups, only the groups are shown. Without an OOD
    set it returns the accuracy on the ID images.
    """
    if len(metrics["counts"]) == 1:
        return accuracy_table(metrics)
    sets, groups = list(metrics["counts"])[1:], metrics.get("data", {}).get("groups", {})
    every = detector_table(metrics, [*sets, *groups, "average"])
    return Fitting(every, detector_table(metrics, [*groups, "average"])) if groups else every


def detector_table(metrics: Mapping[str, Any], columns: Sequence[str]) -> Table:
    """Returns the results of each detector on some OOD sets and groups."""
    results = metrics["detectors"]
    caption = "AUROC over FPR95 (ID / OOD positive), %"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), caption=caption)
    table.add_column("detector", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for name in detector_columns(results):
        table.add_row(name, *(cell(results[name][column]) for column in columns))
    return table


def accuracy_table(metrics: Mapping[str, Any]) -> Table:
    """Returns the number of ID images and the accuracy on them, in percent."""
    table = Table("ID images", box=SIMPLE_HEAD, pad_edge=False, caption="no OOD set")
    table.add_column("accuracy, %", justify="right")
    accuracy = metrics["id_accuracy"]
    shown = "" if accuracy is None else f"{100 * accuracy:.1f}"
    table.add_row(str(metrics["counts"]["id"]), shown)
    return table


def cell(row: Mapping[str, float]) -> Text:
    """Returns AUROC and, on the next line, both FPR95."""
    auroc, fpr_id, fpr_ood = (100 * row[key] for key in METRICS[:3])
    return Text.assemble((f"{auroc:.1f}", "bold"), (f"\n{fpr_id:.1f}/{fpr_ood:.1f}", "dim"))


def block_table(metrics: Mapping[str, Any]) -> Table:
    """Returns one row per block: NormRatio, and the results of its FeatureNorm in percent."""
    if len(metrics["counts"]) == 1:
        selected = metrics["selected_block"]
        return selection_table(metrics["norm_ratio"], selected, *criterion_of(metrics))
    criterion, _ = criterion_of(metrics)
    measured = dict.fromkeys(("NormRatio", criterion))
    table = Table(
        box=SIMPLE_HEAD, caption="FeatureNorm of each block: mean over the OOD sets, percent"
    )
    for column in ("block", *measured, "AUROC", "FPR95 (ID pos.)", "FPR95 (OOD pos.)"):
        table.add_column(column, justify="left" if column == "block" else "right")
    for block in blocks_of(metrics):
        if block.results:
            average = block.results["average"]
            table.add_row(
                f"{block.name} (selected)" if block.is_selected else block.name,
                *(
                    "" if each is None else f"{each:.4f}"
                    for each in (block.norm_ratio, block.value)[: len(measured)]
                ),
                *(f"{100 * average[key]:.1f}" for key in METRICS[:3]),
                style="bold" if block.is_selected else None,
            )
    return table


def selection_table(
    norm_ratio: Mapping[str, float],
    selected_block: str | None,
    criterion: str = "NormRatio",
    value: Mapping[str, float] | None = None,
) -> Table:
    """Returns one row per block: NormRatio, and the criterion that selected if it is another."""
    columns = {"NormRatio": norm_ratio} | ({} if value is None else {criterion: value})
    table = Table("block", box=SIMPLE_HEAD, caption=f"{' and '.join(columns)} of each block")
    for name in columns:
        table.add_column(name, justify="right")
    for block in norm_ratio:
        selected = block == selected_block
        name = f"{block} (selected)" if selected else block
        values = (f"{each[block]:.4f}" for each in columns.values())
        table.add_row(name, *values, style="bold" if selected else None)
    return table


def block_list(network: Network) -> Table:
    """Returns one row per block: path, class, (C, H, W) shape of its map, stride and layout."""
    table = Table(box=None, pad_edge=False)
    for column in ("block", "class", "shape", "stride", "layout"):
        table.add_column(column, justify="right" if column == "stride" else "left")
    for path, place in network.places.items():
        layout = place.layout.replace("_", " ")
        if place.class_tokens:
            noun = "class token" if place.class_tokens == 1 else "class tokens"
            layout += f", {place.class_tokens} {noun} left out"
        if place.overwritten:
            layout += ", overwritten in place"
        shape = " x ".join(map(str, place.shape))
        kind = type(network.net.get_submodule(path)).__name__
        table.add_row(path, kind, shape, str(place.stride), layout)
    return table
