"""The tables of docs/deploy.md, from docs/results/gates.json and docs/results/gate.json.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

import json

from bench.cifar10_tables import RESULTS, table


def gates() -> str:
    """False alarms with bound and interval, and the share of OOD images found, in percent."""
    content = json.loads((RESULTS / "gates.json").read_text())
    lines = []
    for network, measured in content.items():
        for detector, found in measured["detectors"].items():
            for alpha, row in found.items():
                low, high, false = (percent(row[key]) for key in ("low", "high", "false_alarms"))
                share = sum(row["found"].values()) / len(row["found"])
                lines.append([
                    network, f"`{detector}`", f"{100 * float(alpha):g}", percent(row["bound"]),
                    f"{false} ({low} to {high})", percent(share),
                ])  # fmt: skip
    return table(["network", "detector", "alpha", "bound", "false alarms", "OOD flagged"], lines)


def percent(share: float) -> str:
    """Returns a share in percent, with one digit behind the point."""
    return f"{100 * share:.1f}"


def speed() -> str:
    """Latency of one image, throughput of a batch, operations and size of each way to run."""
    content = json.loads((RESULTS / "gate.json").read_text())
    lines = []
    for network, measured in content["networks"].items():
        (one, many) = measured["batches"].values()
        for way, single in one.items():
            batch = many[way]
            rate = batch["images_per_second"][0]
            flops = measured["share_of_flops"] if way.endswith("cut") else 1
            size = measured["megabytes"].get(way)
            lines.append([
                network, way, f"{single['median_ms']:.2f} ({single['p95_ms']:.2f})",
                spread(single["ratio"]), f"{rate:.0f}", spread(batch["ratio"]), percent(flops),
                "" if size is None else f"{size:.1f}",
            ])  # fmt: skip
    header = ["network", "runs as", "one image, ms (p95)", "time / plain"]
    images = list(measured["batches"])[-1]
    header += [f"{images} images, images/s", "time / plain", "FLOPs, %", "file, MB"]
    return table(header, lines)


def spread(values: tuple[float, float, float]) -> str:
    """Returns a median with its range."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*values)


TABLES = {"gates": gates, "gate-speed": speed}
