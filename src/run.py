"""What training and evaluation share: seed, trainer, callbacks, report."""

__all__ = [
    "Opening",
    "after_fit",
    "callbacks",
    "check_saved",
    "id_images",
    "new_trainer",
    "quiet_lightning",
    "report",
    "seed_everything",
    "show",
]

import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, cast

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.table import Table

from src.benchmark import Benchmark
from src.checkpoint import AtomicCheckpoints
from src.data import ImageData
from src.git_state import git_state
from src.loggers import Dispensable
from src.progress import Bars
from src.report import block_table, result_table, write_report
from src.report_media import log_selection
from src.run_directory import check_fresh, open_run


def seed_everything(seed: Any) -> None:
    """Seeds Python, NumPy and torch, in this process and in the workers of loaders.

    Raises:
        ValueError: if the seed is none that all of them take.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"expected a seed within 0..{2**32 - 1}, got {seed!r}; set seed=<number>")
    L.seed_everything(seed, workers=True, verbose=False)


def callbacks(cfg: DictConfig) -> list[L.Callback]:
    """Returns those of every training: checkpoints of the last and the best epoch, the rate."""
    folder = Path(cfg.run_dir) / "checkpoints"
    best = ModelCheckpoint(
        folder, "best", monitor="val/accuracy", mode="max", enable_version_counter=False
    )
    # not `save_last` of the other, which saves only when the other does; and behind it, so that
    # a resumed training knows which epoch was the best
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    return [best, last, LearningRateMonitor(logging_interval="epoch")]


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


def run_name(cfg: DictConfig) -> str:
    """Returns what tells a run from the others of a sweep over networks and seeds."""
    parts = [cfg.name, network_name(cfg), str(cfg.seed)]
    if parts[1].lower() in cfg.name.lower():
        del parts[1]
    return "_".join(parts)


def network_name(cfg: DictConfig) -> str:
    """Returns the name of the architecture."""
    name: str = cfg.net.net.get("model_name") or cfg.net.net._target_.rpartition(".")[2]
    return name


def sweep() -> str | None:
    """Returns the name of the sweep that the run is of: its directory's."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).name


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


def new_trainer(cfg: DictConfig, callbacks: Sequence[L.Callback | None]) -> L.Trainer:
    """Returns the configured trainer, which will open the run.

    Raises:
        FileExistsError: if an earlier run is in the run directory.
        ValueError: if it is to train for no epoch.
        RuntimeError: if torchrun started other processes than the trainer's, or for a sweep of
            many-process runs that Lightning would have to launch.
    """
    quiet_lightning()
    watched = sys.stderr.isatty() and cfg.trainer.get("enable_progress_bar", True)
    every = [Opening(cfg), *callbacks, Bars() if watched else None]
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        callbacks=[callback for callback in every if callback is not None],
        enable_progress_bar=watched,
        logger=False,
        default_root_dir=cfg.run_dir,
        plugins=AtomicCheckpoints(),
    )
    if not isinstance(trainer.max_epochs, int) or trainer.max_epochs == 0:
        raise ValueError(
            f"expected trainer.max_epochs of at least 1, or -1 for no end, got "
            f"{trainer.max_epochs}; to benchmark without training: python -m src.evaluate"
        )
    started = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None
    if started not in (None, trainer.world_size):
        raise RuntimeError(
            f"expected a trainer of the {started} processes that torchrun started, got one of "
            f"{trainer.world_size}, so that each would train alone; set trainer=ddp"
        )
    if sweep() and trainer.world_size > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise RuntimeError(
            "expected a sweep of one-process runs, got a trainer of "
            f"{trainer.world_size} processes, which Lightning cannot launch from a sweep; "
            "start the sweep with torchrun --nproc-per-node=N -m src.train -m ..."
        )
    check_fresh(cfg)
    return trainer


def quiet_lightning() -> None:
    """Silences what says nothing about a run of ours."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # images live in memory: workers would copy them
        ".*exists and is not empty.*",  # the run directory holds config.yaml by now
        ".*treespec.*",  # Lightning 2.6 on a newer torch
    ):
        warnings.filterwarnings("ignore", message)


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
    metrics = write_report(
        run_dir,
        benchmark.scores,
        experiment=cfg.name,
        network=network_name(cfg),
        selected_block=benchmark.network.selected,
        norm_ratio=benchmark.network.norm_ratio,
        forward_passes=benchmark.forward_passes,
        seconds=seconds,
        data=data.facts(benchmark.scores.counts if trainer.limit_test_batches == 1.0 else None),
        loggers=trainer.loggers,
        step=trainer.global_step,
        complete=checkpoints.complete(),
        pictures=data.pictures,
    )
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


def id_images(data: DictConfig) -> DictConfig:
    """Returns the configuration of the images without OOD sets, for a run that scores none."""
    data = data.copy()
    with open_dict(data):
        data.ood, data.groups, data.match_codec = {}, {}, False
    return data


def no_room(what: str, run_dir: str | Path) -> OSError:
    """Returns the error of a full disk."""
    return OSError(
        f"expected room for the {what} in {run_dir}, got none; make room, then go on with this "
        f"run: resume={run_dir}"
    )


def show(*content: Table | str) -> None:
    """Prints tables and text."""
    console = Console()
    if not console.is_terminal:
        console.width = 100  # a file has no width; the tables fit into this
    console.print(*content, sep="\n")
