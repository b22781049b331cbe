"""The table of blocks and how clearly one was selected, from the files of a finished run."""

__all__ = [
    "Block",
    "BlockWeights",
    "Results",
    "Selection",
    "blocks_of",
    "chosen_of",
    "criterion_of",
    "selection_of",
    "weights_of",
]

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from src.records.columns import block_columns, chosen_column
from src.records.history import History
from src.records.selection import CRITERIA, margin, select

# detector -> OOD set, group of sets or "average" -> metric -> fraction
Results = Mapping[str, Mapping[str, Mapping[str, float]]]
# detector -> block, or "logits" -> input -> weight; None for an input that never varies
BlockWeights = Mapping[str, Mapping[str, Mapping[str, float | None]]]
MOST_WEIGHED = 3  # detectors whose weights are shown; metrics.json has all


class Block(NamedTuple):
    """A row of the table of blocks; None stands for what was not measured.

    Attributes:
        name: Path of the block in the network.
        norm_ratio: Its NormRatio.
        value: Its value of the criterion that selected, mostly NormRatio.
        error: Standard error of that value.
        results: Results of its FeatureNorm: OOD set, group or "average" -> metric -> fraction.
        is_selected: Whether the run selected the block.
        is_best: Whether its FeatureNorm has the largest average AUROC, known only in hindsight.
    """

    name: str
    norm_ratio: float | None
    value: float | None
    error: float | None
    results: Mapping[str, Mapping[str, float]] | None
    is_selected: bool
    is_best: bool

    @property
    def auroc(self) -> float:
        """Average AUROC of its FeatureNorm; NaN if it was not scored."""
        return self.results["average"]["auroc"] if self.results else float("nan")


class Selection(NamedTuple):
    """How clearly a block was selected; None stands for what was not measured.

    Attributes:
        criterion: How the criterion is written: "NormRatio", "paired T" or "AUROC".
        value: Its value of the selected block.
        second: The block with the next largest value.
        margin: Difference between these two values.
        is_tied: Whether that is within its standard error.
        epochs: The number of epochs (`all`), how many of them select the block (`of`), and the
            epoch since which every one does (`since`).
        bootstrap: Selections on bootstrap samples of the images; see `SelectionStability`.
        seeds: Selections with other seeds of the puzzles; see `SelectionStability`.
        best: The block with the largest average AUROC, known only in hindsight.
        gap: Difference between its average AUROC and that of the selected block.
    """

    criterion: str
    value: float
    second: str | None
    margin: float | None
    is_tied: bool
    epochs: Mapping[str, int | None] | None
    bootstrap: Mapping[str, Any] | None
    seeds: Sequence[Mapping[str, Any]]
    best: Block | None
    gap: float | None


def chosen_of(metrics: Mapping[str, Any]) -> str | None:
    """Returns the column that a report is about; None if the run has no detector."""
    return chosen_column(list(metrics["detectors"]), metrics["selected_block"])


def criterion_of(metrics: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """Returns how the criterion that selected is written, and its value of each block.

    It is NormRatio in a run of a version that knew no other.

    Args:
        metrics: The content of `metrics.json`.
    """
    selection = metrics.get("selection", {})
    name = selection.get("criterion", "norm_ratio")
    return CRITERIA.get(name, name), selection.get("value") or metrics["norm_ratio"]


def blocks_of(metrics: Mapping[str, Any]) -> list[Block]:
    """Returns the table of blocks by depth.

    Args:
        metrics: The content of `metrics.json`.
    """
    results: Results = metrics["detectors"]
    column, ratio = block_columns(results), metrics["norm_ratio"]
    _, value = criterion_of(metrics)
    bootstrap = metrics.get("selection_stability", {}).get("bootstrap")
    error = (bootstrap or metrics.get("selection", {})).get("standard_error", {})
    scored = {block: results[name] for block, name in column.items() if results[name]}
    auroc = {block: each["average"]["auroc"] for block, each in scored.items()}
    best = max(auroc, key=auroc.__getitem__, default=None)
    return [
        Block(
            name=block,
            norm_ratio=ratio.get(block),
            value=value.get(block),
            error=error.get(block),
            results=scored.get(block),
            is_selected=block == metrics["selected_block"],
            is_best=block == best,
        )
        for block in ratio or column
    ]


def weights_of(metrics: Mapping[str, Any]) -> BlockWeights:
    """Returns the weights of the first detectors that weigh blocks; a run may have none."""
    return dict(islice(metrics.get("block_weights", {}).items(), MOST_WEIGHED))


def selection_of(
    metrics: Mapping[str, Any], blocks: Sequence[Block], history: History | None
) -> Selection | None:
    """Returns how clearly the block was selected; None if none was.

    Args:
        metrics: The content of `metrics.json`.
        blocks: The table of blocks.
        history: NormRatio over the epochs, if it was measured.
    """
    (criterion, value), selected = criterion_of(metrics), metrics["selected_block"]
    if selected not in metrics["norm_ratio"]:
        return None
    others = [block for block in value if block != selected]
    lead = float(margin(list(value.values()), list(value).index(selected)))
    stability = metrics.get("selection_stability", {})
    chosen = next(block for block in blocks if block.is_selected)
    best = next((block for block in blocks if block.is_best and chosen.results), None)
    return Selection(
        criterion=criterion,
        value=value[selected],
        second=others[int(select([value[block] for block in others]))] if others else None,
        margin=lead if others else None,
        is_tied=bool(metrics.get("selection", {}).get("tied")),
        epochs=epochs_of(history, selected) if history else None,
        bootstrap=stability.get("bootstrap"),
        seeds=stability.get("seeds", []),
        best=best,
        gap=best.auroc - chosen.auroc if best else None,
    )


def epochs_of(history: History, selected: str) -> dict[str, int | None]:
    """Returns how many of all epochs select a block, and since when every one does."""
    chosen = [history.block[position] for position in history.selected]
    since = None
    for epoch, block in zip(history.epoch[::-1], chosen[::-1], strict=True):
        if block != selected:
            break
        since = epoch
    return {"all": len(chosen), "of": chosen.count(selected), "since": since}
