"""Tables of the quickstart and of the studies: 12 epochs, every detector, architectures.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

from statistics import mean

from bench.cifar10_tables import RESULTS, table
from src.compare.runs import METRICS, Run
from src.records.columns import FEATURE_NORM, Column

ARCHITECTURES = (
    "resnet18",
    "resnet34",
    "wrn40_2",
    "vgg11",
    "vgg11_bn",
    "vgg16_bn",
    "DenseNet",
    "ConvNeXt",
    "SwinTransformer",
    "VisionTransformer",
)
QUICKSTART = [Run(RESULTS / f"quickstart/seed{seed}.json") for seed in range(5)]
EARLIER = Run(RESULTS / "resnet18_cifar10_short.json")
EVERY_DETECTOR = Run(RESULTS / "resnet18_cifar10_short_all.json")


def percent(
    run: Run, detector: str, source: str = "average", metric: str = "auroc", digits: int = 1
) -> str:
    """Returns a metric of a detector on an OOD set."""
    return f"{100 * run.results[detector][source][metric]:.{digits}f}"


def selected(run: Run, block: str) -> str:
    """Returns the name of a block, marked if it is the selected one."""
    return f"`{block}`{' (selected)' if block == run.metrics['selected_block'] else ''}"


def quickstart_seeds() -> str:
    """Accuracy and selected block of each seed, average AUROC / FPR95; the best AUROC is bold."""
    names, body = QUICKSTART[0].detectors, []
    for seed, run in enumerate(QUICKSTART):
        line = [seed, f"{100 * (run.accuracy or 0):.1f}", f"`{run.metrics['selected_block']}`"]
        best = max(names, key=lambda name: run.results[name]["average"]["auroc"])
        for name in names:
            bold = "**" if name == best else ""
            auroc, fpr95 = percent(run, name), percent(run, name, metric=METRICS[1])
            line.append(f"{bold}{auroc}{bold} / {fpr95}")
        body.append(line)
    return table(["seed", "accuracy", "block", *(f"`{name}`" for name in names)], body)


def quickstart_sets() -> str:
    """AUROC of each OOD set and average: mean of the seeds, and the lowest and highest."""
    body = []
    for name in QUICKSTART[0].detectors:
        line = [f"`{name}`"]
        for source in QUICKSTART[0].results[name]:
            auroc = [100 * run.results[name][source]["auroc"] for run in QUICKSTART]
            line.append(f"{mean(auroc):.1f} ({min(auroc):.1f} to {max(auroc):.1f})")
        body.append(line)
    return table(["detector", *QUICKSTART[0].results["msp"]], body)


def earlier_blocks() -> str:
    """NormRatio of each block, and AUROC of FeatureNorm there; the best of each column is bold."""
    sets = ["average", *(name for name in EARLIER.results["msp"] if name != "average")]
    lines = [
        [
            f"{EARLIER.metrics['norm_ratio'][block]:.4f}",
            *(
                percent(EARLIER, Column(FEATURE_NORM, block).name, source, digits=2)
                for source in sets
            ),
        ]
        for block in EARLIER.blocks
    ]
    best = [max(column, key=float) for column in zip(*lines, strict=True)]
    body = [
        [
            selected(EARLIER, block),
            *(f"**{c}**" if c == top else c for c, top in zip(line, best, strict=True)),
        ]
        for block, line in zip(EARLIER.blocks, lines, strict=True)
    ]
    return table(["block", "NormRatio", *sets], body)


def earlier_detectors() -> str:
    """AUROC, and below it FPR95 of both meanings; the best AUROC of each column is bold."""
    sets = list(EARLIER.results["msp"])
    body = []
    for name in EARLIER.detectors:
        cells = [name]
        for source in sets:
            auroc, *fpr95 = (percent(EARLIER, name, source, m, digits=2) for m in METRICS)
            others = [EARLIER.results[each][source]["auroc"] for each in EARLIER.detectors]
            bold = "**" if EARLIER.results[name][source]["auroc"] == max(others) else ""
            cells.append(f"{bold}{auroc}{bold}<br>{' / '.join(fpr95)}")
        body.append(cells)
    return table(["detector", *sets], body)


def every_detector() -> str:
    """Average AUROC, AUROC of each set, and average FPR95 of both meanings, best first."""
    run = EVERY_DETECTOR
    sets = [name for name in run.results["msp"] if name != "average"]
    ranked = sorted(run.detectors, key=lambda name: -run.results[name]["average"]["auroc"])
    body = [
        [
            f"`{name}`",
            *(percent(run, name, source) for source in ("average", *sets)),
            *(percent(run, name, metric=metric) for metric in METRICS[1:]),
        ]
        for name in ranked
    ]
    fpr95 = ["FPR95, ID positive", "FPR95, OOD positive"]
    return table(["detector", "average AUROC", *sets, *fpr95], body)


def architectures() -> str:
    """The selected block of each network beside its last and its best one."""
    body = []
    for name in ARCHITECTURES:
        run = Run(RESULTS / f"cifar10_brief/{name}.json")
        block, auroc = run.metrics["selected_block"], run.auroc_by_block
        best = max(auroc, key=lambda block: auroc[block])
        depth = f"{run.blocks.index(block) + 1} of {len(run.blocks)}"
        body.append(
            [
                name,
                f"{100 * (run.accuracy or 0):.1f}",
                f"`{block}` ({depth})",
                f"{run.norm_ratio:.4f}",
                f"{100 * auroc[block]:.1f}",
                f"{100 * auroc[run.blocks[-1]]:.1f}",
                f"{100 * auroc[best]:.1f} (`{best}`)",
                f"{run.spearman():.2f}",
                percent(run, "msp"),
                percent(run, "energy"),
            ]
        )
    header = ["network", "accuracy", "selected block (depth)", "NormRatio", "FeatureNorm there"]
    rest = ["last block", "best block in hindsight", "Spearman", "MSP", "Energy"]
    return table([*header, *rest], body)


TABLES = {
    "quickstart-seeds": quickstart_seeds,
    "quickstart-sets": quickstart_sets,
    "earlier-blocks": earlier_blocks,
    "earlier-detectors": earlier_detectors,
    "every-detector": every_detector,
    "architectures": architectures,
}
