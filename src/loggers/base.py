"""What every logger beside the CSV file can be told, and that a run outlives any of them."""

__all__ = ["Dispensable", "Silent", "over_epochs"]

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from src.loggers.media import Media

log = logging.getLogger(__name__)
LONGEST = 300  # characters of an error; those of a database print its statements


class Dispensable(Logger):
    """A logger whose loss a run outlives: the first error is said, and then it is left alone.

    A backend adds what it can show of a finished run (`log_results`, `log_media`) and keep of it
    (`log_checkpoint`); what it cannot, it leaves out.
    """

    lost = False

    def attempt(self, log_it: Callable[[], object]) -> None:
        """Calls `log_it`, unless the logger is lost by now."""
        if self.lost:
            return
        try:
            log_it()
        except Exception as error:
            self.lost = True
            said = " ".join(str(error).split())[:LONGEST]
            log.warning(
                "%s is lost (%s: %s); the run goes on, and metrics.csv and metrics.json have all",
                type(self).__name__, type(error).__name__, said,
            )  # fmt: skip

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the configuration."""
        log_them = super().log_hyperparams  # type: ignore[safe-super]
        self.attempt(lambda: log_them(params, *args, **kwargs))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scalars."""
        log_them = super().log_metrics  # type: ignore[safe-super]
        self.attempt(lambda: log_them(dict(metrics), step))

    def log_results(
        self, scalars: Mapping[str, float], facts: Mapping[str, Any], step: int
    ) -> None:
        """Logs what a finished run is compared by.

        Args:
            scalars: `ood/<source>/<detector>/<metric>`.
            facts: what is said once of a run, such as the selected block; may be None.
            step: where the scalars stand.
        """
        self.log_metrics(scalars, step)

    def log_media(self, media: Media, step: int) -> None:
        """Shows what there is to see of a finished run."""

    def log_checkpoint(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Keeps a copy of the best checkpoint, if the logger is configured to."""

    def save(self) -> None:
        """Writes what is not written yet."""
        self.attempt(super().save)

    def finalize(self, status: str = "success") -> None:
        """Ends the log."""
        finalize = super().finalize
        self.attempt(lambda: finalize(status))


class Silent(Dispensable):
    """The logger of the processes beside the first.

    Lightning's own dummy has every attribute there is, by which OmegaConf takes it for a config.
    """

    name, version = None, None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs nothing."""


def over_epochs(
    metrics: Mapping[str, float], step: int | None
) -> tuple[dict[str, float], int | None]:
    """Returns the scalars and their x: the epoch where Lightning gave them one, else the step."""
    others = {key: metrics[key] for key in metrics if key != "epoch"}
    return others, int(metrics["epoch"]) if "epoch" in metrics else step
