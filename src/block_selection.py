"""The callback that measures NormRatio of every block and selects one, without OOD data."""

__all__ = ["BlockSelection"]

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor
from tqdm import tqdm

from src.data.datasets import Batch
from src.metrics.norm_ratio import NormRatio
from src.metrics.stability import SelectionStability
from src.network import Network
from src.records.history import HistoryWriter, read_stability, write_stability
from src.records.selection import margin

log = logging.getLogger(__name__)
LOGGED = {"ratio": "norm_ratio", "norm_id": "norm_id", "norm_pseudo_ood": "norm_pseudo_ood"}


class BlockSelection(L.Callback):
    """Measures NormRatio of every block in each validation epoch and selects the largest.

    The clean half of NormRatio comes from the validation forward pass itself, through hooks that
    are open during it; the callback adds one forward pass of the pseudo-OOD images and nothing
    else. It stores the result in `module.network` and logs `norm_ratio/<block>`,
    `selected_block` (depth, counted from 1), `norm_ratio_margin` (NormRatio of the selected block
    minus the largest of the others), `norm_id/<block>` and `norm_pseudo_ood/<block>`. A selection
    holds for the weights that it was made on: the next training step takes it back.

    Args:
        pseudo_ood: Maps images (B, C, H, W) and their indices (B,) to pseudo-OOD images of the
            same shape.
        split: ID images to measure on: "validation" (the held-out images) or "training" (all
            images that the data module was given to train on, as in the paper; this takes two
            forward passes per image).
        normalised: Whether the network receives normalised images, as in training.
        history: Whether to keep `norm_ratio.csv`, with one row per block and epoch, and
            `selection_stability.json` in the trainer's `default_root_dir`.
        bootstrap: Number of bootstrap samples of the images on which the last epoch repeats the
            selection.
        stability_seeds: Number of other seeds of `pseudo_ood` with which the last epoch repeats
            the selection, at one more forward pass each. The results are in `stability`. The
            last epoch is one that ends the training as far as it knows, or `trainer.validate`.

    Raises:
        ValueError: If `split` is unknown, or a number is negative.

    Source:
        Yu et al., CVPR 2023, https://arxiv.org/abs/2212.02295, Algorithm 1.
    Differs:
        Held-out, normalised images by default. The authors' `normratio.py` uses the training
        split and leaves out the normalisation used in training: `selection=official`.
    """

    def __init__(
        self,
        pseudo_ood: Callable[[Tensor, Tensor], Tensor],
        *,
        split: str = "validation",
        normalised: bool = True,
        history: bool = False,
        bootstrap: int = 0,
        stability_seeds: int = 0,
    ) -> None:
        if split not in ("validation", "training"):
            raise ValueError(
                f"expected split to be 'validation' or 'training', got {split!r}; choose one"
            )
        if min(bootstrap, stability_seeds) < 0:
            raise ValueError(
                "expected bootstrap and stability_seeds of at least 0, got "
                f"{bootstrap} and {stability_seeds}; 0 turns them off"
            )
        self.pseudo_ood = pseudo_ood
        self.split = split
        self.normalised = normalised
        self.history = history
        self.bootstrap, self.stability_seeds = bootstrap, stability_seeds
        self.stability: dict[str, Any] = {}
        self._writer: HistoryWriter | None = None
        self._repeated: SelectionStability | None = None
        self._norms: Mapping[str, Tensor] = {}
        self._hooks = ExitStack()

    def check(self, network: Network) -> None:
        """Makes one pseudo-OOD image, so that a mismatch is found before any work begins.

        Raises:
            ValueError: If pseudo-OOD images cannot be made at the size of the network's images.
        """
        self.pseudo_ood(torch.zeros(1, *network.image_shape), torch.zeros(1, dtype=torch.int64))

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Prepares the metric, and reads the history of an interrupted run."""
        self.check(_network(module))
        self.norm_ratio = NormRatio(len(_network(module).blocks))
        if self.history:
            folder = Path(trainer.default_root_dir)
            self._writer = HistoryWriter(folder) if trainer.is_global_zero else None
            self.stability = self.stability or read_stability(folder)

    def covers(self, network: Network) -> bool:
        """Whether selection and stability were measured on the weights that the network has."""
        is_measured = self.stability or not (self.bootstrap or self.stability_seeds)
        return bool(network.norm_ratio and is_measured)

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Forgets the selection: it was made on weights that now change."""
        _network(module).norm_ratio, self.stability = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the history so far, for the case that its file is damaged."""
        return {"history": self._writer.rows} if self._writer else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the file of the history again if it was damaged."""
        if self._writer:
            self._writer.restore(state.get("history", ()))

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the hooks."""
        if trainer.sanity_checking:
            return
        self.norm_ratio.to(module.device).reset()
        self._repeated = None
        if (self.bootstrap or self.stability_seeds) and _is_last(trainer):
            self._repeated = SelectionStability(
                self.pseudo_ood, _network(module).blocks, replicates=self.bootstrap,
                seeds=self.stability_seeds, device=module.device,
            )  # fmt: skip
        self._norms = self._hooks.enter_context(_network(module).observe_norms())

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Reads the clean norms of the validation forward pass, adds the pseudo-OOD pass."""
        if not trainer.sanity_checking and self.split == "validation":
            self._measure(trainer, _network(module), batch, forward_clean=not self.normalised)

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Selects the block and logs the curves."""
        if trainer.sanity_checking:
            return
        if self.split == "training":
            for batch in _training_batches(trainer):
                self._measure(trainer, _network(module), batch, forward_clean=True)
        self._hooks.close()
        network = _network(module)
        means = self.norm_ratio.compute()  # torchmetrics makes a scalar of a single block
        mean = {name: value.reshape(-1).tolist() for name, value in means.items()}
        is_news = trainer.global_step == 0 or not network.norm_ratio  # not of trained weights yet
        network.norm_ratio = dict(zip(network.blocks, mean["ratio"], strict=True))
        self._log(module, network, mean, is_news=is_news)
        if self._repeated is not None:
            self.stability = {"epoch": trainer.current_epoch} | self._repeated.result()
        if trainer.is_global_zero and self._writer is not None:
            selected = network.block("selected")
            self._writer.add(trainer.current_epoch, network.blocks, mean, selected)
            if self._repeated is not None:
                write_stability(Path(trainer.default_root_dir), self.stability)

    def _log(
        self,
        module: L.LightningModule,
        network: Network,
        mean: Mapping[str, list[float]],
        *,
        is_news: bool,
    ) -> None:
        selected, lead = network.block("selected"), float(margin(mean["ratio"]))
        curves = {
            f"{name}/{block}": value
            for key, name in LOGGED.items()
            for block, value in zip(network.blocks, mean[key], strict=True)
        }
        depth = float(network.blocks.index(selected) + 1)
        module.log_dict(
            curves | {"selected_block": depth, "norm_ratio_margin": lead},
            sync_dist=False,  # computed from sums over all processes: equal already
        )
        if module.trainer.is_global_zero and is_news:
            log.info(
                "epoch %d: selected block %s, NormRatio %.4f, margin %.4f",
                module.current_epoch, selected, network.norm_ratio[selected], lead,
            )  # fmt: skip

    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException
    ) -> None:
        """Closes the hooks."""
        self._hooks.close()

    def _measure(
        self, trainer: L.Trainer, network: Network, batch: Batch, *, forward_clean: bool
    ) -> None:
        forward = network if self.normalised else network.net
        kept = batch.index >= 0

        def norms() -> Tensor:
            return torch.stack([self._norms[block] for block in network.blocks], dim=1)[kept]

        with trainer.precision_plugin.forward_context():
            if forward_clean:
                forward(batch.image)
            clean = norms()
            forward(self.pseudo_ood(batch.image, batch.index))
            puzzle = norms()
            self.norm_ratio.update(clean, puzzle)
            if self._repeated is not None:
                self._repeated.bootstrap.update(clean, puzzle, batch.index[kept])
                for seed, pseudo_ood in self._repeated.puzzles.items():
                    forward(pseudo_ood(batch.image, batch.index))
                    self._repeated.norm_ratio[seed].update(clean, norms())


def _is_last(trainer: L.Trainer) -> bool:
    """Whether no training follows, as far as can be known before a validation."""
    ends = trainer.should_stop or trainer.global_step == trainer.max_steps
    return (
        ends or trainer.state.fn == "validate" or trainer.current_epoch + 1 == trainer.max_epochs
    )


def _network(module: L.LightningModule) -> Network:
    return cast(Network, module.network)


def _training_batches(trainer: L.Trainer) -> Any:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches = data.selection_dataloader()
    quiet = None if trainer.is_global_zero else True  # None: unless stderr is a terminal
    for batch in tqdm(batches, "selection", unit=" batches", leave=False, disable=quiet):
        yield trainer.strategy.batch_to_device(batch)  # calls `on_after_batch_transfer` as well
