"""oodeel 0.4: fits and scores one detector after the other."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from oodeel.eval.metrics import bench_metrics
from oodeel.methods import DKNN, GEN, MLS, ODIN, RMDS, SHE, Energy, Entropy, Mahalanobis
from torch import Tensor

from bench.runners.case import Case, Outcome, Pair

BUILD: dict[str, Callable[[], Any]] = {
    "Energy": Energy, "MSP": partial(MLS, output_activation="softmax"), "MaxLogit": MLS,
    "Entropy": Entropy, "GEN": GEN, "KNN": partial(DKNN, nearest=50),
    "Mahalanobis": partial(Mahalanobis, eps=0), "RMDS": partial(RMDS, eps=0),
    "SHE": partial(SHE, eps=0), "ReAct": partial(Energy, use_react=True, react_quantile=0.9),
    "ASH": partial(Energy, use_ash=True, ash_percentile=0.9),
    "SCALE": partial(Energy, use_scale=True, scale_percentile=0.85),
    "ODIN": partial(ODIN, temperature=1000, eps=0.0014),
}  # fmt: skip
FITTED = ("KNN", "Mahalanobis", "RMDS", "SHE", "ReAct")
READ_FEATURE = ("KNN", "Mahalanobis", "RMDS", "SHE")


def run(case: Case, detectors: Sequence[str], sets: Sequence[str]) -> Outcome:
    """Fits each detector, and scores the ID images and each OOD set."""
    scores: dict[Pair, Tensor] = {}
    figures: dict[Pair, tuple[float, float]] = {}
    network = case.classifier()
    for name in detectors:
        detector = BUILD[name]()
        layers = {"feature_layers_id": ["encoder"]} if name in READ_FEATURE else {}
        train = case.loader("train") if name in FITTED else None
        detector.fit(network, fit_dataset=train, head_layer_id="head", **layers)
        for source in ("id", *sets) if sets else ():
            outlier, _ = detector.score(case.loader(source))
            scores[name, source] = -torch.from_numpy(outlier)
        for ood in sets:
            figures[name, ood] = metrics(scores[name, "id"], scores[name, ood])
    return Outcome(figures, lambda: scores)


def metrics(known: Tensor, unknown: Tensor) -> tuple[float, float]:
    """Returns AUROC and FPR95 with OOD as the positive class."""
    found = bench_metrics((-known.numpy(), -unknown.numpy()), metrics=["auroc", "fpr95tpr"])
    return found["auroc"], found["fpr95tpr"]
