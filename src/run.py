"""What training and evaluation share: the run directory, the trainer, the report."""

__all__ = [
    "AtomicCheckpoints",
    "callbacks",
    "new_trainer",
    "open_run",
    "quiet_lightning",
    "report",
    "resumed",
    "show",
]

import logging
import os
import shlex
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from src.benchmark import Benchmark
from src.data import ImageData
from src.report import block_table, result_table, write_report


@rank_zero_only
def open_run(cfg: DictConfig) -> None:
    """Writes the resolved configuration into a fresh run directory; one to resume has it.

    Raises:
        FileExistsError: if an earlier run is there.
    """
    path = Path(cfg.run_dir) / "config.yaml"
    if path.exists():
        if cfg.get("resume"):
            return
        raise FileExistsError(
            f"expected a fresh run directory, got {cfg.run_dir} with the results of an earlier "
            f"run; choose another hydra.run.dir, or go on with it: resume={cfg.run_dir}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(command() + OmegaConf.to_yaml(cfg, resolve=True))
    partial.replace(path)


def command() -> str:
    """Returns the command that began the run, as a line of comment: a resumed run keeps it."""
    if not HydraConfig.initialized():
        return ""
    job = HydraConfig.get()
    start = ["python"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        start = ["torchrun", f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"]
    words = shlex.join([*start, "-m", f"src.{job.job.name}", *job.overrides.task])
    return "# " + words.replace("\n", " ") + "\n"


def resumed(cfg: DictConfig) -> tuple[DictConfig, Path | None]:
    """Returns the configuration of the run to resume, and its last checkpoint if there is one.

    `resume=auto` means the run directory itself, so that a sweep can be started again where it
    was: what is not begun there begins.

    Raises:
        FileNotFoundError: if there is no run.
        FileExistsError: if it is finished.
    """
    if cfg.resume == "auto" and not (Path(cfg.run_dir) / "config.yaml").exists():
        return cfg, None
    run_dir = Path(cfg.run_dir if cfg.resume == "auto" else cfg.resume)
    if not (run_dir / "config.yaml").is_file():
        raise FileNotFoundError(
            f"expected the directory of a run, got {run_dir} without a config.yaml; "
            "set resume=logs/<name>/<time>"
        )
    if (run_dir / "metrics.json").exists():
        raise FileExistsError(
            f"expected a run that was cut off, got {run_dir}, which is finished; see its "
            "metrics.json, or start a new run"
        )
    saved = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(saved, DictConfig)
    if cfg.resume != "auto":
        with suppress(OSError):  # Hydra has opened a directory for this command
            Path(cfg.run_dir).rmdir()
    saved.run_dir, saved.resume = str(run_dir), str(run_dir)
    last = run_dir / "checkpoints" / "last.ckpt"
    return saved, last if last.exists() else None


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


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one before it and renames it: a kill leaves one of them.

    Lightning's own writes into the folder for temporary files, which may be on another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes and renames."""
        partial = Path(f"{path}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, partial)
        partial.replace(path)


def new_trainer(cfg: DictConfig, callbacks: Sequence[L.Callback | None]) -> L.Trainer:
    """Opens the run and returns the configured trainer, with its loggers.

    Raises:
        FileExistsError: if an earlier run is in the run directory.
        RuntimeError: for a sweep of many-process runs that Lightning would have to launch.
    """
    quiet_lightning()
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        callbacks=[callback for callback in callbacks if callback is not None],
        logger=False,
        default_root_dir=cfg.run_dir,
        plugins=AtomicCheckpoints(),
    )
    sweeping = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping and trainer.world_size > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise RuntimeError(
            "expected a sweep of one-process runs, got a trainer of "
            f"{trainer.world_size} processes, which Lightning cannot launch from a sweep; "
            "start the sweep with torchrun --nproc-per-node=N -m src.train -m ..."
        )
    open_run(cfg)  # not earlier: what was refused until here leaves no file behind
    trainer.loggers = list(instantiate(cfg.logger).values())
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    for logger in trainer.loggers:
        if not isinstance(logger, CSVLogger):  # beside its file lies config.yaml
            logger.log_hyperparams(config)
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
    """Writes the results of a finished benchmark and shows them, on one process."""
    if not trainer.is_global_zero:
        with suppress(OSError):  # torchrun: started a second later, it has a folder of its own
            Path(cfg.run_dir).rmdir()
        return
    metrics = write_report(
        Path(cfg.run_dir),
        benchmark.scores,
        experiment=cfg.name,
        network=cfg.net.net.get("model_name") or cfg.net.net._target_.rpartition(".")[2],
        selected_block=benchmark.network.selected,
        norm_ratio=benchmark.network.norm_ratio,
        forward_passes=benchmark.forward_passes,
        seconds=seconds,
        data=data.facts(benchmark.scores.counts if trainer.limit_test_batches == 1.0 else None),
        loggers=trainer.loggers,
        pictures=data.pictures,
    )
    show(result_table(metrics), block_table(metrics), f"results in {cfg.run_dir}")


def show(*content: Table | str) -> None:
    """Prints tables and text."""
    console = Console()
    if not console.is_terminal:
        console.width = 100  # a file has no width; the tables fit into this
    console.print(*content, sep="\n")
