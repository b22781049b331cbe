"""The end of a sweep: what its runs amount to."""

__all__ = ["CompareRuns"]

import atexit
import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CompareRuns(Callback):
    """Prints the comparison of a sweep's runs, and leaves it in the sweep's directory.

    Hydra raises the error of a job that died when the others are done, and then does not tell its
    callbacks of the end. Therefore the comparison is made when the process ends, whatever ended
    it, unless it was made before.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes where the runs will be."""
        if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
            self.folder = Path(config.hydra.sweep.dir).absolute()
            atexit.register(self.compare)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Compares the runs."""
        if hasattr(self, "folder"):
            atexit.unregister(self.compare)
            self.compare()

    def compare(self) -> None:
        """Prints tables and writes `comparison.*`; nothing if no run has finished."""
        from src.compare.output import show, write
        from src.compare.rows import compare
        from src.compare.runs import find_runs
        from src.records.console import say

        if not self.folder.exists():
            return
        try:
            found = compare(*find_runs([self.folder]))
        except ValueError:  # none has
            return
        write(self.folder, found)
        show(found)
        say(f"comparison.csv, .md, .tex and .html in {self.folder}")
