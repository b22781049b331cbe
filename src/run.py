"""What training and evaluation share: the run directory, the trainer, the report."""

__all__ = [
    "Opening",
    "callbacks",
    "check_fresh",
    "is_finished",
    "new_trainer",
    "open_run",
    "quiet_lightning",
    "report",
    "resumed",
    "seed_everything",
    "show",
]

import logging
import os
import shlex
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
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from src.atomic import write_whole
from src.benchmark import Benchmark
from src.checkpoint import AtomicCheckpoints
from src.data import ImageData
from src.progress import Bars
from src.report import block_table, result_table, write_report


def seed_everything(seed: Any) -> None:
    """Seeds Python, NumPy and torch, in this process and in the workers of loaders.

    Raises:
        ValueError: if the seed is none that all of them take.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"expected a seed within 0..{2**32 - 1}, got {seed!r}; set seed=<number>")
    L.seed_everything(seed, workers=True, verbose=False)


@rank_zero_only
def check_fresh(cfg: DictConfig) -> None:
    """Refuses a run directory that is taken, unless its run is to be resumed.

    Raises:
        FileExistsError: if an earlier run is there.
    """
    if (Path(cfg.run_dir) / "config.yaml").exists() and not cfg.get("resume"):
        raise FileExistsError(
            f"expected a fresh run directory, got {cfg.run_dir} with the results of an earlier "
            f"run; choose another hydra.run.dir, or go on with it: resume={cfg.run_dir}"
        )


@rank_zero_only
def open_run(cfg: DictConfig) -> None:
    """Writes the resolved configuration into the run directory; one to resume has it."""
    path = Path(cfg.run_dir) / "config.yaml"
    if not path.exists():
        text = command() + OmegaConf.to_yaml(cfg, resolve=True)
        write_whole(path, lambda partial: partial.write_text(text))


def is_finished(cfg: DictConfig) -> bool:
    """Says so, if `resume=auto` finds that nothing is left to do in the run directory."""
    finished = cfg.resume == "auto" and (Path(cfg.run_dir) / "metrics.json").exists()
    if finished:
        show(f"{cfg.run_dir} is finished")
    return finished


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

    Without `resume`, the configuration comes back as it is. `resume=auto` means the run directory
    itself, so that a sweep can be started again where it was: what is not begun there begins.

    Raises:
        FileNotFoundError: if there is no run.
        FileExistsError: if it is finished.
        ValueError: if another command began it, or if anything else is asked for, which the run's
            own configuration would hide.
    """
    if cfg.resume is None:
        return cfg, None
    run_dir = Path(cfg.run_dir if cfg.resume == "auto" else cfg.resume)
    if not (run_dir / "config.yaml").is_file():
        if cfg.resume == "auto":
            return cfg, None
        raise FileNotFoundError(
            f"expected the directory of a run, got {run_dir} without a config.yaml; "
            "set resume=logs/<name>/<time>"
        )
    if (run_dir / "metrics.json").exists():
        raise FileExistsError(
            f"expected a run that was cut off, got {run_dir}, which is finished; see its "
            "metrics.json, or start a new run"
        )
    others = [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]
    if others and cfg.resume != "auto":
        raise ValueError(
            "expected resume= alone, as a run goes on with the configuration it began with, got "
            f"{' '.join(others)} beside it; leave that out, or start a new run"
        )
    saved = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(saved, DictConfig)
    commands = ["src.evaluate" if "checkpoint" in each else "src.train" for each in (cfg, saved)]
    if commands[0] != commands[1]:
        raise ValueError(
            f"expected a run of {commands[0]}, got {run_dir} of {commands[1]}; go on with it: "
            f"python -m {commands[1]} resume={run_dir}"
        )
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
        trainer.loggers = list(instantiate(self.cfg.logger).values())
        open_run(self.cfg)
        config = cast(dict[str, Any], OmegaConf.to_container(self.cfg, resolve=True))
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # beside its file lies config.yaml
                logger.log_hyperparams(config)
        self.opened = True


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
    sweeping = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping and trainer.world_size > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
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
        network=cfg.net.net.get("model_name") or cfg.net.net._target_.rpartition(".")[2],
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
        raise OSError(
            f"expected room for the results in {run_dir}, got none; make room, then go on with "
            f"this run: resume={run_dir}"
        )
    rmtree(run_dir / "benchmark", ignore_errors=True)


def show(*content: Table | str) -> None:
    """Prints tables and text."""
    console = Console()
    if not console.is_terminal:
        console.width = 100  # a file has no width; the tables fit into this
    console.print(*content, sep="\n")
