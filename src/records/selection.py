"""The rule of selection, in one place: the block of largest criterion, and its margin."""

__all__ = ["CRITERIA", "margin", "select"]

import numpy as np
from numpy.typing import ArrayLike, NDArray

# criterion -> how it is written for a reader; the first is the paper's
CRITERIA = {"norm_ratio": "NormRatio", "paired_t": "paired T", "auroc": "AUROC"}


def select(criterion: ArrayLike) -> NDArray[np.intp]:
    """Returns the position of the largest value; on an exact tie, that of the deeper block.

    Args:
        criterion: (..., L) NormRatio, or another criterion, of L blocks, by depth.

    Returns:
        (...) positions in 0..L-1.

    Source:
        Yu et al., CVPR 2023, https://arxiv.org/abs/2212.02295, Algorithm 1.
    Differs:
        The paper does not say what happens on a tie.
    """
    value = np.asarray(criterion)
    return np.asarray(value.shape[-1] - 1 - value[..., ::-1].argmax(axis=-1))


def margin(criterion: ArrayLike, selected: int | None = None) -> NDArray[np.float64]:
    """Returns the value of the selected block minus the largest of the others.

    Args:
        criterion: (..., L) NormRatio, or another criterion, of L blocks, by depth.
        selected: Position of the block; None selects one in each row. With a given block the
            margin is negative in rows where another block has a larger value.

    Returns:
        (...) margins; 0 if there is only one block.
    """
    value = np.asarray(criterion, dtype=np.float64)
    if value.shape[-1] == 1:
        return np.zeros(value.shape[:-1])
    chosen = select(value) if selected is None else np.full(value.shape[:-1], selected)
    is_chosen = np.arange(value.shape[-1]) == chosen[..., None]
    best_other = np.where(is_chosen, -np.inf, value).max(axis=-1)
    of_chosen = np.where(is_chosen, value, -np.inf).max(axis=-1)
    return np.asarray(of_chosen - best_other)
