"""The CSV file of every run: whole at any moment, and gone on with by a resumed run."""

__all__ = ["CSVLogger"]

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from src.records.atomic import try_to_write


class CSVLogger(LightningCSVLogger):
    """Lightning's logger with a file that is whole at any moment, and gone on with if there."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The rows; on the processes beside the first it is a dummy."""
        if self._experiment is None:
            self._experiment = Rows(  # type: ignore[assignment]
                Path(self.log_dir) / "metrics.csv"
            )
        return self._experiment


class Rows:
    """The rows of a CSV file whose columns may grow, in memory until the disk has taken them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics: list[dict[str, Any]] = []  # not written yet
        self.earlier: list[dict[str, Any]] = []  # of the run that was cut off
        self.written: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.earlier = list(csv.DictReader(file))

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Adds a row; the first one replaces what the run that was cut off had from there on."""
        if self.earlier:
            self.written = [row for row in self.earlier if int(row["step"]) < step]
            self.earlier = []
        row = {key: getattr(value, "item", lambda v=value: v)() for key, value in metrics.items()}
        self.metrics.append(row | {"step": step})

    def save(self) -> None:
        """Writes all rows, or keeps those that are new if there is no room."""
        rows = [*self.written, *self.metrics]
        if self.metrics and try_to_write(self.path, lambda partial: write_rows(partial, rows)):
            self.written, self.metrics = rows, []


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file with a column for each key of any row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted(set().union(*rows)))
        writer.writeheader()
        writer.writerows(rows)
