"""The files that a selection leaves in a run directory: `norm_ratio.csv` and its stability."""

__all__ = ["History", "HistoryWriter", "read_history", "read_stability", "write_stability"]

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.records.atomic import try_to_write
from src.records.literal import csv_cell, from_csv_cell
from src.records.run_files import read_bytes, refusal

HISTORY = "norm_ratio.csv"
STABILITY = "selection_stability.json"
MEANS = ("norm_id", "norm_pseudo_ood", "ratio")
COLUMNS = ("epoch", "block", "depth", *MEANS, "selected")
Array = NDArray[np.float64]


class History(NamedTuple):
    """NormRatio of L blocks, by depth, over E epochs."""

    file: Path
    epoch: list[int]
    block: list[str]
    norm_id: Array  # (E, L) mean FeatureNorm of ID images
    norm_pseudo_ood: Array  # (E, L) mean FeatureNorm of pseudo-OOD images
    ratio: Array  # (E, L)
    selected: NDArray[np.intp]  # (E,) position of the selected block, from 0


def read_history(place: Path) -> History | None:
    """Returns the NormRatio history of a run, or None if it has none.

    An epoch that a resumed run repeated counts once.

    Args:
        place: Run directory, or the CSV file itself.

    Raises:
        ValueError: If the file is damaged.
    """
    file = place / HISTORY if place.is_dir() else place
    if not file.is_file():
        return None
    raw = read_bytes(file)
    try:
        return _history(file, raw.decode())
    except (csv.Error, IndexError, KeyError, TypeError, ValueError) as error:
        form = f"is damaged ({type(error).__name__}: {error}); restore or remove it"
        raise refusal(f"the {HISTORY} of a run", file, form) from None


def _history(file: Path, content: str) -> History:
    """Returns the history in the content of a file: the same blocks in each epoch."""
    lines = csv.DictReader(StringIO(content, newline=""))
    rows = {(int(row["epoch"]), int(row["depth"])): row for row in lines}
    epoch, depth = (sorted({key[axis] for key in rows}) for axis in (0, 1))
    if len(epoch) * len(depth) != len(rows):
        raise ValueError("an epoch lacks a block")

    def values(name: str) -> Array:
        found = np.array([[float(rows[e, d][name]) for d in depth] for e in epoch])
        if not np.isfinite(found).all():
            raise ValueError(f"a {name} is not finite")
        return found

    block = [from_csv_cell(rows[epoch[-1], d]["block"]) for d in depth]
    norm_id, norm_pseudo_ood, ratio = map(values, MEANS)
    selected = values("selected").argmax(axis=1)
    return History(file, epoch, block, norm_id, norm_pseudo_ood, ratio, selected)


class HistoryWriter:
    """Writes `norm_ratio.csv`, which gains one row per block in each epoch.

    Args:
        run_dir: Run directory; the rows that an interrupted run left there are kept.
    """

    def __init__(self, run_dir: Path) -> None:
        self.file = run_dir / HISTORY
        self._rows: list[list[str]] = []
        if self.file.exists():
            with self.file.open(newline="", encoding="utf-8") as stream:
                self._rows = list(csv.reader(stream))[1:]

    def add(
        self, epoch: int, blocks: Sequence[str], mean: Mapping[str, Sequence[float]], selected: str
    ) -> None:
        """Writes one more epoch, in place of what an interrupted run left of it and later ones.

        Args:
            epoch: Number of the epoch, from 0.
            blocks: Names of the L blocks, by depth.
            mean: (L,) values of each of `norm_id`, `norm_pseudo_ood` and `ratio`.
            selected: Name of the selected block.
        """
        self._rows = [row for row in self._rows if int(row[0]) < epoch]
        for position, block in enumerate(blocks):
            means = [mean[name][position] for name in MEANS]
            row = [epoch, csv_cell(block), position + 1, *means, int(block == selected)]
            self._rows.append([str(value) for value in row])
        try_to_write(self.file, self._write)

    def _write(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([COLUMNS, *self._rows])


def write_stability(run_dir: Path, stability: Mapping[str, Any]) -> None:
    """Writes how stable the selection of the last epoch is."""
    text = json.dumps(stability, indent=2) + "\n"
    try_to_write(run_dir / STABILITY, lambda path: path.write_text(text))


def read_stability(run_dir: Path) -> dict[str, Any]:
    """Returns how stable the selection of a run is; empty if that was not measured."""
    file = run_dir / STABILITY
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
