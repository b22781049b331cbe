"""Weights & Biases that never blocks: online where it can be, else offline and synced later."""

__all__ = ["CSVLogger", "Dispensable", "finish_wandb", "wandb_logger"]

import csv
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from requests.utils import get_netrc_auth

from src.atomic import try_to_write

if TYPE_CHECKING:
    import wandb
    from wandb.sdk.wandb_run import Run

log = logging.getLogger(__name__)


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


class Dispensable(Logger):
    """A logger whose loss a run outlives: the first error is said, and then it is left alone."""

    lost = False

    def attempt(self, log_it: Callable[[], object]) -> None:
        """Calls `log_it`, unless the logger is lost by now."""
        if self.lost:
            return
        try:
            log_it()
        except Exception as error:
            self.lost = True
            log.warning(
                "%s is lost (%s: %s); the run goes on, and metrics.csv and metrics.json have all",
                type(self).__name__, type(error).__name__, error,
            )  # fmt: skip

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scalars."""
        log_them = super().log_metrics  # type: ignore[safe-super]
        self.attempt(lambda: log_them(dict(metrics), step))

    def save(self) -> None:
        """Writes what is not written yet."""
        self.attempt(super().save)

    def finalize(self, status: str) -> None:
        """Ends the log."""
        finalize = super().finalize
        self.attempt(lambda: finalize(status))


class WandbLogger(Dispensable, LightningWandbLogger):
    """Lightning's logger of Weights & Biases."""


def finish_wandb() -> None:
    """Ends the run of W&B, if there is one, so that the next job of a sweep starts its own."""
    if wandb := sys.modules.get("wandb"):
        with suppress(OSError, wandb.Error):  # it was lost before, which was said
            wandb.finish()


def wandb_logger(
    *,
    project: str,
    save_dir: str,
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    mode: str | None = None,
    init_timeout: float = 20,
    finish_timeout: float = 120,
    id_file: str | None = None,
    **options: Any,
) -> WandbLogger:
    """Returns a Lightning logger around a W&B run that neither waits for a person nor a server.

    The mode is the given one, else `WANDB_MODE` or W&B's own settings, else online. Online
    becomes offline, with one log line that says how to sync, if there is no key or no answer.

    Args:
        project: W&B project.
        save_dir: directory that receives `wandb/`; made if it is not there.
        name: name of the run; W&B invents one if not given.
        group: runs of one sweep share it.
        tags: labels of the run, such as network and data set.
        mode: `online`, `offline` or `disabled`.
        init_timeout: seconds to wait for the server before going offline.
        finish_timeout: seconds to wait at the end for what is not uploaded yet. What is left
            stays on the disk: `wandb sync`.
        id_file: keeps the id of the run, so that a run that was cut off goes on as the same one.
        options: further arguments of `wandb.init`, such as `job_type` or `entity`.
    """
    identity: dict[str, Any] = {"project": project, "name": name, "save_dir": save_dir}
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return WandbLogger(**identity)  # Lightning gives it a dummy run on these ranks
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    options |= {"project": project, "dir": save_dir, "name": name, "group": group, "tags": tags}
    if id_file is not None and Path(id_file).exists():
        options["id"] = Path(id_file).read_text()
    timeouts = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
    run = start_run(mode, timeouts, options)
    if id_file is not None and not run.disabled:
        try_to_write(Path(id_file), lambda path: path.write_text(run.id))
    run.define_metric("trainer/global_step")  # Lightning does so only for a run of its own
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    run.define_metric("epoch", hidden=True)
    for metric in ("norm_ratio/*", "selected_block", "norm_ratio_margin"):
        run.define_metric(metric, step_metric="epoch")
    return WandbLogger(experiment=run, **identity)


def has_key(settings: "wandb.Settings") -> bool:
    """Looks where W&B itself would (environment, settings, netrc) but never asks a person."""
    known = settings.api_key or settings.identity_token_file
    return bool(known or get_netrc_auth(settings.base_url))


def start_run(mode: Any, timeouts: dict[str, Any], options: dict[str, Any]) -> "Run":
    """Returns a run in the given mode, or offline if it can only be had by waiting."""
    import wandb

    settings = wandb.setup().settings
    mode = mode or os.environ.get("WANDB_MODE") or settings.mode
    patience = wandb.Settings(**timeouts)
    reason = "no API key found"
    try:
        if mode != "online" or has_key(settings):
            # offline runs of one id meet when they are synced
            resume: Literal["allow"] | None = "allow" if mode == "online" else None
            return wandb.init(mode=mode, settings=patience, resume=resume, **options)
    except (wandb.Error, TimeoutError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    run = wandb.init(mode="offline", settings=wandb.Settings(silent=True), **options)
    log.warning("W&B is offline (%s); later: wandb sync %s", reason, Path(run.dir).parent)
    return run
