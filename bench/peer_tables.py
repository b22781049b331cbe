"""Tables of docs/benchmarks.md, from docs/results/peers.json.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

import json
from functools import cache
from typing import Any

from bench.cifar10_tables import RESULTS, table

RESULT = RESULTS / "peers.json"
TITLES = {
    "ours": "ours",
    "pytorch_ood": "pytorch-ood, list call",
    "pytorch_ood_tutorial": "pytorch-ood, tutorial call",
    "oodeel": "oodeel",
    "torch_uncertainty": "torch-uncertainty",
    "detectors": "detectors",
    "openood": "loop of OpenOOD",
    "authors": "loop of the authors",
}
CLOSE = 1e-5
# what makes the scores of a detector differ in more than the unit
SCORES = {
    **{
        (runner, name): why
        for runner in ("pytorch_ood", "pytorch_ood_tutorial")
        for why, names in {
            "probabilities are at least 1e-7": ("Entropy", "GEN"),
            "float32, and a covariance close to singular": ("Mahalanobis", "RMDS", "ViM"),
        }.items()
        for name in names
    },
    **dict.fromkeys(
        [("oodeel", "Mahalanobis"), ("oodeel", "RMDS")],
        "its pseudo-inverse in float32 drops most directions of the covariance",
    ),
    ("oodeel", "SHE"): "the largest product with any class, not that with the predicted one",
    ("oodeel", "ASH"): "an interpolated quantile keeps one feature more",
    ("detectors", "Entropy"): "the sign is not that of its other scores",
    ("detectors", "Mahalanobis"): "multiplies with the Cholesky factor of the precision where the "
    "precision belongs",
}
# what makes the metrics of a peer differ from ours of the same scores
METRICS = {
    "pytorch_ood": "float32 curves",
    "pytorch_ood_tutorial": "float32 curves",
    "oodeel": "every fourth threshold only",
    "torch_uncertainty": "a sigmoid where a batch has scores outside 0 to 1",
    "authors": "FPR95 at the recall nearest to 95 %",
}


@cache
def content() -> dict[str, Any]:
    """Returns what `python -m bench.peers` measured."""
    read: dict[str, Any] = json.loads(RESULT.read_text())
    return read


def loops() -> str:
    """Seconds, images through the network and peak memory of N detectors on M sets."""
    return table(
        ["", "N", "M", "images, theirs / ours", "seconds, theirs / ours", "times ours", "GiB"],
        [line(row) for row in content()["runs"] if row["sets"]],
    )


def fit() -> str:
    """The same of a fit of two detectors on many images."""
    return table(
        ["", "N", "images to fit on", "images, theirs / ours", "seconds", "times ours", "GiB"],
        [line(row) for row in content()["runs"] if not row["sets"]],
    )


def line(row: dict[str, Any]) -> list[str]:
    """Returns the cells of one run beside ours of the same detectors and sets."""
    theirs, ours = row["theirs"], row["ours"]
    several = f"{len(row['detectors'])}", f"{row['sets'] or row['fit_images']:,}"
    if not ours:
        return [TITLES[row["runner"]], *several, f"{theirs['images']:,}", "", "", ""]
    return [
        TITLES[row["runner"]], *several,
        f"{theirs['images']:,} / {ours['images']:,}",
        f"{theirs['seconds']:.1f} / {ours['seconds']:.1f}",
        f"**{theirs['seconds'] / ours['seconds']:.1f}**",
        f"{theirs['GiB']:.2f} / {ours['GiB']:.2f}",
    ]  # fmt: skip


def is_same(found: dict[str, float]) -> bool:
    """Whether the scores are those of ours, in any unit."""
    return found["score"] <= CLOSE or found["rank"] >= 1 - CLOSE


def scores() -> str:
    """How many detectors of a peer score as ours do, and what the others differ in."""
    lines = []
    for runner, detectors in content()["equality"].items():
        others = [
            f"{name}: rank correlation {found['rank']:.6f}"
            + (f" ({SCORES[runner, name]})" if (runner, name) in SCORES else "")
            for name, found in detectors.items()
            if not is_same(found)
        ]
        same = len(detectors) - len(others)
        lines.append([TITLES[runner], f"{same} of {len(detectors)}", "; ".join(others)])
    return table(["", "detectors with our scores", "others"], lines)


def metrics_equal() -> str:
    """How far the metrics are from ours, of both pipelines and of the same scores."""
    lines = []
    for runner, detectors in content()["equality"].items():
        same = [found for found in detectors.values() if is_same(found)]
        worst = [
            max((found[key] for found in same), default=float("nan"))
            for key in ("auroc", "fpr95", "auroc_metric", "fpr95_metric")
        ]
        lines.append([TITLES[runner], *(f"{x:.1e}" for x in worst), METRICS.get(runner, "")])
    header = ["", "AUROC", "FPR95", "AUROC, same scores", "FPR95, same scores", "why"]
    return table(header, lines)


def metrics() -> str:
    """Seconds of the metrics of many scores."""
    found = content()["metrics"]
    sizes = [*dict.fromkeys(size for each in found.values() for size in each["sizes"])]
    lines = [
        [TITLES[runner], *(second(each, size) for size in sizes), each["error"] or ""]
        for runner, each in found.items()
        if runner != "pytorch_ood_tutorial"
    ]
    return table(["", *(f"{int(size):,} scores" for size in sizes), ""], lines)


def second(found: dict[str, Any], size: str) -> str:
    """Returns the seconds for a number of scores, if it was reached."""
    return f"{found['sizes'][size]['seconds']:.2f} s" if size in found["sizes"] else ""


def installs() -> str:
    """What a newcomer installs, beside torch, and how long the first result takes."""
    first = content()["first_result"]
    lines = []
    for name, facts in content()["environments"].items():
        tried = "; ".join(
            f"`{' '.join(each['requirements'])}`" + (f": {each['error']}" if each["error"] else "")
            for each in facts["attempts"]
        )
        seconds = sum(each["seconds"] for each in facts["attempts"])
        runner = name.replace("-", "_")
        result = f"{first[runner]:.0f} s" if runner in first else ""
        lines.append([name, tried, f"{seconds:.0f} s", result])
    return table(["", "installed, in this order", "installation", "first AUROC"], lines)


def setting() -> str:
    """Images, machine and versions."""
    read = content()
    images, machine = read["images"], read["hardware"]
    sets = "drawn images" if images["drawn"] else "CIFAR-10 (JPEG copy) and five OOD sets"
    return table(
        ["", ""],
        [
            ["command", f"`{read['command']}`"],
            ["machine", f"{machine['processor']}, {machine['cores']} cores"],
            ["threads", str(machine["threads"])],
            ["versions", ", ".join(f"{name} {each}" for name, each in read["versions"].items())],
            ["network", "VGG-11 of `weights/`, 32 x 32 images"],
            ["images", f"{sets}: {images['id']} ID, {images['ood']} of each OOD set"],
            ["fitted on", f"{images['train']} images, in batches of {images['batch']}"],
        ],
    )


TABLES = {
    "peers-loops": loops,
    "peers-fit": fit,
    "peers-scores": scores,
    "peers-metrics-equal": metrics_equal,
    "peers-metrics": metrics,
    "peers-installs": installs,
    "peers-setting": setting,
}
