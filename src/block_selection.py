"""The callback that measures every block and selects one, without OOD data."""

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
from src.metrics.criterion import BlockCriterion, Estimate
from src.metrics.stability import SelectionStability
from src.network import Network
from src.records.history import (
    HistoryWriter,
    read_stability,
    write_selection,
    write_stability,
)
from src.records.selection import CRITERIA, margin

log = logging.getLogger(__name__)


class BlockSelection(L.Callback):
    """Measures a criterion of every block in each validation epoch and selects the largest.

    The criteria compare FeatureNorm f of images x with that of their pseudo-OOD versions x':
    "norm_ratio", the mean of f(x) / f(x'), as in the paper; "paired_t", the mean of
    log f(x) - log f(x') over its standard deviation; "auroc", the AUROC of f. NormRatio is
    measured and logged in any case. The clean half comes from the validation forward pass itself,
    through hooks that are open during it; the callback adds one forward pass of the pseudo-OOD
    images and nothing else.

    It stores the result in `module.network` and logs `norm_ratio/<block>`, `norm_id/<block>`,
    `norm_pseudo_ood/<block>`, `norm_ratio_margin` (the largest NormRatio minus the second),
    `selected_block` (depth, counted from 1) and `standard_error/<block>` of the criterion; another
    criterion than NormRatio has its own `<criterion>/<block>` and `<criterion>_margin`. A
    selection holds for the weights that it was made on: the next training step takes it back.

    Args:
        pseudo_ood: Maps images (B, C, H, W) and their indices (B,) to pseudo-OOD images of the
            same shape.
        criterion: "norm_ratio", "paired_t" or "auroc".
        split: ID images to measure on: "validation" (the held-out images) or "training" (all
            images that the data module was given to train on, as in the paper; this takes two
            forward passes per image).
        normalised: Whether the network receives normalised images, as in training.
        history: Whether to keep `norm_ratio.csv`, with one row per block and epoch,
            `selection.json` and `selection_stability.json` in the trainer's `default_root_dir`.
        bootstrap: Number of bootstrap samples of the images on which the last epoch repeats the
            selection.
        stability_seeds: Number of other seeds of `pseudo_ood` with which the last epoch repeats
            the selection, at one more forward pass each. The results are in `stability`. The
            last epoch is one that ends the training as far as it knows, or `trainer.validate`.

    Raises:
        ValueError: If `criterion` or `split` is unknown, or a number is negative.

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
        criterion: str = "norm_ratio",
        split: str = "validation",
        normalised: bool = True,
        history: bool = False,
        bootstrap: int = 0,
        stability_seeds: int = 0,
    ) -> None:
        if criterion not in CRITERIA:
            raise ValueError(
                f"expected criterion to be one of {', '.join(CRITERIA)}, got {criterion!r}; "
                "choose one"
            )
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
        self.criterion = criterion
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
        """Checks the pseudo-OOD images, and reads the history of an interrupted run."""
        self.check(_network(module))
        if self.history:
            folder = Path(trainer.default_root_dir)
            self._writer = HistoryWriter(folder) if trainer.is_global_zero else None
            self.stability = self.stability or read_stability(folder)

    def covers(self, network: Network) -> bool:
        """Whether selection and stability were measured on the weights that the network has."""
        is_measured = self.stability or not (self.bootstrap or self.stability_seeds)
        return bool(network.measured and network.criterion == self.criterion and is_measured)

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Forgets the selection: it was made on weights that now change."""
        _network(module).measured, self.stability = {}, {}

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
        blocks = _network(module).blocks
        self._measured = BlockCriterion(self.criterion, len(blocks), module.device)
        self._repeated = None
        if (self.bootstrap or self.stability_seeds) and _is_last(trainer):
            self._repeated = SelectionStability(
                self.pseudo_ood, blocks, replicates=self.bootstrap, seeds=self.stability_seeds,
                device=module.device, criterion=self.criterion,
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
        estimate = self._measured.compute()
        mean = {name: value.tolist() for name, value in estimate.mean.items()}
        is_news = trainer.global_step == 0 or not network.measured  # not of trained weights yet
        values = {"norm_ratio": mean["ratio"], self.criterion: estimate.value.tolist()}
        network.measured = {
            name: dict(zip(network.blocks, value, strict=True)) for name, value in values.items()
        }
        self._log(module, network, estimate, is_news=is_news)
        if self._repeated is not None:
            repeated = self._repeated.result(estimate)
            self.stability = {"epoch": trainer.current_epoch} | repeated
        if trainer.is_global_zero and self._writer is not None:
            selected, folder = network.block("selected"), Path(trainer.default_root_dir)
            self._writer.add(trainer.current_epoch, network.blocks, mean, selected)
            facts = {"epoch": trainer.current_epoch} | estimate.facts(network.blocks)
            write_selection(folder, facts)
            if self._repeated is not None:
                write_stability(folder, self.stability)

    def _log(
        self, module: L.LightningModule, network: Network, estimate: Estimate, *, is_news: bool
    ) -> None:
        curves = {
            "norm_ratio": estimate.mean["ratio"],
            "norm_id": estimate.mean["norm_id"],
            "norm_pseudo_ood": estimate.mean["norm_pseudo_ood"],
            self.criterion: estimate.value,
            "standard_error": estimate.standard_error,
        }
        margins = {name: float(margin(curves[name])) for name in network.measured}
        logged = {
            f"{name}/{block}": value
            for name, values in curves.items()
            for block, value in zip(network.blocks, values.tolist(), strict=True)
        }
        logged |= {f"{name}_margin": value for name, value in margins.items()}
        logged["selected_block"] = float(estimate.selected + 1)
        module.log_dict(logged, sync_dist=False)  # equal on all processes already
        if module.trainer.is_global_zero and is_news:
            tied = [network.blocks[position] for position in estimate.tied[1:]]
            log.info(
                "epoch %d: selected block %s, %s %.4f, margin %.4f%s",
                module.current_epoch, network.selected, CRITERIA[self.criterion],
                estimate.value[estimate.selected], margins[self.criterion],
                f", tied with {tied[0]}" if tied else "",
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
            self._measured.update(clean, puzzle, batch.index[kept])
            if self._repeated is not None:
                self._repeated.update(clean, puzzle, batch.index[kept])
                for seed, pseudo_ood in self._repeated.puzzles.items():
                    forward(pseudo_ood(batch.image, batch.index))
                    self._repeated.measured[seed].update(clean, norms(), batch.index[kept])


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
