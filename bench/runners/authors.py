"""The evaluation loop of the authors of FeatureNorm, written anew from its description.

For each method: a pass over the ID images for the accuracy, one for their scores, and one over
each OOD set. Metrics: ID is positive; FPR95 at the recall nearest to 95 %. The authors start a
process for each method; that start is not counted here.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from bench.runners.case import Case, Outcome, Pair
from bench.runners.loop import accuracy, fitted, network_of, scored


def run(case: Case, detectors: Sequence[str], sets: Sequence[str]) -> Outcome:
    """Evaluates one detector after the other."""
    scores: dict[Pair, Tensor] = {}
    figures: dict[Pair, tuple[float, float]] = {}
    network = network_of(case)
    for name in detectors:
        detector = fitted(case, network, name)
        if sets:
            accuracy(case, network)
            scores[name, "id"] = scored(case, network, detector, "id")
        for ood in sets:
            scores[name, ood] = scored(case, network, detector, ood)
            figures[name, ood] = metrics(scores[name, "id"], scores[name, ood])
    return Outcome(figures, lambda: scores)


def metrics(known: Tensor, unknown: Tensor) -> tuple[float, float]:
    """Returns AUROC and FPR95; the average precision is computed too."""
    score = np.concatenate([known.numpy(), unknown.numpy()])
    is_known = np.repeat([1, 0], [len(known), len(unknown)])
    average_precision_score(is_known, score)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of equal scores
    true = np.cumsum(is_known[order])[last]
    nearest = np.argmin(np.abs(true / len(known) - 0.95))
    false = (1 + last - true)[nearest] / len(unknown)
    return float(roc_auc_score(is_known, score)), float(false)
