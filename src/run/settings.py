"""What may be said to Lightning's trainer, and how to say the rest here."""

__all__ = [
    "REFUSED",
    "Loaders",
    "check_callbacks",
    "check_schedule",
    "check_settings",
    "check_trainer",
]

import inspect
import os
from collections.abc import Sequence

import lightning as L
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ProgressBar,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from omegaconf import DictConfig

from src.benchmark import Benchmark
from src.callbacks import EMA
from src.data import ImageData

# setting of lightning.Trainer -> how to say it here; docs/commands.md has all settings
REFUSED = {
    "barebones": "leave it out: a run logs and keeps checkpoints",
    "default_root_dir": "choose the directory of the run with hydra.run.dir=DIR",
    "enable_autolog_hparams": "leave it out: loggers receive the whole configuration",
    "enable_checkpointing": "leave it out: every run keeps its last and its best checkpoint",
    "fast_dev_run": "say debug=quick",
    "limit_predict_batches": "say trainer.limit_test_batches=N for the benchmark",
    "logger": "say logger=NAME, one of those in conf/logger",
    "model_registry": "publish a finished run with python -m src.release",
    "overfit_batches": "say trainer.limit_train_batches=N",
    "plugins": "say trainer.precision, trainer.strategy or trainer.sync_batchnorm",
    "reload_dataloaders_every_n_epochs": "leave it out: the images of a run do not change",
    "use_distributed_sampler": "leave it out: processes share the images exactly",
}
NO_TRAINING = "to benchmark without training: python -m src.evaluate"
ABOVE_ZERO = {
    "max_steps": NO_TRAINING,
    "limit_train_batches": NO_TRAINING,
    "limit_val_batches": "leave it out: the block is selected on validation images",
    "limit_test_batches": "to leave out the benchmark: benchmark=false",
    "val_check_interval": "to validate less often: trainer.check_val_every_n_epoch=N",
    "check_val_every_n_epoch": "to validate less often, raise it",
    "accumulate_grad_batches": "set the number of batches of a step",
}
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
CALLBACKS = {  # that do not fit, and why
    BatchSizeFinder: "config.yaml would not hold what it finds; see python -m src.search",
    LearningRateFinder: "config.yaml would not hold what it finds; see python -m src.search",
    ProgressBar: "a run has its own progress bars: trainer.enable_progress_bar=true",
    StochasticWeightAveraging: "checkpoint and selection would be of other weights",
    WeightAveraging: "the selection would not be saved; say +trainer/callbacks=ema",
}


def check_settings(cfg: DictConfig) -> None:
    """Refuses settings of the trainer that a run would not use.

    Raises:
        ValueError: If one is said in another way here, comes from the environment, or leaves
            nothing to do.
    """
    if hidden := sorted(name for name in os.environ if name.startswith("PL_TRAINER_")):
        said = hidden[0].removeprefix("PL_TRAINER_").lower()
        raise ValueError(
            f"expected the settings of the trainer in the command, which config.yaml keeps, got "
            f"{hidden[0]} in the environment; unset it, and say trainer.{said}=..."
        )
    defaults = inspect.signature(L.Trainer.__init__).parameters
    for name, instead in REFUSED.items():
        value = cfg.trainer.get(name)
        if value is not None and value != defaults[name].default:
            raise ValueError(f"expected no trainer.{name}, got {value}; {instead}")
    for name, instead in ABOVE_ZERO.items():
        if cfg.trainer.get(name) == 0 and (cfg.benchmark or name != "limit_test_batches"):
            value = cfg.trainer[name]
            raise ValueError(f"expected trainer.{name} above 0, got {value}; {instead}")
    epochs = cfg.trainer.get("max_epochs")
    if not isinstance(epochs, int) or epochs == 0:
        raise ValueError(
            f"expected trainer.max_epochs of at least 1, or -1 for no end, got {epochs}; "
            f"{NO_TRAINING}"
        )


def check_schedule(cfg: DictConfig) -> None:
    """Refuses a schedule over the steps of a training that does not know how many it has.

    Raises:
        ValueError: If the schedule needs the number of steps and no setting gives it.
    """
    endless = cfg.trainer.get("max_epochs") == -1 and cfg.trainer.get("max_steps", -1) == -1
    if endless and cfg.optim.get("scheduler") and cfg.optim.get("interval") == "step":
        raise ValueError(
            "expected a training whose number of steps is known, as optim.interval=step needs it, "
            "got trainer.max_epochs=-1 without trainer.max_steps; set trainer.max_steps=N, or "
            "choose a schedule over epochs, whose optim.interval is epoch: optim=multistep"
        )


def check_callbacks(callbacks: Sequence[L.Callback]) -> None:
    """Refuses callbacks that a run cannot have beside its own.

    Raises:
        ValueError: If there is one.
    """
    for callback in callbacks:
        for kind, why in CALLBACKS.items():
            if isinstance(callback, kind) and not isinstance(callback, EMA):
                raise ValueError(
                    f"expected trainer.callbacks that fit, got {type(callback).__name__}: {why}; "
                    "leave it out"
                )


def check_trainer(trainer: L.Trainer, precision: object) -> None:
    """Refuses a trainer that could not do what a run does.

    Args:
        trainer: The trainer.
        precision: The precision that was asked for.

    Raises:
        ValueError: If its precision, strategy or time does not fit.
    """
    strategy = trainer.strategy
    if trainer.precision not in PRECISIONS:
        raise ValueError(
            f"expected trainer.precision as one of {', '.join(PRECISIONS)}, which keep weights "
            f"and scores in float32, got {trainer.precision}; choose one"
        )
    if str(precision).startswith("16") and trainer.precision != "16-mixed":
        raise ValueError(
            f"expected a trainer.precision that a {strategy.root_device.type} has, got "
            f"{precision}; say trainer.precision={trainer.precision}"
        )
    if isinstance(strategy.launcher, _MultiProcessingLauncher):
        raise ValueError(
            "expected processes that each run the command, got a trainer.strategy that spawns or "
            "forks them; say trainer=ddp, or trainer=ddp_cpu"
        )
    is_whole = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)
    if not is_whole or isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(
            "expected a trainer.strategy that keeps the whole network on each device, got "
            f"{type(strategy).__name__}; say trainer=ddp"
        )
    if getattr(strategy, "_layer_sync", None) and strategy.root_device.type == "cpu":
        raise ValueError(
            "expected no trainer.sync_batchnorm on the CPU, for which torch has none, got true; "
            "leave it out"
        )
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    if any(timer.time_remaining() == 0 for timer in timers):
        raise ValueError(f"expected trainer.max_time above 0, got 0; {NO_TRAINING}")


class Loaders(L.Callback):
    """Refuses settings that leave a loader without a batch, once the images are decoded.

    Args:
        benchmark: The benchmark that follows, if there is one.
    """

    def __init__(self, benchmark: Benchmark | None) -> None:
        self.benchmark = benchmark

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Checks every stage that is to come.

        Raises:
            ValueError: If a stage has no batch, or a validation would never come.
        """
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit":
            batches = left(trainer, "limit_train_batches", len(data.train_dataloader()))
            every = getattr(trainer, "val_check_interval", None)  # None: by the clock
            if trainer.check_val_every_n_epoch and isinstance(every, int) and every > batches:
                raise ValueError(
                    f"expected trainer.val_check_interval of at most the {batches} batches of an "
                    f"epoch, got {every}; lower it, or let it count over epochs: "
                    "trainer.check_val_every_n_epoch=null"
                )
        if stage in ("fit", "validate"):
            left(trainer, "limit_val_batches", len(data.val_dataloader()))
        for name in self.benchmark.loaders if self.benchmark else ():
            left(trainer, "limit_test_batches", data.batches(name), f" of {name!r}")


def left(trainer: L.Trainer, name: str, batches: int, of: str = "") -> int:
    """Returns how many batches a limit leaves.

    Args:
        trainer: The trainer.
        name: The limit.
        batches: Number of batches without it.
        of: Names the set in the message.

    Raises:
        ValueError: If it leaves none.
    """
    limit = getattr(trainer, name)
    kept = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if kept == 0:
        raise ValueError(
            f"expected trainer.{name} to leave a batch, got {limit} of the {batches} "
            f"batches{of}; raise it, or give a whole number of batches"
        )
    return kept
