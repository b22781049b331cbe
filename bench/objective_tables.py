"""Tables of the training objectives, from docs/results/objectives.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from statistics import mean

from bench.cifar10_tables import RESULTS, table
from src.compare.runs import METRICS, Run

TITLES = {
    "cross_entropy": "cross-entropy",
    "label_smoothing": "label smoothing",
    "logit_norm": "LogitNorm",
    "t2fnorm": "T2FNorm",
    "rot_pred": "RotPred",
}
SHOWN = ("msp", "maxlogit", "energy", "featurenorm", "norm_profile", "rot_pred")


@cache
def runs(study: str, objective: str) -> tuple[Run, ...]:
    """Returns the runs of an objective, one for each seed."""
    paths = sorted((RESULTS / "objectives" / study).glob(f"{objective}_seed*.json"))
    return tuple(map(Run, paths))


def trained(study: str) -> dict[str, Sequence[Run]]:
    """Returns title -> runs of every objective that the study has."""
    found = {title: runs(study, name) for name, title in TITLES.items()}
    if not any(found.values()):
        raise FileNotFoundError(f"expected runs of the study {study}, got none")
    return {title: each for title, each in found.items() if each}


def spread(values: Sequence[float]) -> str:
    """Returns the mean of fractions in percent, and the smallest and largest of several."""
    shown = f"{100 * mean(values):.1f}"
    if len(values) == 1:
        return shown
    return f"{shown} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def detection(study: str) -> str:
    """Accuracy, and the average AUROC of each detector over the OOD sets."""
    body = []
    for title, each in trained(study).items():
        line = [title, str(len(each)), spread([run.accuracy or 0 for run in each])]
        for name in SHOWN:
            scores = [score for run in each if (score := run.score(name, METRICS[0])) is not None]
            line.append(spread(scores) if scores else "")
        body.append(line)
    return table(["objective", "seeds", "accuracy", *(f"`{name}`" for name in SHOWN)], body)


def near_and_far(study: str) -> str:
    """AUROC / FPR95 (ID positive) of each group of OOD sets, mean over the seeds."""
    body = []
    for title, each in trained(study).items():
        for group in ("near", "far"):
            line = [title, group]
            for name in SHOWN:
                scored = [run for run in each if name in run.results]
                pair = [[run.results[name][group][m] for run in scored] for m in METRICS[:2]]
                line.append(" / ".join(f"{100 * mean(v):.1f}" for v in pair) if scored else "")
            body.append(line)
    return table(["objective", "OOD", *(f"`{name}`" for name in SHOWN)], body)


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
    return table(["objective", *(f"`{block}`" for block in blocks)], body)


TABLES = {
    "objectives-quickstart": partial(detection, "quickstart"),
    "objectives-quickstart-groups": partial(near_and_far, "quickstart"),
    "objectives-quickstart-selection": partial(selection, "quickstart"),
}
