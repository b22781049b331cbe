"""The rule of the paper, in one place: the block of largest NormRatio, and its margin."""

__all__ = ["margin", "select"]

import numpy as np
from numpy.typing import ArrayLike, NDArray


def select(norm_ratio: ArrayLike) -> NDArray[np.intp]:
    """Returns the position of the largest NormRatio; on a tie, that of the deeper block.

    Args:
        norm_ratio: (..., L) NormRatio of L blocks, by depth.

    Returns:
        (...) positions in 0..L-1.

    Source:
        Yu et al., CVPR 2023, https://arxiv.org/abs/2212.02295, Algorithm 1.
    Differs:
        The paper does not say what happens on a tie.
    """
    ratio = np.asarray(norm_ratio)
    return np.asarray(ratio.shape[-1] - 1 - ratio[..., ::-1].argmax(axis=-1))


def margin(norm_ratio: ArrayLike, selected: int | None = None) -> NDArray[np.float64]:
    """Returns the NormRatio of the selected block minus the largest of the others.

    Args:
        norm_ratio: (..., L) NormRatio of L blocks, by depth.
        selected: Position of the block; None selects one in each row. With a given block the
            margin is negative in rows where another block has a larger NormRatio.

    Returns:
        (...) margins; 0 if there is only one block.
    """
    ratio = np.asarray(norm_ratio, dtype=np.float64)
    if ratio.shape[-1] == 1:
        return np.zeros(ratio.shape[:-1])
    chosen = select(ratio) if selected is None else np.full(ratio.shape[:-1], selected)
    is_chosen = np.arange(ratio.shape[-1]) == chosen[..., None]
    best_other = np.where(is_chosen, -np.inf, ratio).max(axis=-1)
    of_chosen = np.where(is_chosen, ratio, -np.inf).max(axis=-1)
    return np.asarray(of_chosen - best_other)
