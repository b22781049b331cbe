"""Tables of docs/norm_profile.md and the first table, from docs/results/norm_profile.json.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from bench.cifar10_tables import RESULTS, RUNS, TITLES, table
from src.compare.runs import METRICS, Run
from src.records.columns import detector_columns


@cache
def content() -> dict[str, Any]:
    """Returns what `python -m bench.norm_profile` measured."""
    read: dict[str, Any] = json.loads((RESULTS / "norm_profile.json").read_text())
    return read


def pair(result: Sequence[float]) -> str:
    """Returns AUROC and FPR95."""
    return f"{result[0]:.1f} / {result[1]:.1f}"


def summary() -> str:
    """Average AUROC / FPR95 (ID positive) of four detectors and of the best of all others."""
    lines = []
    for network, title in TITLES.items():
        run = Run(RUNS / f"{network}.json")
        average = {
            name: [100 * run.results[name]["average"][metric] for metric in METRICS[:2]]
            for name in detector_columns(run.results)
        }
        best = max(average, key=lambda name: average[name][0])
        shown = (average[name] for name in ("msp", "energy", "featurenorm"))
        profile = content()["networks"][title]["detectors"]["NormProfile"]["average"]
        best_other = f"{pair(average[best])} `{best}`"
        lines.append([title, *map(pair, shown), best_other, f"**{pair(profile)}**"])
    return table(["network", "MSP", "Energy", "FeatureNorm", "best other", "NormProfile"], lines)


def beside() -> str:
    """NormProfile, FeatureNorm and Energy on each network and set, with intervals."""
    lines = []
    for network, each in content()["networks"].items():
        for name, results in each["detectors"].items():
            (low, high), _ = each["intervals"][name]
            sets = [pair(result) for key, result in results.items() if key != "average"]
            average = f"**{pair(results['average'])}** ({low:.1f} to {high:.1f})"
            lines.append([network, name, average, *sets])
    first = next(iter(content()["networks"].values()))["detectors"]["Energy"]
    return table(["network", "detector", "average", *[k for k in first if k != "average"]], lines)


def parts() -> str:
    """Averages of each rule that differs from the default in one part."""
    networks = content()["networks"]
    rows = {name: each["parts"] for name, each in networks.items()}
    keys = dict.fromkeys((row["part"], row["value"]) for each in rows.values() for row in each)
    lines = []
    for part, value in keys:
        if part in ("without a block", "without a distortion"):
            continue
        cells = [_average(rows[name], part, value) for name in networks]
        lines.append([part, value, *cells])
    for part in ("without a distortion", "without a block"):
        for word, choose in (("worst", min), ("best", max)):
            cells = []
            for name in networks:
                left_out = [row for row in rows[name] if row["part"] == part]
                row = choose(left_out, key=lambda each: each["average"][0])
                what = row["value"]
                if part == "without a block":
                    what = networks[name]["blocks"][int(what) - 1]
                cells.append(f"{pair(row['average'])} (`{what}`)")
            lines.append([part, f"{word} case", *cells])
    return table(["part", "value", *networks], lines)


def chosen() -> str:
    """Results of the rules chosen on the other networks and the other OOD sets."""
    found = content()["chosen"]
    sets = [name for name in next(iter(found.values())) if name != "average"]
    lines = [
        [
            network,
            f"**{pair(each['average']['result'])}**",
            *(pair(each[s]["result"]) for s in sets),
        ]
        for network, each in found.items()
    ]
    return table(["network", "average", *sets], lines)


def rules() -> str:
    """The rules that were chosen, and how often."""
    count: dict[tuple[str, ...], int] = {}
    for each in content()["chosen"].values():
        for name, found in each.items():
            if name != "average":
                rule = found["rule"]
                signs = "at least 0" if rule["nonnegative"] else "free"
                key = (
                    " + ".join(rule["statistics"]),
                    str(len(rule["pool"])),
                    f"{rule['penalty']:g}",
                    signs,
                )
                count[key] = count.get(key, 0) + 1
    ordered = sorted(count.items(), key=lambda item: -item[1])
    return table(
        ["statistics", "distortions", "penalty", "weights", "chosen"],
        [[*key, f"{times} of {sum(count.values())}"] for key, times in ordered],
    )


def _average(rows: Sequence[dict[str, Any]], part: str, value: str) -> str:
    found = [row for row in rows if (row["part"], row["value"]) == (part, value)]
    return pair(found[0]["average"]) if found else ""


TABLES = {
    "summary": summary,
    "profile-beside": beside,
    "profile-parts": parts,
    "profile-chosen": chosen,
    "profile-rules": rules,
}
