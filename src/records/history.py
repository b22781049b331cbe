"""NormRatio over the epochs of a run, as its `norm_ratio.csv` tells it."""

__all__ = ["STABILITY", "History", "read_history"]

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STABILITY = "selection_stability.json"  # beside the history
Array = NDArray[np.float64]


class History(NamedTuple):
    """NormRatio of L blocks, by depth, over E epochs."""

    epoch: list[int]
    block: list[str]
    norm_id: Array  # (E, L) mean FeatureNorm of ID images
    norm_pseudo_ood: Array  # (E, L) mean FeatureNorm of their puzzles
    ratio: Array  # (E, L)
    selected: NDArray[np.intp]  # (E,) position of the selected block, from 0


def read_history(path: Path) -> History:
    """Returns the NormRatio history of a run; a repeated epoch (a resumed run) counts once."""
    with path.open(newline="") as file:
        rows = {(int(row["epoch"]), int(row["depth"])): row for row in csv.DictReader(file)}
    epoch, depth = (sorted({key[axis] for key in rows}) for axis in (0, 1))

    def values(name: str) -> Array:
        return np.array([[float(rows[e, d][name]) for d in depth] for e in epoch])

    block = [rows[epoch[-1], d]["block"] for d in depth]
    norm_id, norm_pseudo_ood, ratio = map(values, ("norm_id", "norm_pseudo_ood", "ratio"))
    return History(epoch, block, norm_id, norm_pseudo_ood, ratio, values("selected").argmax(1))
