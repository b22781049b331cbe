"""detectors 0.1.11: its benchmark pipeline, one detector after the other."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectors.pipelines.ood import OODBenchmarkPipeline
from torch import Tensor
from torch.utils.data import ConcatDataset

from bench.runners.case import Case, Outcome, Pair
from detectors import create_detector, get_ood_results

NAMES = {
    "Energy": "energy", "MSP": "msp", "MaxLogit": "max_logits", "Entropy": "entropy",
    "KNN": "knn_euclides", "Mahalanobis": "mahalanobis", "ReAct": "react",
    "GradNorm": "gradnorm", "ODIN": "odin",
}  # fmt: skip
ARGUMENTS: dict[str, dict[str, Any]] = {
    "KNN": {"k": 50}, "ReAct": {"p": 0.9}, "ODIN": {"temperature": 1000, "eps": 0.0014},
}  # fmt: skip


class Pipeline(OODBenchmarkPipeline):
    """The pipeline of the library over the sets of the case."""

    def __init__(self, case: Case, sets: Sequence[str]) -> None:
        self.case = case
        super().__init__(
            "id", dict.fromkeys(sets), transform=None, batch_size=case.batch,
            num_workers=0, pin_memory=False, prefetch_factor=None,
        )  # fmt: skip

    def _setup_datasets(self) -> None:
        self.fit_dataset, self.in_dataset = self.case.dataset("train"), self.case.dataset("id")
        self.out_datasets = {name: self.case.dataset(name) for name in self.out_datasets_names}
        self.out_dataset: ConcatDataset[Any] = ConcatDataset([*self.out_datasets.values()])


def run(case: Case, detectors: Sequence[str], sets: Sequence[str]) -> Outcome:
    """Runs the pipeline for each detector, or fits it if there is no OOD set."""
    network, fitted = case.classifier(), {}
    figures: dict[Pair, tuple[float, float]] = {}
    pipeline = Pipeline(case, sets) if sets else None
    for name in detectors:
        fitted[name] = create_detector(NAMES[name], model=network, **ARGUMENTS.get(name, {}))
        if pipeline is None:
            fitted[name].fit(case.loader("train"))
            continue
        found = pipeline.run(fitted[name])["results"]
        for ood in sets:
            figures[name, ood] = found[ood]["auroc"], found[ood]["fpr_at_0.95_tpr"]
    return Outcome(figures, partial(scores_of, case, fitted, ("id", *sets)))


def scores_of(case: Case, fitted: dict[str, Any], sources: Sequence[str]) -> dict[Pair, Tensor]:
    """Returns the scores, computed again."""
    return {
        (name, source): torch.cat([one(x.clone()).detach() for x in case.batches(source)])
        for name, one in fitted.items()
        for source in sources
    }


def metrics(known: Tensor, unknown: Tensor) -> tuple[float, float]:
    """Returns AUROC and FPR95 with ID as the positive class."""
    found = get_ood_results(known, unknown)
    return found["auroc"], found["fpr_at_0.95_tpr"]
