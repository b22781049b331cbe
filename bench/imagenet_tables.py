"""Tables of the study of ImageNet networks, from docs/results/imagenet.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

import csv
from functools import cache

from bench.cifar10_tables import RESULTS, table
from src.compare.runs import METRICS, Run
from src.records.columns import FEATURE_NORM, Column

TITLES = {
    "squeezenet": "SqueezeNet 1.1",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite1": "EfficientNet-Lite1",
    "efficientnet_lite2": "EfficientNet-Lite2",
}
SHOWN = {FEATURE_NORM: "FeatureNorm", "norm_profile": "NormProfile", "energy": "Energy"}
SHOWN |= {"msp": "MSP"}
Interval = dict[str, float]  # name of a column -> fraction


@cache
def run_of(network: str) -> Run:
    """Returns the run of a network."""
    return Run(RESULTS / f"imagenet/{network}.json")


@cache
def intervals(network: str) -> dict[str, Interval]:
    """Returns what `bench.intervals` wrote: detector -> AUROC, lead, and their intervals."""
    with (RESULTS / f"imagenet/{network}_intervals.csv").open() as file:
        return {
            row.pop("detector"): {k: float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        }


def summary() -> str:
    """AUROC with its interval / FPR95 (ID positive) of four detectors and of the best one."""
    body = []
    for network, title in TITLES.items():
        run = run_of(network)
        auroc = {name: run.score(name, "auroc") or 0 for name in run.detectors}
        best = max(auroc, key=lambda name: auroc[name])
        shown = [cell(network, name) for name in SHOWN]
        profile = lead(intervals(network)["norm_profile"])
        body.append([title, *shown, f"{cell(network, best)} `{best}`", profile])
    return table(["network", *SHOWN.values(), "best", "NormProfile over FeatureNorm"], body)


def cell(network: str, detector: str) -> str:
    """Returns AUROC, its interval and FPR95 (ID positive), in percent."""
    run, known = run_of(network), intervals(network)[detector]
    auroc, fpr95 = (100 * (run.score(detector, metric) or 0) for metric in METRICS[:2])
    return f"{auroc:.1f} ({between(known, 'auroc')}) / {fpr95:.1f}"


def between(known: Interval, name: str) -> str:
    """Returns the ends of an interval, in percent."""
    return " to ".join(f"{100 * known[f'{name}_{end}']:.1f}" for end in ("low", "high"))


def lead(known: Interval) -> str:
    """Returns by how much a column leads FeatureNorm, with its interval, in percent."""
    return f"{100 * known['lead']:+.1f} ({between(known, 'lead')})"


def blocks() -> str:
    """The selected block beside the best one in hindsight."""
    body = []
    for network, title in TITLES.items():
        run = run_of(network)
        block, auroc = run.metrics["selected_block"], run.auroc_by_block
        best = max(auroc, key=lambda block: auroc[block])
        known = intervals(network)[Column(FEATURE_NORM, best).name]
        body.append(
            [
                title,
                f"{100 * (run.accuracy or 0):.1f}",
                f"`{block}` ({run.blocks.index(block) + 1} of {len(run.blocks)})",
                f"{run.norm_ratio:.3f}",
                f"{100 * run.metrics['selection_stability']['bootstrap']['share'][block]:.0f} %",
                f"{100 * auroc[block]:.1f}",
                f"{100 * auroc[run.blocks[-1]]:.1f}",
                f"`{best}` {100 * auroc[best]:.1f}",
                lead(known) if best != block else "0",
                f"{run.spearman():.2f}",
            ]
        )
    header = ["network", "accuracy", "selected block (depth)", "NormRatio", "again"]
    rest = ["FeatureNorm there", "last block", "best block in hindsight", "gap", "Spearman"]
    return table([*header, *rest], body)


def depth() -> str:
    """NormRatio of each block and AUROC of FeatureNorm there; the selected one is bold."""
    body = []
    for network, title in TITLES.items():
        run = run_of(network)
        ratios = {block: f"{run.metrics['norm_ratio'][block]:.3f}" for block in run.blocks}
        aurocs = {block: f"{100 * run.auroc_by_block[block]:.1f}" for block in run.blocks}
        for name, values in (("NormRatio", ratios), ("AUROC", aurocs)):
            selected = run.metrics["selected_block"]
            marked = [f"**{v}**" if block == selected else v for block, v in values.items()]
            body.append([title, name, " ".join(marked)])
    return table(["network", "of each block", "by depth"], body)


def detectors() -> str:
    """AUROC, and below it FPR95 of both meanings, of every detector; best mean AUROC first."""
    runs = [run_of(network) for network in TITLES]
    names = [name for name in runs[0].detectors if all(name in run.results for run in runs)]
    mean = {name: sum(run.score(name, "auroc") or 0 for run in runs) / len(runs) for name in names}
    body = []
    for name in sorted(names, key=lambda name: -mean[name]):
        cells = [f"`{name}`", f"{100 * mean[name]:.1f}"]
        for run in runs:
            auroc, *fpr95 = (f"{100 * (run.score(name, metric) or 0):.1f}" for metric in METRICS)
            cells.append(f"{auroc}<br>{' / '.join(fpr95)}")
        body.append(cells)
    return table(["detector", "mean", *TITLES.values()], body)


TABLES = {
    "imagenet-summary": summary,
    "imagenet-blocks": blocks,
    "imagenet-depth": depth,
    "imagenet-detectors": detectors,
}
