"""The callback that fits a profile of norms in each validation epoch and logs its weights."""

__all__ = ["ProfileCurves"]

from typing import Any, cast

import lightning as L
import torch

from src.data.datasets import Batch
from src.detectors import NormProfile
from src.network import Network


class ProfileCurves(L.Callback):
    """Logs how the weights of a `NormProfile` change while the network learns.

    In each validation epoch it fits the profile on the held-out images, as the benchmark does
    after the training, and logs `norm_profile/<input>/<block>`, such as
    `norm_profile/norm/layer4.0` and `norm_profile/energy/logits`. An input that never varies has
    no point. The profile of the benchmark is another one.

    It costs 1 + M forward passes of the held-out images in each validation epoch, for a pool of M
    members, in float32 even where the training is not.

    Args:
        profile: The profile to fit.

    Raises:
        ValueError: In `setup`, if the profile does not fit the network.
    """

    def __init__(self, profile: NormProfile) -> None:
        self.profile = profile
        self._batch: Batch | None = None  # validated, and not read yet

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Checks that the profile fits the network."""
        self.profile.check(_network(module))

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Forgets what an interrupted validation left."""
        self.profile.to(module.device).reset()
        self._batch = None

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Reads the batch before this one.

        Not sooner: the first validation step gives all processes the same buffers, and hooks that
        `BlockSelection` holds open must see the pass of the validation last.
        """
        self._read(_network(module))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the batch until the next one."""
        if not trainer.sanity_checking:
            self._batch = batch

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Fits the profile and logs its weights."""
        if trainer.sanity_checking:
            return
        self._read(_network(module))
        with torch.inference_mode(False), torch.no_grad():
            self.profile.fit(_network(module))
        self.profile.reset()
        weights = self.profile.block_weights(_network(module))
        module.log_dict(
            {
                f"norm_profile/{name}/{block}": weight
                for block, each in weights.items()
                for name, weight in each.items()
                if weight is not None
            },
            sync_dist=False,  # fitted on the images of all processes: equal already
        )

    def _read(self, network: Network) -> None:
        if self._batch is None:
            return
        batch, self._batch = self._batch, None
        kept = batch.index >= 0
        with torch.inference_mode(False), torch.no_grad():
            read = self.profile.reads(network)
            seen = network.observe(batch.image, keep_maps=False, read=read).rows(kept)
            self.profile.update(seen, batch.label[kept], batch.index[kept])


def _network(module: L.LightningModule) -> Network:
    return cast(Network, module.network)
