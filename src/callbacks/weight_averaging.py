"""The callback that averages the weights of a training, and makes the average the network."""

__all__ = ["EMA"]

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn


class EMA(WeightAveraging):
    """Keeps an exponential moving average of weights and buffers over the training steps.

    The average is what is validated, what the block is selected on, what is benchmarked and what
    checkpoints hold as the network; the weights of the training are beside it for a resumed run.

    Args:
        decay: Share of the average that stays at each step. At step t it is at most
            (1 + t) / (10 + t), so that a short training also forgets its first weights.

    Raises:
        ValueError: If the decay is out of range.

    Source:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J.
        Control Optim. 30(4), 1992; the rise of the decay is that of
        `tf.train.ExponentialMovingAverage` with `num_updates`.
    Differs:
        Lightning's `EMAWeightAveraging` copies the network before it is moved to the device, so
        that the average of a GPU's weights would be made on the CPU. Its checkpoints lack the
        selection, which the network holds beside its tensors. A run that is resumed after its
        last step would be benchmarked with the weights of the training.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"expected a decay within [0, 1), got {decay}; 0.999 is usual")
        super().__init__()
        self.decay = decay

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Makes the average where the network will be."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, module, stage)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Moves the average towards the weights after each step of the optimizer.

        That of torch would wait for the device.
        """
        step = trainer.global_step
        if step > self._latest_update_step and self._average_model is not None:
            self._latest_update_step = step
            share = 1 - min(self.decay, (1 + step) / (10 + step))
            average, current = (_state(each) for each in (self._average_model.module, module))
            torch._foreach_lerp_(average[0], current[0], share)
            for ours, theirs in zip(average[1], current[1], strict=True):
                ours.copy_(theirs)

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Saves the average as the network, with what the network holds beside tensors."""
        super().on_save_checkpoint(trainer, module, checkpoint)
        if "current_model_state" in checkpoint:
            state = checkpoint["current_model_state"].items()
            checkpoint["state_dict"].update({k: v for k, v in state if not torch.is_tensor(v)})

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Makes the average the network also where no step was left to train."""
        self._copy_average_to_current(module)


def _state(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the floats of a module, and what has no mean, such as a number of batches."""
    state = [each.detach() for each in (*module.parameters(), *module.buffers())]
    floats = [each for each in state if each.is_floating_point()]
    return floats, [each for each in state if not each.is_floating_point()]
