"""The CSV file of every run: complete at any moment, and continued by a resumed run."""

__all__ = ["CSVLogger"]

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from src.records.atomic import try_to_write


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
            with path.open(newline="") as file:
                self.earlier = list(csv.DictReader(file))

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


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file with one column for each key that occurs in a row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted(set().union(*rows)))
        writer.writeheader()
        writer.writerows(rows)
