"""Training an image classifier: cross-entropy, accuracy, and a checkpoint that stands alone."""

__all__ = ["Classifier"]

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from src.data.datasets import Batch
from src.network import Network

Scheduler = torch.optim.lr_scheduler.LRScheduler


class Classifier(L.LightningModule):
    """Trains a `Network` with cross-entropy.

    Args:
        network: the classifier.
        optimizer: parameters -> optimizer; None if it will not be trained.
        scheduler: optimizer -> learning-rate scheduler; None keeps the rate.
        interval: "epoch" steps the scheduler after each epoch; "step" after each batch, and
            passes the length of the training as `total_steps`.
        channels_last: whether to lay weights and maps out as NHWC in memory.
        compiled: whether to run training steps through `torch.compile`. The compiled callable
            stays out of the module tree, and everything that hooks blocks runs eager.
        config: plain containers that describe the run; kept in each checkpoint so that the file
            alone is enough to rebuild the network.
    """

    def __init__(
        self,
        network: Network,
        *,
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
        self.network = network
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.interval = interval
        self.config = config
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        # in a tuple, so that nn.Module does not take the compiled network for a submodule
        self._trained = (torch.compile(network) if compiled else network,)
        self.train_accuracy = MulticlassAccuracy(network.num_classes, average="micro")
        self.accuracy = MulticlassAccuracy(network.num_classes, average="micro")

    def on_fit_start(self) -> None:
        """Notes the seed of the run."""
        self._seed = torch.initial_seed()

    def on_train_epoch_start(self) -> None:
        """Seeds dropout and the like by epoch and process, so that a resumed epoch is the same."""
        torch.manual_seed(self._seed + (self.current_epoch << 32) + (self.global_rank << 24))

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (B, K) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.network(image)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the mean cross-entropy of a batch."""
        logits = self._trained[0](batch.image)
        loss = F.cross_entropy(logits, batch.label)
        self.train_accuracy.update(logits.detach(), batch.label)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts correct predictions; padding rows are left out."""
        logits, kept = self(batch.image), batch.index >= 0
        self.accuracy.update(logits[kept], batch.label[kept])
        self.log("val/accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Returns the optimizer and, if there is one, its scheduler."""
        if self.optimizer is None:
            raise ValueError(
                "expected an optimizer to train with, got none; choose one with optim=..."
            )
        optimizer = self.optimizer(self.network.parameters())
        if self.scheduler is None:
            return optimizer
        steps = (
            {"total_steps": int(self.trainer.estimated_stepping_batches)}
            if self.interval == "step"
            else {}
        )
        scheduler = self.scheduler(optimizer, **steps)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration."""
        checkpoint["config"] = self.config
