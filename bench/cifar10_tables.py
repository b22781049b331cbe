"""Tables of the study of the paper's networks, from docs/results/cifar10_{short,codec}.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from functools import cache, partial
from io import StringIO
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import src.compare.__main__
from src.compare.rows import MISSING, Row, compare
from src.compare.runs import METRICS, Run, find_runs
from src.compare.tables import percent

RESULTS = Path(__file__).parents[1] / "docs/results"
RUNS = RESULTS / "cifar10_short"
NETWORKS = ("resnet18", "wrn16_4", "vgg11")
TITLES = {"resnet18": "ResNet18", "wrn16_4": "WRN-16-4", "vgg11": "VGG11"}
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


@cache
def rows() -> dict[str, Row]:
    """Returns the runs of each network, over seeds."""
    return {row.network: row for row in compare(*find_runs([RUNS])).rows}


@cache
def sections() -> dict[str, str]:
    """Returns the tables and notes that `src.compare` writes: title -> text."""
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        asked = ["--blocks", "--paper", "--detectors", "all", "--output", folder]
        src.compare.__main__.main([str(RUNS), *asked])
        parts = Path(folder, "comparison.md").read_text().split("\n## ")[1:]
    return {title: text.strip() for title, text in (part.split("\n", 1) for part in parts)}


def section(start: str) -> str:
    """Returns the section of `src.compare` whose title starts with these words."""
    (text,) = [text for title, text in sections().items() if title.startswith(start)]
    return text


def choices() -> str:
    """The table of networks of `src.compare`, without the experiment and the number of runs."""
    lines = [line.strip("| ").split(" | ") for line in section("Networks").splitlines()]
    header, body = lines[0], lines[2:]
    kept = [at for at, title in enumerate(header) if title not in ("experiment", "n")]
    return table([header[at] for at in kept], [[line[at] for at in kept] for line in body])


def table(header: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    """Returns a table in Markdown."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def set_by_set(network: str) -> str:
    """AUROC, and below it FPR95 of both meanings, for each detector and set."""
    row = rows()[network]
    run = row.runs[0]
    sets = list(run.results["msp"])
    auroc = {
        (name, source): sample.mean
        for name in run.detectors
        for source in sets
        if (sample := row.score(name, "auroc", source))
    }
    best = {source: max(auroc[name, source] for name in run.detectors) for source in sets}
    body = []
    for name in run.detectors:
        cells = [f"`{name}`"]
        for source in sets:
            first, *fpr95 = (percent(row.score(name, metric, source), row) for metric in METRICS)
            bold = "**" if auroc[name, source] == best[source] else ""
            cells.append(f"{bold}{first}{bold}<br>{' / '.join(fpr95)}")
        body.append(cells)
    return table(["detector", *sets], body)


def selections() -> str:
    """NormRatio of all blocks under each way of measuring it."""
    body = []
    for network in NETWORKS:
        for seed, name, blocks in measured(network):
            selected = next(block for block in blocks if block["selected"] == "1")
            ratios = [f"{float(block['ratio']):.3f}" for block in blocks]
            ratios[blocks.index(selected)] = f"**{ratios[blocks.index(selected)]}**"
            name_and_block = SELECTIONS[name], f"`{selected['block']}`"
            body.append([network, seed, *name_and_block, " ".join(ratios)])
    return table(
        ["network", "seed", "selection", "selected", "ratio of the blocks, by depth"], body
    )


def measured(network: str) -> Iterator[tuple[int, str, list[dict[str, str]]]]:
    """Yields seed, way and the blocks of the last epoch of each selection there is."""
    for seed, ending in SEEDS.items():
        for name in SELECTIONS:
            file = RUNS / f"{network}{ending}_{name}.csv"
            if file.exists():
                blocks = list(csv.DictReader(file.open()))
                yield seed, name, [b for b in blocks if b["epoch"] == blocks[-1]["epoch"]]


def rules() -> str:
    """What MSP, ODIN and Energy gain by each rule, and how far that is from the poster's gain.

    The last column: mean over MSP and Energy, which all rules have, of the distance between the
    two gains in AUROC.
    """
    body: list[list[str]] = []
    for network in NETWORKS:
        row = rows()[network]
        for rule, title in RULES.items():
            cells = [average(row, rule.format(name)) for name in ("msp", "odin", "energy")]
            alone = rule == "{}"
            last = [average(row, "featurenorm"), ""] if alone else ["", off_poster(row, rule)]
            body.append([network, title, *cells, *last])
        for title, pairs in POSTER[network].items():
            cells = [f"{auroc:.1f} / {fpr95:.1f}" for auroc, fpr95 in pairs]
            body.append([network, title, *cells, *[""] * (5 - len(cells))])
    detectors = ["MSP", "ODIN", "Energy", "FeatureNorm alone"]
    return table(["network", "rule", *detectors, "gain off the poster's"], body)


def off_poster(row: Row, rule: str) -> str:
    """Returns how far the gains of MSP and Energy by a rule are from the poster's, on average."""
    alone, with_norm = POSTER[row.network].values()
    off = [
        abs(gain(row, name, rule.format(name)) - (with_norm[at][0] - alone[at][0]))
        for name, at in (("msp", 0), ("energy", 2))
    ]
    return f"{mean(off):.1f}"


def average(row: Row, detector: str) -> str:
    """Returns AUROC / FPR95 with ID positive."""
    shown = [percent(row.score(detector, metric), row) for metric in METRICS[:2]]
    return MISSING if MISSING in shown else " / ".join(shown)


def gain(row: Row, before: str, after: str) -> float:
    """Returns by how much the average AUROC is larger, in percent, where both were scored."""
    pairs = [(run.score(before, "auroc"), run.score(after, "auroc")) for run in row.runs]
    return 100 * mean(new - old for old, new in pairs if old is not None and new is not None)


def codec() -> str:
    """FeatureNorm's AUROC on Textures: the benchmark's, and cut and encoded in four ways."""
    ways = {
        ("square", "JPEG as the ID images"): "matched",
        ("square", "no JPEG"): "plain",
        ("squash", "JPEG as the ID images"): "matched",
        ("squash", "no JPEG"): "plain",
    }
    body = []
    for network in ("resnet18", "vgg11"):
        kept = Run(RUNS / f"{network}.json")
        scores = [kept.results["featurenorm"]["textures"]["auroc"]]
        for (cut, _), name in ways.items():
            run = Run(RESULTS / f"cifar10_codec/{network}_{name}.json")
            scores.append(run.results["featurenorm"][f"textures_{cut}"]["auroc"])
        body.append([network, *(f"{100 * score:.1f}" for score in scores)])
    return table(
        ["network", "benchmark's", *(f"{cut}, {encoding}" for cut, encoding in ways)], body
    )


TABLES = {
    "choices": choices,
    "networks": partial(section, "Networks"),
    "average-auroc": partial(section, "Average: AUROC"),
    "beside-the-paper": partial(section, "Beside the paper"),
    **{f"blocks-{name}": partial(section, f"{name}: NormRatio") for name in NETWORKS},
    **{f"sets-{name}": partial(set_by_set, name) for name in NETWORKS},
    "selections": selections,
    "rules": rules,
    "codec": codec,
}
