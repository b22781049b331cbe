"""Bars for a person who watches: what is done, how fast, and how long it will take yet."""

__all__ = ["Bars"]

import logging
from contextlib import ExitStack
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from src.benchmark import Benchmark


class Bars(ProgressBar):
    """One bar on stderr over all of a training, one over each validation, one over a benchmark.

    Log lines appear above them. Only the first process draws. For terminals: it does not look
    whether stderr is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: tqdm[Any] = tqdm(disable=True)  # counts nothing
        self.validation: tqdm[Any] = tqdm(disable=True)
        self.logs = ExitStack()

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Lets log lines pass above the bars."""
        super().setup(trainer, module, stage)
        self.close()
        self.logs.enter_context(logging_redirect_tqdm([logging.getLogger()]))

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Takes the bars away."""
        self.close()

    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException
    ) -> None:
        """Takes the bars away."""
        self.close()

    def close(self) -> None:
        """Takes the bars away."""
        self.validation.close()
        self.work.close()
        self.logs.close()

    def new(self, task: str, total: float, **options: Any) -> "tqdm[Any]":
        """Returns a bar of so many batches, in the next free line; it goes when it is closed."""
        return tqdm(
            desc=task, total=int(total) if total < float("inf") else None, unit=" batches",
            leave=False, dynamic_ncols=True, disable=not self.trainer.is_global_zero, **options,
        )  # fmt: skip

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the bar over all epochs; a resumed training begins where it was."""
        batches, epochs = trainer.num_training_batches, cast(int, trainer.max_epochs)
        total = batches * epochs if epochs > 0 else float("inf")
        done = trainer.current_epoch * int(batches)
        # by the mean speed, not the last: an epoch ends with a validation, which takes its time
        self.work = self.new("training", total, initial=done, smoothing=0)

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Says which epoch it is."""
        last = f"/{trainer.max_epochs}" if cast(int, trainer.max_epochs) > 0 else ""
        self.work.set_description(f"training, epoch {trainer.current_epoch + 1}{last}")

    def on_train_batch_end(self, *args: Any) -> None:
        """Counts."""
        self.work.update()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the bar of a validation, which the selection looks on."""
        if not trainer.sanity_checking:
            self.validation = self.new("validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *args: Any) -> None:
        """Counts."""
        self.validation.update()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Closes the bar; what was found stands behind that of the training."""
        self.validation.close()
        self.work.set_postfix(trainer.progress_bar_metrics)

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the bar over all images of a benchmark."""
        self.work = self.new("benchmark", sum(trainer.num_test_batches))

    def on_test_batch_start(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Says which images come; the detectors learn before the first that are scored."""
        if batch_idx == 0:
            loaders, fit_on = cast(Benchmark, module).loaders, cast(Benchmark, module).fit_on
            name = loaders[dataloader_idx]
            learns = "fitting on " if name in fit_on else "scoring "
            self.work.set_description(learns + name)

    def on_test_batch_end(self, *args: Any) -> None:
        """Counts."""
        self.work.update()
