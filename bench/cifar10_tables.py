"""The tables of docs/results.md on the paper's networks that src.compare does not have.

python -m bench.cifar10_tables    # of docs/results/cifar10_{short,codec}
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from src.compare.rows import MISSING, Row, compare
from src.compare.runs import METRICS, Run, find_runs
from src.compare.tables import percent

RESULTS = Path(__file__).parents[1] / "docs/results"
NETWORKS = ("resnet18", "wrn16_4", "vgg11")
SEEDS = {0: "", 1: "_seed1"}  # what the names of files end in
SELECTIONS = {
    "norm_ratio": "default: held-out images, normalised, border kept",
    "split_training": "default, but training images",
    "not_normalised": "default, but not normalised",
    "zero_border": "default, but a black border",
    "official": "official: training images, not normalised, black border, an order may change "
    "nothing",
}
RULES = {
    "{}": "alone",
    "{}_norm": "length replaced (the explained rule)",
    "{}_norm_matched": "the same, lengths matched on average (ours)",
    "{}_times_norm": "product",
    "{}_standardized": "product of standardised",
    "{}_rescaled": "map of unit norm",
}
POSTER = {  # Yu et al., CVPR 2023: (AUROC, FPR95), averages over six sets, alone and with the norm
    "resnet18": {
        "poster: alone": ((91.91, 50.63), (94.02, 29.14), (94.10, 29.66), (94.36, 25.67)),
        "poster: with the norm": ((94.66, 35.56), (97.03, 15.99), (96.69, 17.59)),
    },
    "wrn16_4": {
        "poster, WRN-28-10: alone": (
            (91.84, 41.49),
            (90.95, 29.22),
            (91.99, 28.65),
            (97.33, 13.53),
        ),
        "poster, WRN-28-10: with the norm": ((93.59, 38.38), (94.75, 23.71), (94.87, 24.01)),
    },
    "vgg11": {
        "poster: alone": ((88.73, 64.77), (91.56, 47.52), (91.67, 46.46), (91.18, 39.34)),
        "poster: with the norm": ((90.55, 56.57), (93.50, 35.62), (93.58, 35.42)),
    },
}


def main() -> None:
    """Prints them in Markdown."""
    found = {row.network: row for row in compare(*find_runs([RESULTS / "cifar10_short"])).rows}
    for network in NETWORKS:
        print(f"\n**{network}**\n")
        set_by_set(found[network])
    print("\n### The selection, measured otherwise\n")
    selections()
    print('\n### Which rule is "with the selected norm"\n')
    rules(found)
    print("\n### Codec and cut of Textures\n")
    codec()


def line(*cells: object) -> None:
    """Prints a row of a table."""
    print("|", " | ".join(map(str, cells)), "|")


def head(*titles: str) -> None:
    """Prints titles and the line below them."""
    line(*titles)
    print("|" + "---|" * len(titles))


def set_by_set(row: Row) -> None:
    """AUROC, and below it FPR95 of both meanings, for each detector and set."""
    run = row.runs[0]
    sets = list(run.results["msp"])
    auroc = {
        (name, source): sample.mean
        for name in run.detectors
        for source in sets
        if (sample := row.score(name, "auroc", source))
    }
    best = {source: max(auroc[name, source] for name in run.detectors) for source in sets}
    head("detector", *sets)
    for name in run.detectors:
        cells = []
        for source in sets:
            first, *fpr95 = (percent(row.score(name, metric, source), row) for metric in METRICS)
            bold = "**" if auroc[name, source] == best[source] else ""
            cells.append(f"{bold}{first}{bold}<br>{' / '.join(fpr95)}")
        line(f"`{name}`", *cells)


def selections() -> None:
    """NormRatio of all blocks under each way of measuring it."""
    head("network", "seed", "selection", "selected", "ratio of the blocks, by depth")
    for network in NETWORKS:
        for seed, name, blocks in measured(network):
            selected = next(block for block in blocks if block["selected"] == "1")
            ratios = [f"{float(block['ratio']):.3f}" for block in blocks]
            ratios[blocks.index(selected)] = f"**{ratios[blocks.index(selected)]}**"
            line(network, seed, SELECTIONS[name], f"`{selected['block']}`", " ".join(ratios))


def measured(network: str) -> Iterator[tuple[int, str, list[dict[str, str]]]]:
    """Yields seed, way and the blocks of the last epoch of each selection there is."""
    for seed, ending in SEEDS.items():
        for name in SELECTIONS:
            file = RESULTS / f"cifar10_short/{network}{ending}_{name}.csv"
            if file.exists():
                blocks = list(csv.DictReader(file.open()))
                yield seed, name, [b for b in blocks if b["epoch"] == blocks[-1]["epoch"]]


def rules(found: dict[str, Row]) -> None:
    """What MSP, ODIN and Energy gain by each rule, and how far that is from what they gain there.

    The last column: mean over MSP and Energy, which all rules have, of the distance between the
    two gains in AUROC.
    """
    head("network", "rule", "MSP", "ODIN", "Energy", "FeatureNorm alone", "gain off the poster's")
    for network in NETWORKS:
        row = found[network]
        alone, with_norm = POSTER[network].values()
        for rule, title in RULES.items():
            cells = [average(row, rule.format(name)) for name in ("msp", "odin", "energy")]
            if rule == "{}":
                line(network, title, *cells, average(row, "featurenorm"), "")
                continue
            off = [
                abs(gain(row, name, rule.format(name)) - (with_norm[at][0] - alone[at][0]))
                for name, at in (("msp", 0), ("energy", 2))
            ]
            line(network, title, *cells, "", f"{mean(off):.1f}")
        for title, pairs in POSTER[network].items():
            cells = [f"{auroc:.1f} / {fpr95:.1f}" for auroc, fpr95 in pairs]
            line(network, title, *cells, *[""] * (5 - len(cells)))


def average(row: Row, detector: str) -> str:
    """Returns AUROC / FPR95 with ID positive."""
    shown = [percent(row.score(detector, metric), row) for metric in METRICS[:2]]
    return MISSING if MISSING in shown else " / ".join(shown)


def gain(row: Row, before: str, after: str) -> float:
    """Returns by how much the average AUROC is larger, in percent, where both were scored."""
    pairs = [(run.score(before, "auroc"), run.score(after, "auroc")) for run in row.runs]
    return 100 * mean(new - old for old, new in pairs if old is not None and new is not None)


def codec() -> None:
    """FeatureNorm's AUROC on Textures: the benchmark's, and cut and encoded in four ways."""
    ways = {
        ("square", "JPEG as the ID images"): "matched",
        ("square", "no JPEG"): "plain",
        ("squash", "JPEG as the ID images"): "matched",
        ("squash", "no JPEG"): "plain",
    }
    head("network", "benchmark's", *(f"{cut}, {encoding}" for cut, encoding in ways))
    for network in ("resnet18", "vgg11"):
        kept = Run(RESULTS / f"cifar10_short/{network}.json")
        scores = [kept.results["featurenorm"]["textures"]["auroc"]]
        for (cut, _), name in ways.items():
            run = Run(RESULTS / f"cifar10_codec/{network}_{name}.json")
            scores.append(run.results["featurenorm"][f"textures_{cut}"]["auroc"])
        line(network, *(f"{100 * score:.1f}" for score in scores))


if __name__ == "__main__":
    main()
