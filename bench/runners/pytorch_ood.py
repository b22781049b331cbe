"""pytorch-ood 0.4, its list call: all detectors at once, one encoder shared by all."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from pytorch_ood import detector as peer
from pytorch_ood.benchmark.base import Benchmark
from pytorch_ood.metrics import OODMetrics
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from bench.runners.case import Case, Classifier, Outcome, Pair

NAMES = {
    "MSP": "MaxSoftmax", "Energy": "EnergyBased", "RMDS": "RMD", "FDBD": "fDBD",
}  # fmt: skip
ARGUMENTS: dict[str, dict[str, Any]] = {
    "KNN": {"k": 50}, "ViM": {"d": 64}, "DICE": {"p": 0.9}, "NNGuide": {"k": 10},
    "NCI": {"alpha": 1e-4}, "ReAct": {"percentile": 0.9},
    "ASH": {"percentile": 0.9, "variant": "ash-s"}, "SCALE": {"percentile": 0.85},
    "ODIN": {"eps": 0.0014, "temperature": 1000},
    "GradNorm": {"param_filter": "head.weight".__eq__},
}  # fmt: skip


class Images(Benchmark):
    """The images of the case as pytorch-ood wants them: OOD images have labels below 0."""

    def __init__(self, case: Case, sets: Sequence[str]) -> None:
        self.ood_names = list(sets)
        self.known = case.dataset("id")
        self.ood = [case.dataset(name, label=-1) for name in sets]
        self.train = case.dataset("train")

    def train_set(self) -> Dataset[Any]:
        """Returns the images to fit on."""
        return self.train

    def test_sets(self, known: bool = True, unknown: bool = True) -> list[Dataset[Any]]:
        """Returns each OOD set behind the ID images."""
        return [ConcatDataset([self.known, part]) for part in self.ood]


def built(name: str, network: Classifier, encoder: Callable[[Tensor], Tensor]) -> Any:
    """Returns a detector of the library."""
    parts: dict[str, Any] = {
        "model": network, "encoder": encoder, "w": network.head.weight.detach(),
        "b": network.head.bias.detach(), "head": network.head,
        "backbone": lambda image: encoder(image)[:, :, None, None],
    }  # fmt: skip
    if name in ("ReAct", "ASH", "SCALE"):  # they take maps
        parts["head"] = lambda maps: network.head(maps.flatten(1))
    kind = getattr(peer, NAMES.get(name, name))
    asked = signature(kind).parameters
    given = {key: part for key, part in parts.items() if key in asked}
    return kind(**given, **ARGUMENTS.get(name, {}))


def run(
    case: Case, detectors: Sequence[str], sets: Sequence[str], *, as_list: bool = True
) -> Outcome:
    """Fits one detector after the other, and evaluates them in one call or each in its own."""
    network, images = case.classifier(), Images(case, sets)
    shared: Callable[[Tensor], Tensor] = network.encoder.forward
    rows: dict[str, Any] = {}
    loading: dict[str, Any] = {"batch_size": case.batch}
    for name in detectors:
        encoder = shared if as_list else partial(network.encoder)
        rows[name] = built(name, network, encoder).to("cpu")
        with torch.no_grad():
            rows[name].fit(torch.utils.data.DataLoader(images.train_set(), **loading))
    figures = evaluated(images, rows, loading, as_list=as_list) if sets else {}
    return Outcome(figures, partial(scores_of, case, rows, ("id", *sets)))


def evaluated(
    images: Images, built: dict[str, Any], loading: dict[str, int], *, as_list: bool
) -> dict[Pair, tuple[float, float]]:
    """Returns the library's own metrics."""
    if as_list:
        rows = images.evaluate([*built.values()], loading)
        names = [*built] * len(images.ood_names)  # set by set, each with all detectors
    else:
        each = {name: images.evaluate(one, loading) for name, one in built.items()}
        rows = [row for found in each.values() for row in found]
        names = [name for name, found in each.items() for _ in found]
    return {
        (name, row["Dataset"]): (row["AUROC"], row["FPR95TPR"])
        for name, row in zip(names, rows, strict=True)
    }


def scores_of(case: Case, built: dict[str, Any], sources: Sequence[str]) -> dict[Pair, Tensor]:
    """Returns the negated outlier scores, computed again."""
    return {
        (name, source): -torch.cat([one.predict(x).detach() for x in case.batches(source)])
        for name, one in built.items()
        for source in sources
    }


def metrics(known: Tensor, unknown: Tensor) -> tuple[float, float]:
    """Returns AUROC and FPR95 with OOD as the positive class."""
    figures = OODMetrics()
    label = torch.cat([torch.zeros(len(known)), -torch.ones(len(unknown))]).long()
    figures.update(-torch.cat([known, unknown]), label)
    found = figures.compute()
    return found["AUROC"], found["FPR95TPR"]
