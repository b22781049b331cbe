"""The usual figures of how well a score separates ID from OOD, exact with ties."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["ood_metrics"]


def ood_metrics(id_score: Tensor, ood_score: Tensor) -> dict[str, float]:
    """Returns the six OOD figures of one detector on one OOD set, as fractions.

    Each figure depends only on how many ID and OOD scores lie on each side of each distinct score:
    on the order of the scores, and neither on their scale nor on how ties are sorted. All work is
    done in float64 on the CPU, whatever the type and device of the scores.

    Args:
        id_score: (N,) scores of the ID images; higher is more in-distribution.
        ood_score: (M,) scores of the OOD images.

    Returns:
        auroc: Probability that an ID score exceeds an OOD score; a tie counts one half.
        fpr95_id_pos: Share of OOD accepted by the tightest threshold that accepts 95 % of ID.
        fpr95_ood_pos: Share of ID rejected by the tightest threshold that rejects 95 % of OOD.
        aupr_in: Average precision with ID as the positive class.
        aupr_out: Average precision with OOD as the positive class.
        detection_error: Smallest error of any threshold if ID and OOD are equally likely.

    Raises:
        ValueError: If an input is not a non-empty (N,) float tensor, or holds NaN or infinity.

    Source:
        AUROC and AUPR: Hendrycks and Gimpel, ICLR 2017, https://arxiv.org/abs/1610.02136.
        FPR95: Liang et al., ICLR 2018, https://arxiv.org/abs/1706.02690.
        Detection error (1 - detection accuracy): Lee et al., NeurIPS 2018,
        https://arxiv.org/abs/1807.03888.

    Differs:
        FeatureNorm's `utils/metric.py` takes the recall nearest to 95 %, which may fall below it;
        OpenOOD integrates AUPR by the trapezoid rule. `fpr95_id_pos` is the FPR95 of the
        FeatureNorm paper, `fpr95_ood_pos` that of OpenOOD.
    """
    id_score = finite_scores("id_score", id_score)
    ood_score = finite_scores("ood_score", ood_score)
    return metrics_of([accepted(id_score, ood_score)], len(id_score), len(ood_score))


def metrics_of(blocks: Iterable[Tensor], images: int, ood: int) -> dict[str, float]:
    """Returns the figures of `ood_metrics` from blocks of the counts that `accepted` returns.

    Integers are added or compared over the blocks, so that four figures do not depend on how the
    thresholds are split. AUPR is a sum of fractions for each block.

    Args:
        blocks: (2, V + 1) int64 counts of accepted ID and OOD images. The first column of each
            block is the last of the block before it, and all together hold each threshold once.
        images: Number of ID images, N.
        ood: Number of OOD images, M; 2 N M must be below 2 ** 63.
    """
    parts = [_of_block(block, images, ood) for block in blocks]
    merged = {name: merge(part[name] for part in parts) for name, merge in MERGES.items()}
    whole = {
        "auroc": 2 * images * ood,
        "fpr95_id_pos": ood,
        "fpr95_ood_pos": images,
        "aupr_in": images,
        "aupr_out": ood,
        "detection_error": 2 * images * ood,
    }
    return {name: merged[name] / whole[name] for name in MERGES}


# false positives only grow from threshold to threshold: the first that suffices has the fewest
MERGES: dict[str, Callable[[Iterable[float]], float]] = {
    "auroc": sum,
    "fpr95_id_pos": min,
    "fpr95_ood_pos": min,
    "aupr_in": sum,
    "aupr_out": sum,
    "detection_error": min,
}


def _of_block(accepted: Tensor, images: int, ood: int) -> dict[str, float]:
    """Returns the numerators of the figures."""
    id_accepted, ood_accepted = accepted
    id_rejected, ood_rejected = (images - id_accepted).flip(0), (ood - ood_accepted).flip(0)
    return {
        "auroc": twice_area(id_accepted, ood_accepted),
        "fpr95_id_pos": false_positives(id_accepted, ood_accepted, images, ood),
        "fpr95_ood_pos": false_positives(ood_rejected, id_rejected, ood, images),
        "aupr_in": sum_of_precisions(id_accepted, ood_accepted),
        "aupr_out": sum_of_precisions(ood_rejected, id_rejected),
        "detection_error": twice_errors(id_accepted, ood_accepted, images, ood),
    }


def finite_scores(name: str, score: Tensor) -> Tensor:
    """Returns the scores as float64 on the CPU.

    Raises:
        ValueError: If they are not a non-empty (N,) float tensor of finite values.
    """
    if score.ndim != 1 or len(score) == 0 or not score.is_floating_point():
        raise ValueError(
            f"expected {name} to be a non-empty (N,) float tensor, got shape "
            f"{tuple(score.shape)} of {score.dtype}; pass one float score per image"
        )
    score = score.cpu().double()
    unranked = int((~score.isfinite()).sum())
    if unranked:
        raise ValueError(
            f"expected finite {name}, got {unranked} NaN or infinite among {len(score)}; "
            "check the detector and its precision, or drop these images before the metrics"
        )
    return score


def accepted(id_score: Tensor, ood_score: Tensor) -> Tensor:
    """Returns the (2, V + 1) int64 counts of ID and OOD accepted, from none to all of them.

    Column v counts the scores at or above the v-th largest of the V distinct scores. Column 0
    belongs to the threshold that accepts nothing.
    """
    score, order = torch.cat([id_score, ood_score]).sort(descending=True)
    is_id = order < len(id_score)
    last_of_ties = torch.ones_like(score, dtype=torch.bool)
    last_of_ties[:-1] = score[1:] != score[:-1]
    count = torch.stack([is_id, ~is_id]).cumsum(1)
    return pad(count[:, last_of_ties], (1, 0))


def auroc(counts: Tensor) -> float:
    """Returns the area under the ROC curve from the counts that `accepted` returns."""
    return twice_area(*counts) / int(2 * counts[:, -1].prod())


# Below, `positive` and `negative` are (V + 1,) counts of images called positive at each threshold,
# from the strictest to the loosest one.


def twice_area(positive: Tensor, negative: Tensor) -> int:
    """Returns twice the area under this part of the ROC curve, whose sides are the counts."""
    return int(((positive[1:] + positive[:-1]) * negative.diff()).sum())


def false_positives(positive: Tensor, negative: Tensor, positives: int, negatives: int) -> int:
    """Returns the false positives at the first threshold with a true positive rate >= 95 %.

    If no threshold of these has that rate, all negatives are returned.
    """
    # integers, because a rounded rate could shift the threshold by one sample
    enough = negative[100 * positive >= 95 * positives]
    return int(enough[0]) if len(enough) else negatives


def sum_of_precisions(positive: Tensor, negative: Tensor) -> float:
    """Returns the sum over thresholds of the precision, times the positives that each adds."""
    precision = positive[1:].double() / (positive + negative)[1:]
    return float(precision @ positive.diff().double())


def twice_errors(positive: Tensor, negative: Tensor, positives: int, negatives: int) -> int:
    """Returns N M times the smallest sum of miss rate and false positive rate."""
    missed = positives - positive
    return int((missed * negatives + negative * positives).min())
