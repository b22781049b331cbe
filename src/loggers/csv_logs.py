"""The CSV file of every run: complete at any moment, and continued by a resumed run."""

__all__ = ["CSVLogger"]

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from src.records.atomic import try_to_write

log = logging.getLogger(__name__)


class CSVLogger(LightningCSVLogger):
    """Lightning's logger with a file that is complete at any moment and continued if it exists."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The rows of the file; a dummy on all processes but the first."""
        if self._experiment is None:
            self._experiment = Rows(  # type: ignore[assignment]
                Path(self.log_dir) / "metrics.csv"
            )
        return self._experiment


class Rows:
    """The rows of a CSV file; new columns may appear, and rows stay in memory until written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics: list[dict[str, Any]] = []  # not written yet
        self.earlier: list[dict[str, Any]] = []  # of the interrupted run
        self.written: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="", errors="replace") as file:
                rows = list(csv.DictReader(file))
            self.earlier = [row for row in rows if is_whole(row)]
            if self.earlier != rows:
                log.warning("%s is damaged; it goes on with the rows that are whole", path)

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Adds a row; the first one replaces all rows of an interrupted run from its step on."""
        if self.earlier:
            self.written = [row for row in self.earlier if int(row["step"]) < step]
            self.earlier = []
        row = {key: getattr(value, "item", lambda v=value: v)() for key, value in metrics.items()}
        self.metrics.append(row | {"step": step})

    def save(self) -> None:
        """Writes all rows; if the disk is full, the new ones are kept in memory."""
        rows = [*self.written, *self.metrics]
        if self.metrics and try_to_write(self.path, lambda partial: write_rows(partial, rows)):
            self.written, self.metrics = rows, []


def is_whole(row: Mapping[Any, Any]) -> bool:
    """Whether a row has a step, and a value or an empty cell in each column."""
    return None not in row and None not in row.values() and str(row.get("step", "")).isdecimal()


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file with one column for each key that occurs in a row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted(set().union(*rows)))
        writer.writeheader()
        writer.writerows(rows)
