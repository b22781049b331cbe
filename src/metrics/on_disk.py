"""OOD figures of more scores than fit into memory: sorted shards on disk, walked once."""

__all__ = ["ScoreShards", "ood_metrics_on_disk"]

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.metrics.ood import accepted, finite_scores, metrics_of
from src.records.atomic import write_whole

Array = NDArray[np.float64]


class ScoreShards:
    """Writes the scores of one detector on one source as sorted shards, `PROCESS-NUMBER.npy`.

    Several processes may write into one folder; no process gathers anything.

    Args:
        folder: Folder of this detector and source.
        process: Number of this process.
        size: Scores of a shard; as many wait in memory.

    Raises:
        FileExistsError: If this process has shards in the folder already.
    """

    def __init__(self, folder: Path, *, process: int = 0, size: int = 2**20) -> None:
        if any(folder.glob(f"{process}-*.npy")):
            raise FileExistsError(
                f"expected no shards of process {process} in {folder}, got some; remove them, or "
                "choose another folder"
            )
        self.folder, self.process, self.size = folder, process, size
        self._waiting = torch.empty(size, dtype=torch.float64)
        self._filled = self._written = 0

    def append(self, score: Tensor) -> None:
        """Adds (B,) float scores, higher = more in-distribution, in any order; B may be 0.

        Raises:
            ValueError: If they are not a (B,) float tensor, or hold NaN or infinity.
        """
        if score.shape == (0,):  # all rows of a batch may be padding
            return
        left = finite_scores("score", score.detach())
        while len(left):
            part = left[: self.size - self._filled]
            self._waiting[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            left = left[len(part) :]
            if self._filled == self.size:
                self._write()

    def close(self) -> None:
        """Writes what waits; call it after the last batch."""
        if self._filled:
            self._write()

    def _write(self) -> None:
        array = self._waiting[: self._filled].sort().values.numpy()
        path = self.folder / f"{self.process}-{self._written:06}.npy"
        write_whole(path, lambda partial: np.save(partial, array))
        self._filled, self._written = 0, self._written + 1


def ood_metrics_on_disk(
    id_folder: Path, ood_folder: Path, *, block: int = 2**21
) -> dict[str, float]:
    """Returns the figures of `ood_metrics` of the shards in two folders.

    The walk goes from the largest score to the smallest, in blocks between pivots. Equal scores
    fall into one block, so that ties count exactly. AUROC, both FPR95 and the detection error are
    those of `ood_metrics` bit for bit. AUPR sums the same fractions in another order: it differs
    by no more than 1e-12.

    Memory holds at most two blocks of scores, however many are equal, while there are no more than
    1,024 shards; beyond, it grows by 1 / 1,024 of a block for each shard.

    Args:
        id_folder: Folder of the ID images' `ScoreShards`.
        ood_folder: The same of the OOD images.
        block: About the number of scores in memory at a time; each takes some 300 bytes.

    Raises:
        FileNotFoundError: If a folder has no shards.
        ValueError: If a shard is not a sorted (n,) float64 array.

    Source:
        Sorted runs and pivots at regular places of each: Shi and Schaeffer, "Parallel sorting by
        regular sampling", Journal of Parallel and Distributed Computing 14(4), 1992.
    """
    shards = _shards_of(id_folder), _shards_of(ood_folder)
    images, ood = (sum(len(_opened(path)) for path in each) for each in shards)
    return metrics_of(_blocks(*shards, _pivots([*shards[0], *shards[1]], block)), images, ood)


def _shards_of(folder: Path) -> list[Path]:
    shards = sorted(folder.glob("*.npy"))
    if not shards:
        raise FileNotFoundError(
            f"expected shards in {folder}, got none; write them with ScoreShards, and close it"
        )
    return shards


def _opened(path: Path) -> Array:
    """Returns a shard as its file: only what is read comes into memory, while it is open."""
    shard: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return shard


def _pivots(shards: Sequence[Path], block: int) -> list[float]:
    """Returns ascending scores, the smallest one first, with a block or two between neighbours."""
    stride = max(1, block // 1024)
    samples = []
    for path in shards:
        sample = np.array(_opened(path)[::stride])
        if sample.ndim != 1 or sample.dtype != np.float64 or (np.diff(sample) < 0).any():
            raise ValueError(
                f"expected {path} to be a sorted (n,) array of float64, got shape {sample.shape} "
                f"of {sample.dtype}; write shards with ScoreShards"
            )
        samples.append(sample)
    every = np.sort(np.concatenate(samples))
    pivots: list[float] = np.unique(every[:: max(1, block // stride)]).tolist()
    return pivots


def _blocks(
    id_shards: Sequence[Path], ood_shards: Sequence[Path], pivots: Sequence[float]
) -> Iterator[Tensor]:
    """Yields counts as `metrics_of` takes them: of the scores above each pivot, and its ties."""
    before = torch.zeros(2, 1, dtype=torch.int64)
    above = np.inf
    for pivot in reversed(pivots):
        (id_score, id_ties), (ood_score, ood_ties) = (
            _between(shards, pivot, above) for shards in (id_shards, ood_shards)
        )
        inside = before + accepted(id_score, ood_score)
        before = inside[:, -1:] + torch.tensor([[id_ties], [ood_ties]])
        yield torch.cat([inside, before], dim=1)
        above = pivot


def _between(shards: Sequence[Path], pivot: float, above: float) -> tuple[Tensor, int]:
    """Returns the scores between two pivots, without both, and how many equal the lower one."""
    inside, ties = [], 0
    for path in shards:
        shard = _opened(path)
        low, high = np.searchsorted(shard, pivot, "left"), np.searchsorted(shard, pivot, "right")
        # a copy, because a view would keep the pages of every shard in memory
        inside.append(np.array(shard[high : np.searchsorted(shard, above, "left")]))
        ties += int(high - low)
    return torch.from_numpy(np.concatenate(inside)), ties
