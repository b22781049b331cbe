"""Tables of objectives and augmentations, from docs/results/objectives and augmentations.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from statistics import mean

from bench.cifar10_tables import RESULTS, table
from src.compare.runs import METRICS, Run

STUDIES = {  # what differs -> title -> the runs of all seeds, in docs/results
    "objective": {
        "cross-entropy": "objectives/quickstart/cross_entropy",
        "label smoothing": "objectives/quickstart/label_smoothing",
        "LogitNorm": "objectives/quickstart/logit_norm",
        "T2FNorm": "objectives/quickstart/t2fnorm",
        "RotPred": "objectives/quickstart/rot_pred",
    },
    "augmentation": {
        "crop": "objectives/quickstart/cross_entropy",
        "crop, TrivialAugment": "augmentations/quickstart/trivial",
        "crop, PixMix": "augmentations/quickstart/pixmix",
        "crop, Mixup": "augmentations/quickstart/mixup",
        "crop, CutMix": "augmentations/quickstart/cutmix",
        "crop, averaged weights": "augmentations/quickstart/ema",
    },
}
SHOWN = ("msp", "maxlogit", "energy", "featurenorm", "norm_profile", "rot_pred")


@cache
def trained(study: str) -> dict[str, Sequence[Run]]:
    """Returns title -> runs, one for each seed, of all that the study has."""
    found: dict[str, Sequence[Run]] = {
        title: [Run(path) for path in sorted(RESULTS.glob(f"{name}_seed*.json"))]
        for title, name in STUDIES[study].items()
    }
    if not all(found.values()):
        raise FileNotFoundError(f"expected runs of each {study}, got none of some")
    return found


def shown(study: str) -> list[str]:
    """Returns the detectors of the tables that any run has."""
    results = [run.results for each in trained(study).values() for run in each]
    return [name for name in SHOWN if any(name in each for each in results)]


def spread(values: Sequence[float]) -> str:
    """Returns the mean of fractions in percent, and the smallest and largest of several."""
    low, middle, high = (f"{100 * of(values):.1f}" for of in (min, mean, max))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def detection(study: str) -> str:
    """Accuracy, and the average AUROC of each detector over the OOD sets."""
    body = []
    for title, each in trained(study).items():
        line = [title, str(len(each)), spread([run.accuracy or 0 for run in each])]
        for name in shown(study):
            scores = [score for run in each if (score := run.score(name, METRICS[0])) is not None]
            line.append(spread(scores) if scores else "")
        body.append(line)
    return table([study, "seeds", "accuracy", *(f"`{name}`" for name in shown(study))], body)


def near_and_far(study: str) -> str:
    """AUROC / FPR95 (ID positive) of each group of OOD sets, mean over the seeds."""
    body = []
    for title, each in trained(study).items():
        for group in ("near", "far"):
            line = [title, group]
            for name in shown(study):
                scored = [run for run in each if name in run.results]
                pair = [[run.results[name][group][m] for run in scored] for m in METRICS[:2]]
                line.append(" / ".join(f"{100 * mean(v):.1f}" for v in pair) if scored else "")
            body.append(line)
    return table([study, "OOD", *(f"`{name}`" for name in shown(study))], body)


def selection(study: str) -> str:
    """NormRatio of each block, mean over the seeds, and how often it was selected."""
    body = []
    for title, each in trained(study).items():
        chosen = Counter(run.metrics["selected_block"] for run in each)
        ratios = {b: mean(run.metrics["norm_ratio"][b] for run in each) for b in each[0].blocks}
        cells = [
            f"**{ratio:.3f}** ({chosen[block]} of {len(each)})"
            if chosen[block]
            else f"{ratio:.3f}"
            for block, ratio in ratios.items()
        ]
        body.append([title, *cells])
    blocks = next(iter(trained(study).values()))[0].blocks
    return table([study, *(f"`{block}`" for block in blocks)], body)


TABLES = {
    f"{study}s-quickstart{suffix}": partial(content, study)
    for study in STUDIES
    for suffix, content in {
        "": detection,
        "-groups": near_and_far,
        "-selection": selection,
    }.items()
}
