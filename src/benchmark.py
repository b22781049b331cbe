"""The benchmark: one test loop over ID and every OOD set that fills the score table."""

__all__ = ["Benchmark"]

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import lightning as L
import torch
from torch import nn

from src.data.datasets import Batch
from src.detectors import Detector, expand_blocks
from src.metrics.score_table import Scores, ScoreTable
from src.network import Network


class Benchmark(L.LightningModule):
    """Scores each image of each source once, with all detectors, in one forward pass.

    The test loaders are those of `ImageData.test_dataloader`: ID training images to fit on, if
    any detector wants them, then the sources. After the loop, `scores` is the same on every
    process.

    Args:
        network: the classifier, with its selected block.
        detectors: name -> detector; those `at: each_block` become one column per block.
        sources: names of the data sets, "id" first.
        autocast: score in the trainer's precision. By default the network runs in float32
            whatever it was trained in, so that the figures do not depend on it.

    Raises:
        ValueError: if a detector is at a block that the network does not have.
    """

    scores: Scores

    def __init__(
        self,
        network: Network,
        detectors: Mapping[str, Detector],
        sources: Sequence[str],
        *,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        columns = expand_blocks(detectors, network)
        self.network = network
        self.columns = columns
        self.detectors = nn.ModuleList(columns.values())  # to move them to the device
        self.keep_maps = any(detector.keep_maps for detector in columns.values())
        self.fits = any(detector.is_fitted_on_data for detector in columns.values())
        self.loaders = ("fit", *sources) if self.fits else tuple(sources)
        self.table = ScoreTable(list(columns), sources)
        self.autocast = autocast
        self.forward_passes = 0

    @property
    def needs_selection(self) -> bool:
        """Whether a column is at the selected block and none has been selected yet."""
        at_selected = any(detector.at == "selected" for detector in self.columns.values())
        return at_selected and self.network.selected is None

    def check_selection(self) -> None:
        """Refuses to go on without a selection that is needed.

        Raises:
            RuntimeError: if a detector is at the selected block and none has been selected.
        """
        if self.needs_selection:
            self.network.block("selected")

    def on_test_start(self) -> None:
        """Starts an empty table.

        Raises:
            ValueError: if the loaders are not those that it was told of.
            RuntimeError: if a selection is needed and was not made.
        """
        given = len(self.trainer.num_test_batches)
        if given != len(self.loaders):
            raise ValueError(
                f"expected the test loaders {', '.join(self.loaders)}, got {given} loaders; "
                "set data.fit_first to benchmark.fits"
            )
        self.check_selection()
        self.table.reset()
        self.forward_passes = 0

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Concludes the fit when the first batch to score arrives, on all processes alike."""
        if self.fits and batch_idx == 0 and self.loaders[dataloader_idx] == "id":
            for detector in self.columns.values():
                detector.fit(self.network)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Observes one batch; fits detectors on it, or adds its scores to the table."""
        with nullcontext() if self.autocast else torch.autocast(self.device.type, enabled=False):
            seen = self.network.observe(batch.image, keep_maps=self.keep_maps)
            self.forward_passes += 1
            if self.loaders[dataloader_idx] == "fit":
                kept = batch.index >= 0
                for detector in self.columns.values():
                    detector.update(seen.rows(kept), batch.label[kept], batch.index[kept])
                return
            score = torch.stack(
                [detector.score(seen).double() for detector in self.columns.values()], 1
            )
        source = self.table.sources.index(self.loaders[dataloader_idx])
        # labels of an OOD set, if it has any, are numbers of other classes
        label = batch.label if source == 0 else torch.full_like(batch.label, -1)
        self.table.update(score, source, batch.index, label, seen.logits.argmax(dim=1))

    def on_test_epoch_end(self) -> None:
        """Gathers the table."""
        self.scores = self.table.compute()
