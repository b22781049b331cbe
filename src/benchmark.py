"""The benchmark: one test loop over the ID set and every OOD set that fills the score table."""

__all__ = ["Benchmark"]

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from src.data.datamodule import ImageData
from src.data.datasets import Batch
from src.detectors import Detector, expand_blocks
from src.metrics.score_table import Scores, ScoreTable
from src.network import ForwardPass, Network
from src.records.atomic import try_to_write


def digest(network: Network) -> str:
    """Returns a hash of what the scores of a network depend on: its weights and selection."""
    content = hashlib.sha256()
    for name, value in network.state_dict().items():
        content.update(name.encode())
        if torch.is_tensor(value):
            value = value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
        content.update(value if isinstance(value, bytes) else repr(value).encode())
    return content.hexdigest()


@contextmanager
def _float32(device: torch.device) -> Iterator[None]:
    """Inside, the network runs in float32, also where cuDNN would round its inputs to TF32."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


class Benchmark(L.LightningModule):
    """Scores each image of each source once, with all detectors, in one forward pass.

    `run` runs the test loop: first over the ID images that any detector is fitted on, then over
    the sources. Afterwards `scores` is the same on every process.

    Args:
        network: Classifier with its selected block.
        detectors: Name -> detector; `at: each_block` becomes one column per block.
        sources: Names of the data sets, "id" first.
        autocast: Whether to score in the precision of the trainer. By default the network runs
            in float32 whatever it was trained in, so that the figures do not depend on it.

    Raises:
        ValueError: If the arguments of a detector do not fit the network.
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
        fitted = {d.fit_on for d in columns.values() if d.is_fitted_on_data}
        self.fit_on = tuple(part for part in ("train", "validation") if part in fitted)
        self.table = ScoreTable(list(columns), sources)
        self.autocast = autocast
        self.forward_passes = 0
        self.remaining = tuple(sources)
        self._keep: Path | None = None
        self._done: dict[str, Any] = {"forward_passes": 0}

    @property
    def loaders(self) -> tuple[str, ...]:
        """Names of the test loaders in their order: parts to fit on, then sources to score."""
        return (*self.fit_on, *self.remaining)

    def run(self, trainer: L.Trainer, data: ImageData, *, keep_in: Path | None = None) -> Scores:
        """Runs the test loop over the images that are still to be used, and returns all scores.

        Args:
            trainer: Trainer that runs the loop.
            data: Images of the sources.
            keep_in: Folder that receives the fitted state and, source by source, the scores. If
                an interrupted benchmark of the same weights left them there, its work is not
                repeated. None keeps nothing.
        """
        if keep_in is not None:
            self._resume(keep_in)
        data.test_on(self.loaders)
        trainer.test(self, datamodule=data, verbose=False)
        return self.scores

    def _resume(self, folder: Path) -> None:
        """Reads what an interrupted benchmark left, and keeps the rest in the same folder."""
        self._keep = folder
        self._weights = digest(self.network)
        fit, scores = (self._kept(folder / name) for name in ("fit.pt", "scores.pt"))
        if self.fit_on and fit is not None:
            self.detectors.load_state_dict(fit["state"])
            self.fit_on = ()
            self._done = fit
        if scores is not None and not self.fit_on:
            self.remaining = self.table.sources[scores["sources"] :]
            self._done = scores

    def _kept(self, file: Path) -> dict[str, Any] | None:
        if not file.exists():
            return None
        kept: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return kept if kept["weights"] == self._weights else None

    def _write(self, name: str, **content: Any) -> None:
        content |= {"weights": self._weights, "forward_passes": self.forward_passes}
        if self._keep is not None and self.trainer.is_global_zero:
            try_to_write(self._keep / name, lambda path: torch.save(content, path))

    @property
    def needs_selection(self) -> bool:
        """Whether a column reads the selected block and none has been selected yet."""
        columns = self.columns.values()
        at_selected = any("selected" in detector.named_blocks() for detector in columns)
        return at_selected and self.network.selected is None

    def check_selection(self) -> None:
        """Refuses to continue without a selection that is needed.

        Raises:
            RuntimeError: If a detector reads the selected block and none has been selected.
        """
        if self.needs_selection:
            self.network.block("selected")

    def on_test_start(self) -> None:
        """Starts an empty table.

        Raises:
            ValueError: If the trainer has other loaders than `loaders`.
            RuntimeError: If a selection is needed and was not made.
        """
        given = len(self.trainer.num_test_batches)
        if given != len(self.loaders):
            raise ValueError(
                f"expected the test loaders {', '.join(self.loaders)}, got {given} loaders; "
                "start it with benchmark.run(trainer, data)"
            )
        self.check_selection()
        for detector in self.columns.values():
            detector.reset()
        self.table.reset()
        self.forward_passes = self._done["forward_passes"]
        if "score" in self._done and self.trainer.is_global_zero:
            self.table.score.append(self._done["score"].to(self.device))
            self.table.row.append(self._done["row"].to(self.device))

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Before the first batch of a loader, fits the detectors or keeps the scores so far."""
        if batch_idx == 0 and dataloader_idx == len(self.fit_on):
            if self.fit_on:
                self._fit()
        elif batch_idx == 0 and dataloader_idx > len(self.fit_on):
            self._keep_scores(self.loaders[dataloader_idx])

    def _fit(self) -> None:
        with self._precision(), torch.inference_mode(False), torch.no_grad():
            for detector in self.columns.values():
                detector.fit(self.network)
                detector.reset()
        if self._keep is not None:
            self._write("fit.pt", state=self.detectors.state_dict())

    def _keep_scores(self, upcoming: str) -> None:
        """Writes the scores of all sources before the upcoming one."""
        if self._keep is None:
            return
        scores = self.table.compute()
        columns = (scores.source, scores.index, scores.label, scores.prediction)
        row = torch.stack(columns, dim=1)
        sources = self.table.sources.index(upcoming)
        self._write("scores.pt", sources=sources, score=scores.score, row=row)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Observes one batch; fits detectors on it, or adds its scores to the table."""
        loader = self.loaders[dataloader_idx]
        with self._precision():
            if loader in self.fit_on:
                self._update(batch, loader)
                return
            seen = self._observe(batch.image, self.columns.values())
            score = torch.stack(
                [detector.score(seen).double() for detector in self.columns.values()], 1
            )
        source = self.table.sources.index(self.loaders[dataloader_idx])
        # labels of an OOD set, if it has any, refer to other classes
        label = batch.label if source == 0 else torch.full_like(batch.label, -1)
        self.table.update(score, source, batch.index, label, seen.logits.argmax(dim=1))

    def _precision(self) -> AbstractContextManager[None]:
        return nullcontext() if self.autocast else _float32(self.device)

    def _observe(self, image: Tensor, detectors: Collection[Detector]) -> ForwardPass:
        self.forward_passes += 1
        for detector in detectors:
            detector.prepare(self.network)
        read = [pair for detector in detectors for pair in detector.reads(self.network)]
        return self.network.observe(image, keep_maps=False, read=read)

    def _update(self, batch: Batch, part: str) -> None:
        """Updates the detectors that are fitted on this part with the rows that are no padding."""
        wanting = [d for d in self.columns.values() if d.is_fitted_on_data and d.fit_on == part]
        kept = batch.index >= 0
        with torch.inference_mode(False), torch.no_grad():  # a fit may need gradients
            seen = self._observe(batch.image, wanting).rows(kept)
            for detector in wanting:
                detector.update(seen, batch.label[kept], batch.index[kept])

    def on_test_epoch_end(self) -> None:
        """Gathers the table."""
        self.scores = self.table.compute()
