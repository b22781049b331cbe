"""The trainer of a run, seeded, with the callbacks of every training."""

__all__ = ["callbacks", "new_trainer", "quiet_lightning", "seed_everything", "settle"]

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from omegaconf import DictConfig

from src.callbacks import EMA
from src.run.checkpoint import AtomicCheckpoints
from src.run.configuration import sweep
from src.run.parts import Parts
from src.run.progress import Bars
from src.run.session import Opening
from src.run.settings import Loaders, check_callbacks, check_settings, check_trainer

ACCURACY = "val/accuracy"  # by which the best epoch is found


def new_trainer(cfg: DictConfig, parts: Parts, *, trains: bool) -> L.Trainer:
    """Returns the configured trainer; it starts the loggers when its first stage begins.

    Args:
        cfg: Configuration of the run.
        parts: Parts of the run.
        trains: Whether a training comes first, with its checkpoints and learning rates.

    Raises:
        ValueError: If a setting would not be used, or leaves nothing to do.
        RuntimeError: If torchrun started another number of processes than the trainer has, or for
            a sweep whose runs have several processes that Lightning would have to launch.
    """
    quiet_lightning()
    check_settings(cfg)
    watched = sys.stderr.isatty() and cfg.trainer.enable_progress_bar
    every = [
        Loaders(parts.benchmark if cfg.benchmark else None),
        Opening(cfg),
        parts.selection,
        *(callbacks(cfg) if trains else ()),
        Bars() if watched else None,
        *asked_callbacks(cfg),
    ]
    trainer: L.Trainer = instantiate(
        {key: value for key, value in cfg.trainer.items() if key != "callbacks"},
        callbacks=[callback for callback in every if callback is not None],
        enable_progress_bar=watched,
        logger=False,
        default_root_dir=cfg.run_dir,
        plugins=AtomicCheckpoints(),
    )
    check_trainer(trainer, cfg.trainer.get("precision"))
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


def settle(trainer: L.Trainer, parts: Parts) -> None:
    """Selects on the final weights, unless the training ended with that, and keeps them.

    A training may end where no validation is due, or without a validation that knew of the end.
    """
    classifier, data, _, selection = parts
    is_settled = selection is None or selection.covers(classifier.network)
    if trainer.strategy.broadcast(is_settled):
        return
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.completed = progress.processed - 1  # what follows belongs to the last epoch
    trainer.validate(classifier, datamodule=data, verbose=False)
    folder, accuracy = checkpoints(trainer.default_root_dir), trainer.callback_metrics[ACCURACY]
    best = cast(ModelCheckpoint, trainer.checkpoint_callback)
    if best.best_model_score is None or accuracy > best.best_model_score:
        best.best_model_path, best.best_model_score = str(folder / "best.ckpt"), accuracy
        trainer.save_checkpoint(best.best_model_path)
    trainer.save_checkpoint(folder / "last.ckpt")


def asked_callbacks(cfg: DictConfig) -> list[L.Callback]:
    """Returns the callbacks of the configuration: one, a list, or several by names.

    Raises:
        ValueError: If a run cannot have one of them beside its own.
    """
    asked = instantiate(cfg.trainer.get("callbacks")) or []
    several = asked.values() if isinstance(asked, Mapping) else asked
    found = [asked] if isinstance(asked, L.Callback) else list(several)
    check_callbacks(found)
    # the last one, since it takes the average out of the network at the end of a validation
    return sorted(found, key=lambda callback: isinstance(callback, EMA))


def checkpoints(run_dir: str | Path) -> Path:
    """Returns the folder of the checkpoints of a run."""
    return Path(run_dir) / "checkpoints"


def callbacks(cfg: DictConfig) -> list[L.Callback]:
    """Returns the callbacks of every training: last and best checkpoint, learning rate."""
    folder = checkpoints(cfg.run_dir)
    best = ModelCheckpoint(
        folder, "best", monitor=ACCURACY, mode="max", enable_version_counter=False,
        save_on_train_epoch_end=False,
    )  # fmt: skip
    # `save_last` of the other would save only when that one does; this one comes second, so that
    # its file tells a resumed training which epoch was the best
    last = ModelCheckpoint(
        folder, "last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    return [best, last, LearningRateMonitor(logging_interval="epoch")]


def quiet_lightning() -> None:
    """Silences messages of Lightning that do not apply to these runs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # their reports
    logging.getLogger("lightning").handlers.clear()  # Hydra prints what it would print once more
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
