"""The LightningModule that trains the classifier and writes self-contained checkpoints."""

__all__ = ["FORMAT", "Classifier"]

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from src.data.datasets import Batch
from src.network import Network
from src.objectives import CrossEntropy, Objective
from src.records.atomic import try_to_write

FORMAT = 2  # of checkpoints; raised by a change that older versions cannot read
Scheduler = torch.optim.lr_scheduler.LRScheduler
PLATEAU = torch.optim.lr_scheduler.ReduceLROnPlateau


class Classifier(L.LightningModule):
    """Trains a `Network` for an objective.

    Args:
        network: Classifier to train.
        objective: What it is trained for; None is cross-entropy.
        optimizer: Makes an optimizer from the parameters; None if there will be no training.
        scheduler: Makes a learning-rate scheduler from the optimizer; None keeps the rate.
        interval: "epoch" steps the scheduler after each epoch; "step" after each batch, and
            passes the length of the training to it as `total_steps`.
        channels_last: Whether weights and feature maps lie as NHWC in memory.
        compiled: Whether training steps run through `torch.compile`. The compiled callable stays
            out of the module tree, and everything that observes blocks runs eagerly.
        config: Plain containers that describe the run. Each checkpoint keeps them, so that the
            file alone is enough to rebuild the network.

    Raises:
        ValueError: If optimizer, scheduler and interval do not fit together, or the objective
            does not fit the network or cannot be compiled.
    """

    def __init__(
        self,
        network: Network,
        *,
        objective: Objective | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., Scheduler] | None = None,
        interval: str = "epoch",
        channels_last: bool = False,
        compiled: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if interval not in ("epoch", "step"):
            raise ValueError(f"expected interval 'epoch' or 'step', got {interval!r}; choose one")
        if getattr(scheduler, "func", scheduler) is PLATEAU:
            raise ValueError(
                "expected a scheduler that follows epochs or steps, got ReduceLROnPlateau, which "
                "a resumed training could not repeat; choose another: optim=multistep or "
                "optim=one_cycle"
            )
        self.network = network
        self.objective = objective or CrossEntropy()
        if optimizer is not None:
            self.objective.check(network)
        if compiled and not self.objective.can_compile:
            raise ValueError(
                f"expected an objective of logits alone to compile, got {type(objective).__name__}"
                "; set compiled=false"
            )
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.interval = interval
        self.config = config
        self._stopped = False
        if optimizer is not None:
            self._build(total_steps=100)  # any number: a misfit shows now
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        # in a tuple, so that nn.Module does not register the compiled network as a submodule
        self._trained = (cast(Network, torch.compile(network)) if compiled else network,)
        # torchmetrics would check the labels at each step, for which the host waits for the GPU
        accuracy = partial(MulticlassAccuracy, average="micro", validate_args=False)
        self.train_accuracy = accuracy(network.num_classes)
        self.accuracy = accuracy(network.num_classes)

    def on_fit_start(self) -> None:
        """Stores the seed of the run; a training that had been told to stop stays so."""
        self._seed = torch.initial_seed()
        self.trainer.should_stop |= self._stopped

    def on_train_epoch_start(self) -> None:
        """Seeds dropout and the like by epoch and process, so that a resumed epoch repeats."""
        torch.manual_seed(self._seed + (self.current_epoch << 32) + (self.global_rank << 24))
        self._broken: tuple[Tensor, Tensor] | None = None  # (B,) indices, () whether they are

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (B, K) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.network(image)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        logits, loss = self.objective(self._trained[0], batch)
        self._watch(loss.detach(), batch.index)
        self.train_accuracy.update(logits.detach(), batch.label)
        size = len(batch.label)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def _watch(self, loss: Tensor, index: Tensor) -> None:
        """Remembers the first batch with a non-finite loss, without waiting for the device."""
        broken = ~loss.isfinite()
        if self._broken is not None:
            index = torch.where(self._broken[1], self._broken[0], index)
            broken |= self._broken[1]
        self._broken = index, broken

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Checks the loss every `log_every_n_steps` batches and at the end of the epoch.

        Raises:
            FloatingPointError: If the loss was not finite. `nan_loss.json` in the run directory
                names the epoch and the images of the first such batch.
        """
        looks: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.trainer.is_last_batch or (batch_idx + 1) % (looks or 1) == 0) and self._broken:
            index, broken = self._broken
            if broken:
                path = Path(self.trainer.default_root_dir) / "nan_loss.json"
                facts = {"epoch": self.current_epoch, "index": index.tolist()}
                text = json.dumps(facts) + "\n"
                try_to_write(path, lambda partial: partial.write_text(text))
                raise FloatingPointError(
                    f"expected a finite loss, got NaN or infinity in epoch {self.current_epoch}; "
                    f"{path} names the images; lower the learning rate, or use trainer.precision="
                    "32-true"
                )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts correct predictions, without padding rows."""
        logits, kept = self(batch.image), batch.index >= 0
        self.accuracy.update(logits[kept], batch.label[kept])
        self.log("val/accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Returns the optimizer and, if there is one, its scheduler."""
        if self.optimizer is None:
            raise ValueError(
                "expected an optimizer to train with, got none; choose one with optim=..."
            )
        steps = int(self.trainer.estimated_stepping_batches) if self.interval == "step" else 0
        return self._build(total_steps=steps)

    def _build(self, *, total_steps: int) -> Any:
        assert self.optimizer is not None
        try:
            optimizer = self.optimizer(self.network.parameters())
            if self.scheduler is None:
                return optimizer
            steps = {"total_steps": total_steps} if self.interval == "step" else {}
            scheduler = self.scheduler(optimizer, **steps)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"expected an optimizer and a scheduler that fit together, got: {error}; correct "
                "optim.optimizer, optim.scheduler or optim.interval"
            ) from error
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration, the version of the format, and what Lightning forgets."""
        checkpoint["config"] = self.config
        checkpoint["format"] = FORMAT
        checkpoint["should_stop"] = self.trainer.should_stop

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reads whether the training had been told to stop, as by a callback."""
        self._stopped = checkpoint.get("should_stop", False)
