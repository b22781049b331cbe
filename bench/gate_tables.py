"""The table of docs/deploy.md, from docs/results/gates.json.

Nothing here is a command: `python -m bench.pages` writes this table into the documentation.
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


TABLES = {"gates": gates}
