"""The callback that watches NormRatio of every block and selects one, without OOD data."""

__all__ = ["BlockSelection"]

import csv
import json
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
from src.records.atomic import try_to_write
from src.records.history import STABILITY

log = logging.getLogger(__name__)
LOGGED = {"ratio": "norm_ratio", "norm_id": "norm_id", "norm_pseudo_ood": "norm_pseudo_ood"}
HISTORY = ("epoch", "block", "depth", "norm_id", "norm_pseudo_ood", "ratio", "selected")


class BlockSelection(L.Callback):
    """Measures NormRatio of every block in each validation epoch and selects the largest.

    The clean half of NormRatio is read from the validation forward itself, by hooks that are
    open during it; the callback adds one forward of the pseudo-OOD images and nothing else.
    The result is put into `module.network`, logged as `norm_ratio/<block>`, `selected_block`
    (depth, counted from 1) and `norm_ratio_margin` (best minus second), beside the means it is
    made of, `norm_id/<block>` and `norm_pseudo_ood/<block>`.

    Args:
        pseudo_ood: (image (B, C, H, W), index (B,)) -> pseudo-OOD images of the same shape.
        split: the ID images to measure on: "validation" (held out) or "training" (all that the
            data module was given to train on, as in the paper; two forwards an image).
        normalised: whether the network gets normalised images, as in training.
        history: CSV file that gains a row per block in each epoch; None keeps no file.
        bootstrap: samples of the images on which the last epoch selects again.
        stability_seeds: other seeds of `pseudo_ood` with which the last epoch selects again, one
            more forward each. What both found is in `stability`, and beside the history. The
            last epoch is that of `max_epochs`, and `trainer.validate`.

    Raises:
        ValueError: if `split` is unknown, or a number is negative.

    Source:
        Yu et al., CVPR 2023, https://arxiv.org/abs/2212.02295, Algorithm 1.
    Differs:
        Held-out, normalised images by default. The authors' `normratio.py` uses the training
        split and leaves out the normalisation it trained with: `selection=official`.
    """

    def __init__(
        self,
        pseudo_ood: Callable[[Tensor, Tensor], Tensor],
        *,
        split: str = "validation",
        normalised: bool = True,
        history: str | Path | None = None,
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
                f"{bootstrap} and {stability_seeds}; 0 leaves them out"
            )
        self.pseudo_ood = pseudo_ood
        self.split = split
        self.normalised = normalised
        self.history = Path(history) if history is not None else None
        self._rows: list[list[str]] = []
        self.bootstrap, self.stability_seeds = bootstrap, stability_seeds
        self.stability: dict[str, Any] = {}
        self._repeated: SelectionStability | None = None
        self._norms: Mapping[str, Tensor] = {}
        self._hooks = ExitStack()

    def check(self, network: Network) -> None:
        """Tries pseudo-OOD on a blank image, so that a misfit shows before any work begins.

        Raises:
            ValueError: if pseudo-OOD images cannot be made at the size of the network's images.
        """
        self.pseudo_ood(torch.zeros(1, *network.image_shape), torch.zeros(1, dtype=torch.int64))

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Makes room for the network's blocks."""
        self.check(_network(module))
        self.norm_ratio = NormRatio(len(_network(module).blocks))
        if self.history is not None and self.history.exists():  # of a run that was cut off
            with self.history.open(newline="") as file:
                self._rows = list(csv.reader(file))[1:]

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
        """Takes the clean norms of the validation forward, adds the pseudo-OOD forward."""
        if not trainer.sanity_checking and self.split == "validation":
            self._measure(trainer, _network(module), batch, forward_clean=not self.normalised)

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Selects the block, logs the curves."""
        if trainer.sanity_checking:
            return
        if self.split == "training":
            for batch in _training_batches(trainer):
                self._measure(trainer, _network(module), batch, forward_clean=True)
        self._hooks.close()
        network = _network(module)
        means = self.norm_ratio.compute()  # torchmetrics makes a scalar of a single block's
        mean = {name: value.reshape(-1).tolist() for name, value in means.items()}
        network.norm_ratio = dict(zip(network.blocks, mean["ratio"], strict=True))
        depth = network.blocks.index(network.block("selected")) + 1
        best, second = (sorted(mean["ratio"], reverse=True) + mean["ratio"])[:2]
        module.log_dict(
            {
                f"{name}/{block}": value
                for key, name in LOGGED.items()
                for block, value in zip(network.blocks, mean[key], strict=True)
            }
            | {"selected_block": float(depth), "norm_ratio_margin": best - second},
            sync_dist=False,  # computed from sums over all processes: equal already
        )
        if self._repeated is not None:
            self.stability = {"epoch": trainer.current_epoch} | self._repeated.result()
        if trainer.is_global_zero:
            log.info(
                "epoch %d: selected block %s, NormRatio %.4f, margin %.4f",
                trainer.current_epoch, network.selected, best, best - second,
            )  # fmt: skip
            if self.history is not None:
                self._keep(self.history, trainer.current_epoch, network, mean)
                if self._repeated is not None:
                    text = json.dumps(self.stability, indent=2) + "\n"
                    try_to_write(
                        self.history.with_name(STABILITY), lambda path: path.write_text(text)
                    )

    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException
    ) -> None:
        """Closes the hooks."""
        self._hooks.close()

    def _keep(
        self, path: Path, epoch: int, network: Network, mean: Mapping[str, list[float]]
    ) -> None:
        """Writes the history with one more row per block; what a cut-off epoch left goes."""
        self._rows = [row for row in self._rows if int(row[0]) < epoch]
        for position, block in enumerate(network.blocks):
            ratios = [mean[name][position] for name in ("norm_id", "norm_pseudo_ood", "ratio")]
            row = [epoch, block, position + 1, *ratios, int(block == network.selected)]
            self._rows.append([str(value) for value in row])
        try_to_write(path, self._write)

    def _write(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([HISTORY, *self._rows])

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
    return trainer.state.fn == "validate" or trainer.current_epoch + 1 == trainer.max_epochs


def _network(module: L.LightningModule) -> Network:
    return cast(Network, module.network)


def _training_batches(trainer: L.Trainer) -> Any:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches = data.selection_dataloader()
    quiet = None if trainer.is_global_zero else True  # None: unless stderr is a terminal
    for batch in tqdm(batches, "selection", unit=" batches", leave=False, disable=quiet):
        yield trainer.strategy.batch_to_device(batch)  # calls `on_after_batch_transfer` as well
