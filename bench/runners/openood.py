"""The evaluation loop of OpenOOD 1.5, written anew from its description.

One evaluator per detector: a pass to fit, a pass over the ID images, one over each OOD set, and
again one over the ID images for the accuracy. Metrics: OOD is positive; scikit-learn's curves.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import auc, precision_recall_curve, roc_curve
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
        for source in ("id", *sets) if sets else ():
            scores[name, source] = scored(case, network, detector, source)
        for ood in sets:
            figures[name, ood] = metrics(scores[name, "id"], scores[name, ood])
        if sets:
            accuracy(case, network)
    return Outcome(figures, lambda: scores)


def metrics(known: Tensor, unknown: Tensor) -> tuple[float, float]:
    """Returns AUROC and FPR95; the areas under both precision-recall curves are computed too."""
    score = -np.concatenate([known.numpy(), unknown.numpy()])
    is_ood = np.repeat([0, 1], [len(known), len(unknown)])
    false, true, _ = roc_curve(is_ood, score)
    for positive, each in ((is_ood, score), (1 - is_ood, -score)):
        precision, recall, _ = precision_recall_curve(positive, each)
        auc(recall, precision)
    return float(auc(false, true)), float(false[np.argmax(true >= 0.95)])
