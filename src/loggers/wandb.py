"""Weights & Biases that never blocks: online if possible, else offline and synced later."""

__all__ = ["WandbLogger", "wandb_logger"]

import csv
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from requests.utils import get_netrc_auth

from src.loggers.base import Dispensable
from src.loggers.media import Lines, Media
from src.records.atomic import try_to_write
from src.records.literal import from_csv_cell
from src.records.selection import CRITERIA

if TYPE_CHECKING:
    import wandb
    from wandb.plot import CustomChart
    from wandb.sdk.wandb_run import Run

log = logging.getLogger(__name__)
OVER_EPOCHS = (
    *("train/*", "val/*", "norm_id/*", "norm_pseudo_ood/*", "standard_error/*", "selected_block"),
    "norm_profile/*",
    *(name + end for name in CRITERIA for end in ("/*", "_margin")),
)
SILENT = "WANDB_ERROR_REPORTING", "false"  # else an offline run, too, reports to a server


class WandbLogger(Dispensable, LightningWandbLogger):
    """Lightning's W&B logger.

    Dots in names become underscores (`norm_ratio/layer4_1`), because W&B cannot sort or filter
    by names with dots.
    """

    keeps_checkpoint = False

    @classmethod
    def finish(cls) -> None:
        """Ends the W&B run of this process, if there is one."""
        if wandb := sys.modules.get("wandb"):
            with suppress(OSError, wandb.Error):  # of a logger that failed before
                wandb.finish()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scalars."""
        super().log_metrics({key.replace(".", "_"): metrics[key] for key in metrics}, step)

    def log_results(
        self, scalars: Mapping[str, float], facts: Mapping[str, Any], step: int
    ) -> None:
        """Fills the summary: columns of the table of runs instead of a panel for each number."""
        self.attempt(lambda: self.experiment.summary.update({**scalars, **facts}))

    def log_media(self, media: Media, step: int) -> None:
        """Logs figures, tables, charts and images; W&B draws the charts."""
        self.attempt(lambda: self.experiment.log(payload(media)))

    def log_checkpoint(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Logs the checkpoint as the artifact `model-<run id>`."""
        if self.keeps_checkpoint:
            self.attempt(lambda: self._log_model_file(path, metadata))

    def _log_model_file(self, path: Path, metadata: Mapping[str, Any]) -> None:
        import wandb

        artifact = wandb.Artifact(f"model-{self.version}", type="model", metadata={**metadata})
        artifact.add_file(str(path), name=path.name)
        self.experiment.log_artifact(artifact, aliases=["best"])


def payload(media: Media) -> dict[str, Any]:
    """Returns the media as an argument of `wandb.log`."""
    import wandb

    logged: dict[str, Any] = {}
    for name, path in media.figures.items():
        logged[name] = wandb.Image(str(path))
    for name, path in media.tables.items():
        logged[name] = csv_table(path)
    for name, lines in media.lines.items():
        logged[name] = chart(lines)
    for name, histograms in media.histograms.items():
        logged[name] = chart(histograms.density())
        for source, count in histograms.counts.items():
            binned = (count.tolist(), histograms.edges.tolist())
            logged[f"{name}/{source}"] = wandb.Histogram(np_histogram=binned)
    for name, images in media.images.items():
        logged[name] = [wandb.Image(image, caption=caption) for image, caption in images]
    if media.confusion is not None:
        logged["confusion"] = confusion_chart(*media.confusion)
    return logged


def csv_table(path: Path) -> "wandb.Table":
    """Returns a CSV file as a `wandb.Table`, with columns of numbers as numbers."""
    import wandb

    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = [numbers(column) for column in zip(*rows, strict=True)]
    return wandb.Table(columns=[*header], data=[[*row] for row in zip(*columns, strict=True)])


def numbers(column: Sequence[str]) -> Sequence[float | str]:
    """Returns the cells of a column as numbers if all of them are, else as they are."""
    try:
        return [float(cell) for cell in column]
    except ValueError:
        return [from_csv_cell(cell) for cell in column]


def chart(lines: Lines) -> "CustomChart":
    """Returns lines as W&B's own chart, which can overlay several runs."""
    import wandb

    return wandb.plot.line_series(
        xs=[*lines.x],
        ys=[*lines.y.values()],
        keys=[*lines.y],
        title=lines.title,
        xname=lines.x_name,
    )


def confusion_chart(count: NDArray[np.int64], classes: Sequence[str]) -> "CustomChart":
    """Returns W&B's chart of (K, K) counts; W&B's own function takes labels instead of counts."""
    import wandb

    columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    pairs = product(range(len(classes)), repeat=2)
    rows = [[classes[a], classes[b], int(count[a, b])] for a, b in pairs]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=columns, data=rows),
        fields={str(name): name for name in columns},
        string_fields={"title": "confusion of ID classes"},
    )


def wandb_logger(
    *,
    project: str,
    save_dir: str,
    name: str | None = None,
    group: str | None = None,
    tags: Any = (),
    mode: str | None = None,
    init_timeout: float = 20,
    finish_timeout: float = 120,
    id_file: str | None = None,
    log_checkpoint: bool = False,
    **options: Any,
) -> WandbLogger:
    """Returns a logger for a W&B run that never waits for user input or long for a server.

    Without an API key, or if the server does not answer, an online run becomes an offline one;
    a log line then tells how to upload it later. An offline run looks up no name and connects to
    nothing: W&B's reports of its own errors are off unless `WANDB_ERROR_REPORTING` is set.

    Args:
        project: W&B project.
        save_dir: Directory that receives `wandb/`; created if it does not exist.
        name: Name of the run; W&B invents one by default.
        group: Name that the runs of a sweep share.
        tags: Labels of the run, such as network and data set; a single word is one label.
        mode: `online`, `offline` or `disabled`; by default `WANDB_MODE` or W&B's own settings.
        init_timeout: Seconds to wait for the server before going offline.
        finish_timeout: Seconds to wait for uploads at the end of the run. `wandb sync` uploads
            the remaining files later.
        id_file: File that keeps the id of the run, so that a resumed run continues it.
        log_checkpoint: Whether to upload the best checkpoint as an artifact.
        options: Further arguments of `wandb.init`, such as `job_type` or `entity`.
    """
    identity: dict[str, Any] = {"project": project, "name": name, "save_dir": save_dir}
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return WandbLogger(**identity)  # on these processes Lightning gives it a dummy run
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    options |= {"project": project, "dir": save_dir, "name": name, "group": group}
    options["tags"] = labels(tags)
    if id_file is not None and Path(id_file).exists():
        options["id"] = Path(id_file).read_text()
    timeouts = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
    run = start_run(mode, timeouts, options)
    if id_file is not None and not run.disabled:
        try_to_write(Path(id_file), lambda path: path.write_text(run.id))
    run.define_metric("trainer/global_step")  # Lightning does this only for runs that it starts
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    run.define_metric("epoch", hidden=True)
    for metric in OVER_EPOCHS:
        run.define_metric(metric, step_metric="epoch")
    logger = WandbLogger(experiment=run, **identity)
    logger.keeps_checkpoint = log_checkpoint
    return logger


def labels(tags: Any) -> list[str]:
    """Returns the labels that are given as a list, as a single word or number, or not at all."""
    several = isinstance(tags, Sequence) and not isinstance(tags, str)
    return [str(tag) for tag in (tags if several else [tags]) if tag is not None]


def has_key(settings: "wandb.Settings") -> bool:
    """Returns whether W&B would find a key: in the environment, its settings or netrc."""
    known = settings.api_key or settings.identity_token_file
    return bool(known or get_netrc_auth(settings.base_url))


def start_run(mode: Any, timeouts: dict[str, Any], options: dict[str, Any]) -> "Run":
    """Returns a run in the given mode, or offline if that mode would block."""
    os.environ.setdefault(*SILENT)
    import wandb

    settings = wandb.setup().settings
    mode = mode or os.environ.get("WANDB_MODE") or settings.mode
    patience = wandb.Settings(**timeouts)
    reason = "no API key found"
    try:
        if mode != "online" or has_key(settings):
            # `wandb sync` puts offline runs of the same id one after the other
            resume: Literal["allow"] | None = "allow" if mode == "online" else None
            return wandb.init(mode=mode, settings=patience, resume=resume, **options)
    except (wandb.Error, TimeoutError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    run = wandb.init(mode="offline", settings=wandb.Settings(silent=True), **options)
    log.warning("W&B is offline (%s); to upload: wandb sync %s", reason, Path(run.dir).parent)
    return run
