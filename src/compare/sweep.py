"""The comparison at the end of a sweep."""

__all__ = ["CompareRuns"]

import atexit
import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CompareRuns(Callback):
    """Prints a comparison of the runs of a sweep and saves it in the directory of the sweep.

    If a job failed, Hydra raises its error after the last job and skips `on_multirun_end`. The
    comparison is therefore also registered to run when the process exits.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remembers the directory of the sweep."""
        if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
            self.folder = Path(config.hydra.sweep.dir).absolute()
            atexit.register(self.compare)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Compares the runs."""
        if hasattr(self, "folder"):
            atexit.unregister(self.compare)
            self.compare()

    def compare(self) -> None:
        """Prints the tables and writes `comparison.*`, if at least one run has finished."""
        from src.compare.output import show, write
        from src.compare.rows import compare
        from src.compare.runs import find_runs
        from src.records.console import say

        if not self.folder.exists():
            return
        try:
            found = compare(*find_runs([self.folder]))
        except ValueError:  # no run has finished
            return
        write(self.folder, found)
        show(found)
        say(f"wrote comparison.csv, .md, .tex and .html to {self.folder}")
