"""Ours: one pass over each set for all detectors."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from bench.common import new_trainer
from bench.runners.case import KEPT_OUT, Case, Outcome, Pair
from bench.runners.detectors_of_ours import BUILD, network_of
from src.benchmark import Benchmark
from src.data import ImageData, ImageSet, Source
from src.metrics import Scores, ood_metrics


class Given(Source):
    """A set of the case."""

    classes = tuple("0123456789")

    def __init__(self, image: Tensor, label: Tensor) -> None:
        self.images = ImageSet(image, label, self.classes)

    def load(self) -> ImageSet:
        """Returns the images."""
        return self.images


def data_of(case: Case, sets: Sequence[str]) -> ImageData:
    """Returns the sets of a case; what is fitted on is what every library is fitted on."""
    rows = KEPT_OUT + case.fit_images
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))  # of held_out_first
    train = Given(*(each["train"][:rows][order.argsort()] for each in (case.image, case.label)))
    known, *ood = (Given(case.image[name], case.label[name]) for name in ("id", *sets))
    return ImageData(
        train, known, dict(zip(sets, ood, strict=True)),
        batch_size=case.batch, eval_batch_size=case.batch, validation_size=KEPT_OUT,
    )  # fmt: skip


def run(case: Case, detectors: Sequence[str], sets: Sequence[str]) -> Outcome:
    """Fits and scores with the benchmark, and computes the metrics from its table."""
    data = data_of(case, sets)
    benchmark = Benchmark(network_of(case), {n: BUILD[n]() for n in detectors}, data.sources)
    scores = benchmark.run(new_trainer("32-true", accelerator="cpu"), data)
    figures = {
        (name, ood): metrics(*(scores.of(s)[:, scores.column(name)] for s in ("id", ood)))
        for name in detectors
        for ood in sets
    }
    return Outcome(figures, partial(scores_of, scores, detectors))


def scores_of(scores: Scores, detectors: Sequence[str]) -> dict[Pair, Tensor]:
    """Returns (detector, set) -> scores."""
    return {
        (name, source): scores.of(source)[:, scores.column(name)]
        for name in detectors
        for source in scores.sources
    }


def metrics(known: Tensor, unknown: Tensor) -> tuple[float, float]:
    """Returns AUROC and FPR95 with OOD as the positive class."""
    figures = ood_metrics(known, unknown)
    return figures["auroc"], figures["fpr95_ood_pos"]
