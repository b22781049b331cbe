"""torch-uncertainty 0.13: a test run for each criterion and each OOD set."""

from collections import ChainMap
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch_uncertainty import TUTrainer
from torch_uncertainty.metrics import FPR95
from torch_uncertainty.ood_criteria import get_ood_criterion
from torch_uncertainty.routines import ClassificationRoutine
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from bench.runners.case import Case, Outcome, Pair

CRITERIA = {"Energy": "energy", "MSP": "msp", "MaxLogit": "logit", "Entropy": "entropy"}


def run(case: Case, detectors: Sequence[str], sets: Sequence[str]) -> Outcome:
    """Runs a test for each pair of a criterion and an OOD set."""
    network = case.classifier()
    figures: dict[Pair, tuple[float, float]] = {}
    for name in detectors:
        for ood in sets:
            routine = ClassificationRoutine(
                network, num_classes=10, loss=None, eval_ood=True, ood_criterion=CRITERIA[name]
            )
            trainer = TUTrainer(
                accelerator="cpu", logger=False, enable_progress_bar=False,
                enable_checkpointing=False, enable_model_summary=False,
            )  # fmt: skip
            loaders = [case.loader("id"), case.loader(ood)]
            found = ChainMap(*trainer.test(routine, loaders, verbose=False))
            figures[name, ood] = found["ood/AUROC"], found["ood/FPR95"]
    return Outcome(figures, partial(scores_of, case, detectors, ("id", *sets)))


@torch.no_grad()
def scores_of(case: Case, detectors: Sequence[str], sources: Sequence[str]) -> dict[Pair, Tensor]:
    """Returns the negated scores of the criteria, computed again."""
    network, scores = case.classifier(), {}
    for name in detectors:
        criterion = get_ood_criterion(CRITERIA[name])
        for source in sources:
            logits = torch.cat([network(image) for image in case.batches(source)])[:, None]
            inputs = logits if name in ("Energy", "MaxLogit") else logits.softmax(-1)
            scores[name, source] = -criterion(inputs.mean(1) if name == "MSP" else inputs)
    return scores


def metrics(known: Tensor, unknown: Tensor) -> tuple[float, float]:
    """Returns AUROC and FPR95 with OOD as the positive class, as the routine has them."""
    score = -torch.cat([known, unknown])
    is_ood = torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))]).long()
    found = []
    for metric in (BinaryAUROC(), FPR95(pos_label=1), BinaryAveragePrecision()):
        metric.update(score, is_ood)
        found.append(float(metric.compute()))
    return found[0], found[1]
