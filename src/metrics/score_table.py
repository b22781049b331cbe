"""The score table: one row per image and one column per detector."""

__all__ = ["ScoreTable", "Scores"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

ROW = ("source", "index", "label", "prediction")  # columns of Scores besides the score
LAYOUT: dict[str, tuple[int, type[np.generic]]] = {  # of the file: dimensions and type
    "score": (2, np.float64),
    **dict.fromkeys(ROW, (1, np.int64)),
    **dict.fromkeys(("detectors", "sources"), (1, np.str_)),
}


class Scores:
    """All scores of a benchmark, sorted by source and index; every figure follows from them.

    Attributes:
        detectors: Names of the J columns.
        sources: Names of the data sets; the first is "id".
        score: (N, J) float64 on the CPU, higher = more in-distribution.
        source: (N,) int64, position in `sources`.
        index: (N,) int64, position in the source.
        label: (N,) int64, -1 if the image has none.
        prediction: (N,) int64, class of the largest logit.
    """

    def __init__(
        self, detectors: Sequence[str], sources: Sequence[str], score: Tensor, row: Tensor
    ) -> None:
        order = torch.argsort(row[:, 0] * (row[:, 1].max() + 1) + row[:, 1])
        self.detectors = tuple(detectors)
        self.sources = tuple(sources)
        self.score = score[order].cpu()
        self.source, self.index, self.label, self.prediction = row[order].cpu().unbind(dim=1)

    @classmethod
    def load(cls, path: Path) -> "Scores":
        """Returns the table in the `scores.npz` of a finished run.

        Raises:
            OSError: If the file is not there, or must not be read.
            ValueError: If it is damaged, or holds something else.
        """
        columns = _read(path)
        if wrong := _wrong(columns):
            raise _no_scores(path, wrong)
        row = torch.from_numpy(np.stack([columns[name] for name in ROW], axis=1))
        score = torch.from_numpy(columns["score"])
        return cls(columns["detectors"].tolist(), columns["sources"].tolist(), score, row)

    def save(self, path: Path) -> None:
        """Writes the table so that `numpy.load(path, allow_pickle=False)` reads it."""
        columns = {name: getattr(self, name).numpy() for name in ("score", *ROW)}
        names = {name: np.array(getattr(self, name), str) for name in ("detectors", "sources")}
        np.savez(path, **columns, **names)  # type: ignore[arg-type]

    def of(self, source: str) -> Tensor:
        """Returns the (n, J) scores of one source."""
        return self.score[self.source == self.sources.index(source)]

    def column(self, detector: str) -> int:
        """Returns the position of a detector's column."""
        return self.detectors.index(detector)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each source."""
        return {name: len(self.of(name)) for name in self.sources}

    @property
    def id_accuracy(self) -> float:
        """Share of the labelled ID images with a correct prediction."""
        labelled = (self.source == 0) & (self.label >= 0)
        right = self.prediction[labelled] == self.label[labelled]
        return right.double().mean().item()


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Returns the columns of a file; no code in it runs."""
    with path.open("rb") as opened:
        try:
            with np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in LAYOUT}
        except Exception as error:  # zip files and numpy's format fail in many ways
            first = str(error).strip("'\"").partition("\n")[0]
            raise _no_scores(path, f"{type(error).__name__}: {first}") from None


def _wrong(columns: Mapping[str, NDArray[Any]]) -> str | None:
    """Returns what in the columns is not as `Scores` needs it; None if all is well."""
    for name, (dimensions, kind) in LAYOUT.items():
        array = columns[name]
        is_kind = np.issubdtype(array.dtype, kind) and array.dtype.isnative
        if not is_kind or array.ndim != dimensions:
            return f"{name} of type {array.dtype} and shape {array.shape}"
    score, sources = columns["score"], columns["sources"]
    if not score.size or score.shape[1] != len(columns["detectors"]):
        return f"scores of shape {score.shape} of {len(columns['detectors'])} detectors"
    for name in ROW:
        if len(columns[name]) != len(score):
            return f"{len(columns[name])} values of {name} for {len(score)} rows of scores"
    low, high = columns["source"].min(), columns["source"].max()
    if low < 0 or high >= len(sources):
        return f"sources from {low} to {high}, of which {len(sources)} have names"
    return None


def _no_scores(path: Path, wrong: str) -> ValueError:
    return ValueError(
        f"expected the scores.npz of a finished run, got {path} with {wrong}; "
        "evaluate the checkpoint again, or name another file"
    )


class ScoreTable(Metric):
    """Collects rows batch by batch on every process and drops padding rows (index -1).

    Args:
        detectors: Names of the J columns.
        sources: Names of the data sets.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    score: list[Tensor]
    row: list[Tensor]

    def __init__(self, detectors: Sequence[str], sources: Sequence[str]) -> None:
        super().__init__()
        self.detectors = tuple(detectors)
        self.sources = tuple(sources)
        self.add_state("score", [], dist_reduce_fx="cat")
        self.add_state("row", [], dist_reduce_fx="cat")

    def update(
        self, score: Tensor, source: int, index: Tensor, label: Tensor, prediction: Tensor
    ) -> None:
        """Adds a batch.

        Args:
            score: (B, J), higher = more in-distribution.
            source: Position of the data set in `sources`.
            index: (B,) int64 position of each image in its data set, -1 for padding.
            label: (B,) int64.
            prediction: (B,) int64.
        """
        kept = index >= 0
        row = torch.stack([torch.full_like(index, source), index, label, prediction], dim=1)
        self.score.append(score[kept].double())
        self.row.append(row[kept])

    def compute(self) -> Scores:
        """Returns the rows of all processes, in one fixed order."""
        score, row = dim_zero_cat(self.score), dim_zero_cat(self.row)
        return Scores(self.detectors, self.sources, score, row)
