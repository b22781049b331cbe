"""Names of the columns of a score table: `detector`, or `detector@block`."""

__all__ = ["FEATURE_NORM", "Column", "block_columns", "chosen_column", "detector_columns"]

from collections.abc import Iterable, Sequence
from typing import NamedTuple

FEATURE_NORM = "featurenorm"
MARK = "@"


class Column(NamedTuple):
    """A detector, and the block that it reads if the name of the column holds one."""

    detector: str
    block: str | None = None

    @classmethod
    def parse(cls, name: str) -> "Column":
        """Returns the parts of a column's name; the first `@` separates them."""
        detector, mark, block = name.partition(MARK)
        return cls(detector, block if mark else None)

    @property
    def name(self) -> str:
        """The name of the column."""
        return self.detector if self.block is None else f"{self.detector}{MARK}{self.block}"


def detector_columns(names: Iterable[str]) -> list[str]:
    """Returns the columns whose names hold no block."""
    return [name for name in names if Column.parse(name).block is None]


def block_columns(names: Iterable[str], detector: str = FEATURE_NORM) -> dict[str, str]:
    """Returns block -> name of the column of the detector at that block."""
    columns = ((name, Column.parse(name)) for name in names)
    return {c.block: name for name, c in columns if c.detector == detector and c.block is not None}


def chosen_column(names: Sequence[str], selected_block: str | None) -> str | None:
    """Returns FeatureNorm at the selected block, else the first column; None if there is none."""
    wanted: list[str] = []
    if selected_block is not None:
        wanted = [FEATURE_NORM, Column(FEATURE_NORM, selected_block).name]
    return next((name for name in (*wanted, *names) if name in names), None)
