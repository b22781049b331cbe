"""The base class of all loggers but the CSV file: a run survives the failure of any of them."""

__all__ = ["Dispensable", "Silent", "finish", "needs", "over_epochs"]

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.loggers.media import Media

log = logging.getLogger(__name__)
LONGEST = 300  # characters of an error message; those of a database hold whole statements
Target = TypeVar("Target", bound=Callable[..., Logger])


def needs(*packages: str, extra: str) -> Callable[[Target], Target]:
    """Declares what a logger, or a function that returns one, imports.

    A run whose configuration names the logger is refused at its start if a package is missing.

    Args:
        packages: Names of packages that this project does not depend on.
        extra: The extra of this project that installs them.
    """

    def declare(target: Target) -> Target:
        declared: Any = target
        declared.packages = dict.fromkeys(packages, extra)
        return target

    return declare


class Dispensable(Logger):
    """A logger that a run does not depend on: after its first error it is switched off.

    A subclass overrides what its backend can show of a finished run (`log_results`, `log_media`)
    or keep of it (`log_checkpoint`). It wraps each call of the backend in `attempt`.
    """

    failed = False

    @classmethod
    def finish(cls) -> None:
        """Ends what the backend keeps open in this process; the default has nothing to end."""

    def attempt(self, log_it: Callable[[], object]) -> None:
        """Calls `log_it` on the first process, unless the logger failed before."""
        if self.failed or rank_zero_only.rank > 0:  # type: ignore[attr-defined]
            return
        try:
            log_it()
        except Exception as error:
            self.failed = True
            message = " ".join(str(error).split())[:LONGEST]
            log.warning(
                "%s failed (%s: %s) and is switched off; the run continues, and metrics.csv and "
                "metrics.json hold all of its results",
                type(self).__name__, type(error).__name__, message,
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
        """Logs the results by which runs are compared.

        Args:
            scalars: `ood/<source>/<detector>/<metric>` -> fraction.
            facts: Facts about the run as a whole, such as the selected block; a value may be None.
            step: Number of training steps.
        """
        self.log_metrics(scalars, step)

    def log_media(self, media: Media, step: int) -> None:
        """Logs figures, tables, charts and images."""

    def log_checkpoint(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Stores the best checkpoint if the logger is configured to do so."""

    def save(self) -> None:
        """Writes what is still in memory."""
        self.attempt(super().save)

    def finalize(self, status: str = "success") -> None:
        """Ends the log."""
        finalize = super().finalize
        self.attempt(lambda: finalize(status))


class Silent(Dispensable):
    """The logger of all processes but the first: it logs nothing.

    Lightning's own dummy has every possible attribute, so OmegaConf mistakes it for a config.
    """

    name, version = None, None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs nothing."""


def over_epochs(
    metrics: Mapping[str, float], step: int | None
) -> tuple[dict[str, float], int | None]:
    """Returns the scalars and their x value: the epoch if Lightning logged one, else the step."""
    others = {key: metrics[key] for key in metrics if key != "epoch"}
    return others, int(metrics["epoch"]) if "epoch" in metrics else step


def finish() -> None:
    """Ends what all loggers keep open in this process, so that a sweep can start its next run."""
    for kind in Dispensable.__subclasses__():
        kind.finish()
