"""The trainer of a run, seeded, with the callbacks of every training."""

__all__ = ["callbacks", "new_trainer", "quiet_lightning", "seed_everything"]

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from omegaconf import DictConfig

from src.run.checkpoint import AtomicCheckpoints
from src.run.configuration import sweep
from src.run.progress import Bars
from src.run.session import Opening


def new_trainer(cfg: DictConfig, callbacks: Sequence[L.Callback | None]) -> L.Trainer:
    """Returns the configured trainer; it starts the loggers when its first stage begins.

    Raises:
        ValueError: If it is set to train for no epoch.
        RuntimeError: If torchrun started another number of processes than the trainer has, or for
            a sweep whose runs have several processes that Lightning would have to launch.
    """
    quiet_lightning()
    watched = sys.stderr.isatty() and cfg.trainer.enable_progress_bar
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
    return trainer


def callbacks(cfg: DictConfig) -> list[L.Callback]:
    """Returns the callbacks of every training: last and best checkpoint, learning rate."""
    folder = Path(cfg.run_dir) / "checkpoints"
    best = ModelCheckpoint(
        folder, "best", monitor="val/accuracy", mode="max", enable_version_counter=False
    )
    # `save_last` of the other would save only when that one does; this one comes second, so that
    # its file tells a resumed training which epoch was the best
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    return [best, last, LearningRateMonitor(logging_interval="epoch")]


def quiet_lightning() -> None:
    """Silences messages of Lightning that do not apply to these runs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # images are in memory: workers would copy them
        ".*exists and is not empty.*",  # the run directory holds config.yaml already
        ".*sync_dist=True.*",  # what is equal on all processes is not reduced again
        ".*treespec.*",  # Lightning 2.6 on a newer torch
    ):
        warnings.filterwarnings("ignore", message)


def seed_everything(seed: Any) -> None:
    """Seeds Python, NumPy and torch, in this process and in the workers of loaders.

    Raises:
        ValueError: If the seed is not a number that all of them accept.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"expected a seed within 0..{2**32 - 1}, got {seed!r}; set seed=<number>")
    L.seed_everything(seed, workers=True, verbose=False)
