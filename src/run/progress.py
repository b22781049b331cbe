"""Progress bars for a terminal: work done, rate, and time left."""

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
    """One bar on stderr for the whole training, one for each validation, one for a benchmark.

    Log lines appear above them. Only the first process draws. The caller decides whether stderr
    is a terminal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: tqdm[Any] = tqdm(disable=True)  # counts nothing
        self.validation: tqdm[Any] = tqdm(disable=True)
        self.logs = ExitStack()

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Sends log lines above the bars."""
        super().setup(trainer, module, stage)
        self.close()
        self.logs.enter_context(logging_redirect_tqdm([logging.getLogger()]))

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Removes the bars."""
        self.close()

    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException
    ) -> None:
        """Removes the bars."""
        self.close()

    def close(self) -> None:
        """Removes the bars."""
        self.validation.close()
        self.work.close()
        self.logs.close()

    def new(self, task: str, total: float, **options: Any) -> "tqdm[Any]":
        """Returns a bar over `total` batches in the next free line; closing removes it."""
        return tqdm(
            desc=task, total=int(total) if total < float("inf") else None, unit=" batches",
            leave=False, dynamic_ncols=True, disable=not self.trainer.is_global_zero, **options,
        )  # fmt: skip

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the bar over all epochs; a resumed training starts at its first new epoch."""
        batches, epochs = trainer.num_training_batches, cast(int, trainer.max_epochs)
        total = batches * epochs if epochs > 0 else float("inf")
        done = trainer.current_epoch * int(batches)
        # the mean rate, not the latest: each epoch ends with a validation, which takes time too
        self.work = self.new("training", total, initial=done, smoothing=0)

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Shows the number of the epoch."""
        last = f"/{trainer.max_epochs}" if cast(int, trainer.max_epochs) > 0 else ""
        self.work.set_description(f"training, epoch {trainer.current_epoch + 1}{last}")

    def on_train_batch_end(self, *args: Any) -> None:
        """Advances the bar."""
        self.work.update()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the bar of a validation, unless it is the sanity check."""
        if not trainer.sanity_checking:
            self.validation = self.new("validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *args: Any) -> None:
        """Advances the bar."""
        self.validation.update()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Closes the bar; the training bar shows the results."""
        self.validation.close()
        self.work.set_postfix(trainer.progress_bar_metrics)

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the bar over all batches of a benchmark."""
        self.work = self.new("benchmark", sum(trainer.num_test_batches))

    def on_test_batch_start(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Shows the set in use, and whether detectors are fitted or images scored."""
        if batch_idx == 0:
            loaders, fit_on = cast(Benchmark, module).loaders, cast(Benchmark, module).fit_on
            name = loaders[dataloader_idx]
            what = "fitting on " if name in fit_on else "scoring "
            self.work.set_description(what + name)

    def on_test_batch_end(self, *args: Any) -> None:
        """Advances the bar."""
        self.work.update()
