"""A run while it lasts: opened when its images are there, told to the loggers, reported."""

__all__ = ["Opening", "after_fit", "check_saved", "report"]

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, cast

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict

from src.benchmark import Benchmark
from src.data import ImageData
from src.loggers import Dispensable
from src.records.console import show
from src.records.git_state import git_state
from src.report.media import log_selection
from src.report.results import FinishedRun, write_report
from src.report.tables import block_table, result_table
from src.run.checkpoint import AtomicCheckpoints
from src.run.configuration import network_name, run_name, sweep
from src.run.directory import open_run


class Opening(L.Callback):
    """Opens the run when its images are decoded: what was refused until then leaves no file.

    Lightning sets the data up before it sets the callbacks up.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.opened = cfg, False

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Starts the loggers and writes the configuration, before the first stage."""
        if self.opened:
            return
        with open_dict(self.cfg):
            self.cfg.group = self.cfg.get("group") or sweep() or self.cfg.name
            self.cfg.run_name = self.cfg.get("run_name") or run_name(self.cfg)
        trainer.loggers = list(instantiate(self.cfg.logger).values())
        open_run(self.cfg)
        config = cast(dict[str, Any], OmegaConf.to_container(self.cfg, resolve=True))
        config["git"] = git_state()
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # beside its file lies config.yaml
                logger.log_hyperparams(config)
        self.opened = True


@rank_zero_only
def after_fit(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Logs what the training leaves, whether or not a benchmark follows.

    The best checkpoint goes to those loggers that are configured to keep it.
    """
    log_selection(Path(cfg.run_dir), trainer.loggers, trainer.global_step)
    best = cast(ModelCheckpoint, trainer.checkpoint_callback)
    path = Path(best.best_model_path)
    if best.best_model_score is not None and path.is_file():
        for logger in trainer.loggers:
            if isinstance(logger, Dispensable):
                logger.log_checkpoint(path, {str(best.monitor): float(best.best_model_score)})


def report(
    cfg: DictConfig,
    trainer: L.Trainer,
    benchmark: Benchmark,
    data: ImageData,
    seconds: Mapping[str, float],
) -> None:
    """Writes the results of a finished benchmark and shows them, on one process.

    Raises:
        OSError: if there was no room for all of them, after they were shown.
    """
    if not trainer.is_global_zero:
        with suppress(OSError):  # torchrun: started a second later, it has a folder of its own
            Path(cfg.run_dir).rmdir()
        return
    run_dir = Path(cfg.run_dir)
    checkpoints = cast(AtomicCheckpoints, trainer.strategy.checkpoint_io)
    scores = benchmark.scores
    run = FinishedRun(
        run_dir=run_dir,
        scores=scores,
        experiment=cfg.name,
        network=network_name(cfg),
        selected_block=benchmark.network.selected,
        norm_ratio=benchmark.network.norm_ratio,
        forward_passes=benchmark.forward_passes,
        seconds=seconds,
        data=data.facts(scores.counts if trainer.limit_test_batches == 1.0 else None),
        pictures=data.pictures,
        step=trainer.global_step,
        is_complete=checkpoints.complete(),
    )
    metrics = write_report(run, trainer.loggers)
    show(result_table(metrics), block_table(metrics), f"results in {run_dir}")
    if not (run_dir / "metrics.json").exists():
        raise no_room("results", run_dir)
    rmtree(run_dir / "benchmark", ignore_errors=True)


@rank_zero_only
def check_saved(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Refuses to end a training whose last checkpoint is not on the disk.

    Raises:
        OSError: if there was no room for it.
    """
    if not cast(AtomicCheckpoints, trainer.strategy.checkpoint_io).complete():
        raise no_room("checkpoints", cfg.run_dir)


def no_room(what: str, run_dir: str | Path) -> OSError:
    """Returns the error of a full disk."""
    return OSError(
        f"expected room for the {what} in {run_dir}, got none; make room, then go on with this "
        f"run: resume={run_dir}"
    )
