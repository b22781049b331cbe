"""The tables of docs/results.md on the paper's networks that src.compare does not have.

python -m bench.cifar10_tables    # of docs/results/cifar10_{short,rules,codec}
"""

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs/results"
NETWORKS = ("resnet18", "wrn16_4", "vgg11")
METRICS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos")
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
    for network in NETWORKS:
        print(f"\n**{network}**\n")
        set_by_set(detectors("cifar10_short", network))
    print("\n### The selection, measured otherwise\n")
    selections()
    print('\n### Which rule is "with the selected norm"\n')
    rules()
    print("\n### Codec and cut of Textures\n")
    codec()


def detectors(folder: str, network: str) -> dict[str, Any]:
    """Returns detector -> set -> metric of an evaluation, {} if there is none."""
    file = RESULTS / folder / f"{network}.json"
    return dict(json.loads(file.read_text())["detectors"]) if file.exists() else {}


def row(*cells: object) -> None:
    """Prints a row."""
    print("|", " | ".join(map(str, cells)), "|")


def head(*titles: str) -> None:
    """Prints titles and the line below them."""
    row(*titles)
    print("|" + "---|" * len(titles))


def set_by_set(found: dict[str, Any]) -> None:
    """AUROC, and below it FPR95 of both meanings, for each detector and set."""
    sets = list(found["msp"])
    best = {name: max(scores[name]["auroc"] for scores in found.values()) for name in sets}
    head("detector", *sets)
    for detector, scores in found.items():
        if "@" in detector:
            continue
        cells = []
        for name in sets:
            auroc, id_pos, ood_pos = (f"{100 * scores[name][metric]:.1f}" for metric in METRICS)
            bold = "**" if scores[name]["auroc"] == best[name] else ""
            cells.append(f"{bold}{auroc}{bold}<br>{id_pos} / {ood_pos}")
        row(f"`{detector}`", *cells)


def selections() -> None:
    """NormRatio of all blocks under each way of measuring it."""
    head("network", "selection", "selected", "ratio of the blocks, by depth")
    for network in NETWORKS:
        for name, title in SELECTIONS.items():
            file = RESULTS / f"cifar10_short/{network}_{name}.csv"
            if not file.exists():
                continue
            lines = list(csv.DictReader(file.open()))
            lines = [line for line in lines if line["epoch"] == lines[-1]["epoch"]]
            selected = next(line for line in lines if line["selected"] == "1")
            ratios = [f"{float(line['ratio']):.3f}" for line in lines]
            ratios[lines.index(selected)] = f"**{ratios[lines.index(selected)]}**"
            row(network, title, f"`{selected['block']}`", " ".join(ratios))


def rules() -> None:
    """What MSP, ODIN and Energy gain by each rule, and how far that is from what they gain there.

    The last column: mean over MSP and Energy, which all rules have, of the distance between the
    two gains in AUROC.
    """
    head("network", "rule", "MSP", "ODIN", "Energy", "FeatureNorm alone", "gain off the poster's")
    for network in NETWORKS:
        found = detectors("cifar10_rules", network) | detectors("cifar10_short", network)
        alone, with_norm = POSTER[network].values()
        for rule, title in RULES.items():
            cells = [average(found, rule.format(name)) for name in ("msp", "odin", "energy")]
            if rule == "{}":
                row(network, title, *cells, average(found, "featurenorm"), "")
                continue
            off = [
                abs(
                    100 * found[rule.format(name)]["average"]["auroc"]
                    - 100 * found[name]["average"]["auroc"]
                    - (with_norm[column][0] - alone[column][0])
                )
                for name, column in (("msp", 0), ("energy", 2))
            ]
            row(network, title, *cells, "", f"{mean(off):.1f}")
        for title, pairs in POSTER[network].items():
            cells = [f"{auroc:.1f} / {fpr95:.1f}" for auroc, fpr95 in pairs]
            row(network, title, *cells, *[""] * (5 - len(cells)))


def average(found: dict[str, Any], detector: str) -> str:
    """Returns AUROC / FPR95 with ID positive, "-" if it was not measured."""
    if detector not in found:
        return "-"
    scores = found[detector]["average"]
    return f"{100 * scores['auroc']:.1f} / {100 * scores['fpr95_id_pos']:.1f}"


def codec() -> None:
    """FeatureNorm's AUROC on Textures: the benchmark's, and cut and encoded in four ways."""
    ways = {
        ("square", "JPEG as the ID images"): "matched",
        ("square", "no JPEG"): "plain",
        ("squash", "JPEG as the ID images"): "matched",
        ("squash", "no JPEG"): "plain",
    }
    head("network", "benchmark's", *(f"{cut}, {encoding}" for cut, encoding in ways))
    for network in NETWORKS:
        found = {name: detectors("cifar10_codec", f"{network}_{name}") for name in ways.values()}
        if not all(found.values()):
            continue
        scores = [detectors("cifar10_short", network)["featurenorm"]["textures"]]
        for (cut, _), name in ways.items():
            scores.append(found[name]["featurenorm"][f"textures_{cut}"])
        row(network, *(f"{100 * score['auroc']:.1f}" for score in scores))


if __name__ == "__main__":
    main()
