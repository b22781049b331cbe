"""The benchmark: one test loop over the ID set and every OOD set that fills the score table."""

__all__ = ["KEPT", "Benchmark"]

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from src.data.datamodule import ImageData
from src.data.datasets import Batch
from src.detectors import Detector, expand_blocks
from src.metrics.score_table import Scores, ScoreTable
from src.network import ForwardPass, Network
from src.network.precision import in_float32
from src.network.weights import digest
from src.records.atomic import is_intact, try_to_write

log = logging.getLogger(__name__)
KEPT = ("fit.pt", "scores.pt")  # what a benchmark in progress leaves in its folder


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
        self.passes: Counter[str] = Counter()  # forward passes of each loader
        self.remaining = tuple(sources)
        self._keep: Path | None = None
        self._of: dict[str, str] = {}  # see _identify
        self._done: dict[str, Any] = {"passes": {}}

    @property
    def forward_passes(self) -> int:
        """Number of forward passes over all loaders on this process."""
        return self.passes.total()

    @property
    def block_weights(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Column -> block -> input -> weight, of the fitted detectors that weigh blocks."""
        found = {name: d.block_weights(self.network) for name, d in self.columns.items()}
        return {name: weights for name, weights in found.items() if weights}

    @property
    def loaders(self) -> tuple[str, ...]:
        """Names of the test loaders in their order: parts to fit on, then sources to score."""
        return (*self.fit_on, *self.remaining)

    def run(
        self,
        trainer: L.Trainer,
        data: ImageData,
        *,
        keep_in: Path | None = None,
        settings: str = "",
    ) -> Scores:
        """Runs the test loop over the images that are still to be used, and returns all scores.

        Args:
            trainer: Trainer that runs the loop.
            data: Images of the sources.
            keep_in: Folder that receives the fitted state and, source by source, the scores. If
                an interrupted benchmark left them there, and they are of the same weights,
                settings and images, its work is not repeated. None keeps nothing.
            settings: What the scores depend on besides, such as how the detectors are configured.
        """
        data.test_on(self.loaders)
        if keep_in is not None:
            self._settings = f"{settings}\n{self.autocast and trainer.precision}"
            self._resume(keep_in, data)
            data.test_on(self.loaders)
        trainer.test(self, datamodule=data, verbose=False)
        return self.scores

    def _resume(self, folder: Path, data: ImageData) -> None:
        """Reads what an interrupted benchmark left, and keeps the rest in the same folder."""
        self._keep = folder
        fit, scores = (_kept(folder / name) for name in KEPT)
        if fit is None and scores is None:
            return
        data.setup("test")
        self._identify(data)
        if self.fit_on and fit is not None and fit["of"] == self._of["fit"]:
            self.detectors.load_state_dict(fit["state"])
            self._done = {"passes": fit["passes"]}
            self.fit_on = ()
        if scores is not None and not self.fit_on:
            self._take(scores)

    def _take(self, scores: dict[str, Any]) -> None:
        """Takes the scores of the sources that are as they were; of all, the last is left."""
        same = [s for s in self.table.sources if scores["of"].get(s) == self._of[s]]
        self.remaining = tuple(s for s in self.table.sources if s not in same)
        self.remaining = self.remaining or self.table.sources[-1:]
        again = torch.tensor([self.table.sources.index(source) for source in self.remaining])
        kept = ~torch.isin(scores["row"][:, 0], again)
        self._done = {
            "passes": {k: v for k, v in scores["passes"].items() if k not in self.remaining},
            "score": scores["score"][kept],
            "row": scores["row"][kept],
        }

    def _identify(self, data: ImageData) -> None:
        """Tells by digests what the fit and the scores of each source depend on."""
        if self._of or self._keep is None:
            return
        names, state = (tuple(self.columns), self.table.sources), self.network.state_dict()
        common = digest(names, self._settings, *state, *state.values())
        is_fitted = any(detector.is_fitted_on_data for detector in self.columns.values())
        fit = digest(common, data.identity("train") if is_fitted else None)
        scores = {source: digest(fit, data.identity(source)) for source in self.table.sources}
        self._of = {"fit": fit, **scores}

    def _write(self, name: str, **content: Any) -> None:
        content["passes"] = dict(self.passes)
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
        self._identify(self.trainer.datamodule)  # type: ignore[attr-defined]
        for detector in self.columns.values():
            detector.reset()
        self.table.reset()
        self.passes = Counter(self._done["passes"])
        if "score" in self._done and self.trainer.is_global_zero:
            self.table.score.append(self._done["score"].to(self.device))
            self.table.row.append(self._done["row"].to(self.device))

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Before the first batch of a loader, fits the detectors or keeps the scores so far."""
        if batch_idx == 0 and dataloader_idx == len(self.fit_on):
            if self.fit_on:
                self._fit()
        elif batch_idx == 0 and dataloader_idx > len(self.fit_on):
            self._keep_scores(self.table.compute(), self.loaders[dataloader_idx:])

    def _fit(self) -> None:
        with self._precision(), torch.inference_mode(False), torch.no_grad():
            for detector in self.columns.values():
                detector.fit(self.network)
                detector.reset()
        if self._keep is not None and self.trainer.is_global_zero:
            (self._keep / "scores.pt").unlink(missing_ok=True)  # of another fit
        self._write("fit.pt", state=self.detectors.state_dict(), of=self._of.get("fit"))

    def _keep_scores(self, scores: Scores, upcoming: Sequence[str]) -> None:
        """Writes the scores of all sources but the upcoming ones."""
        of = {source: self._of.get(source) for source in {*self.table.sources} - {*upcoming}}
        columns = (scores.source, scores.index, scores.label, scores.prediction)
        self._write("scores.pt", of=of, score=scores.score, row=torch.stack(columns, dim=1))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Observes one batch; fits detectors on it, or adds its scores to the table."""
        loader = self.loaders[dataloader_idx]
        with self._precision():
            if loader in self.fit_on:
                self._update(batch, loader)
                return
            seen = self._observe(batch.image, self.columns.values(), loader)
            score = torch.stack(
                [detector.score(seen).double() for detector in self.columns.values()], 1
            )
        source = self.table.sources.index(self.loaders[dataloader_idx])
        # labels of an OOD set, if it has any, refer to other classes
        label = batch.label if source == 0 else torch.full_like(batch.label, -1)
        self.table.update(score, source, batch.index, label, seen.logits.argmax(dim=1))

    def _precision(self) -> AbstractContextManager[None]:
        return nullcontext() if self.autocast else in_float32(self.device)

    def _observe(self, image: Tensor, detectors: Collection[Detector], loader: str) -> ForwardPass:
        self.passes[loader] += 1
        for detector in detectors:
            detector.prepare(self.network)
        read = [pair for detector in detectors for pair in detector.reads(self.network)]
        return self.network.observe(image, keep_maps=False, read=read)

    def _update(self, batch: Batch, part: str) -> None:
        """Updates the detectors that are fitted on this part with the rows that are no padding."""
        wanting = [d for d in self.columns.values() if d.is_fitted_on_data and d.fit_on == part]
        kept = batch.index >= 0
        with torch.inference_mode(False), torch.no_grad():  # a fit may need gradients
            seen = self._observe(batch.image, wanting, part).rows(kept)
            for detector in wanting:
                detector.update(seen, batch.label[kept], batch.index[kept])

    def on_test_epoch_end(self) -> None:
        """Gathers the table, which is kept until the report is written."""
        self.scores = self.table.compute()
        self._keep_scores(self.scores, ())


def _kept(file: Path) -> dict[str, Any] | None:
    """Returns what a benchmark kept in a file; None if it is not there or was damaged."""
    if not file.exists():
        return None
    kept: Any = None
    with suppress(UnpicklingError, EOFError, RuntimeError, OSError):
        kept = torch.load(file, map_location="cpu", weights_only=True) if is_intact(file) else None
    if isinstance(kept, dict) and {"of", "passes"} <= kept.keys():
        return kept
    log.warning("%s is damaged or of an earlier version; it is made again", file)
    return None
