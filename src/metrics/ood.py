"""The usual figures of how well a score separates ID from OOD, exact with ties."""

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
    id_accepted, ood_accepted = accepted(
        finite_scores("id_score", id_score), finite_scores("ood_score", ood_score)
    )
    id_rejected, ood_rejected = ((n[-1] - n).flip(0) for n in (id_accepted, ood_accepted))
    return {
        "auroc": auroc(id_accepted, ood_accepted),
        "fpr95_id_pos": fpr95(id_accepted, ood_accepted),
        "fpr95_ood_pos": fpr95(ood_rejected, id_rejected),
        "aupr_in": average_precision(id_accepted, ood_accepted),
        "aupr_out": average_precision(ood_rejected, id_rejected),
        "detection_error": detection_error(id_accepted, ood_accepted),
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
    last_of_ties = pad(score[1:] != score[:-1], (0, 1), value=True)
    count = torch.stack([is_id, ~is_id]).cumsum(1)
    return pad(count[:, last_of_ties], (1, 0))


# Below, `positive` and `negative` are (V + 1,) counts of images called positive, from none to all.


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Returns the area under the ROC curve, computed in integers up to one division."""
    twice_area = (positive[1:] + positive[:-1]) * negative.diff()
    return int(twice_area.sum()) / int(2 * positive[-1] * negative[-1])


def fpr95(positive: Tensor, negative: Tensor) -> float:
    """Returns the false positive rate at the first threshold with a true positive rate >= 95 %."""
    # integers, because a rounded rate could shift the threshold by one sample
    enough = 100 * positive >= 95 * positive[-1]
    return int(negative[enough][0]) / int(negative[-1])


def average_precision(positive: Tensor, negative: Tensor) -> float:
    """Returns the step-wise area under the precision-recall curve."""
    precision = positive[1:].double() / (positive + negative)[1:]
    return float(precision @ positive.diff().double() / positive[-1])


def detection_error(positive: Tensor, negative: Tensor) -> float:
    """Returns the smallest mean of the miss rate and the false positive rate."""
    missed = positive[-1] - positive
    error = missed * negative[-1] + negative * positive[-1]
    return int(error.min()) / int(2 * positive[-1] * negative[-1])
