"""Tables of docs/studies/speed.md and docs/scale.md, from docs/results/{limits,scale}.json.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

import json
from pathlib import Path
from typing import Any

from bench.cifar10_tables import RESULTS, table

LIMITS = RESULTS / "limits.json"
SCALE = RESULTS / "scale.json"


def read(path: Path) -> Any:
    """Returns a result; empty if nothing was measured yet."""
    return json.loads(path.read_text()) if path.exists() else {}


def scale() -> str:
    """Time, memory and largest differences of the figures from shards on disk."""
    lines = []
    for scores, found in read(SCALE).items():
        disk, memory = found["disk"], found.get("memory")
        lines.append([
            f"{int(scores):,}",
            f"{disk['disk']:.0f}",
            f"{disk['seconds']['write']:.1f}",
            f"{disk['seconds']['figures']:.1f}",
            f"{disk['growth']:.0f}",
            f"{memory['seconds']['figures']:.1f}" if memory else "-",
            f"{memory['growth']:.0f}" if memory else "-",
            f"{max(max(found[way]['apart'].values()) for way in found if way != 'disk'):.0e}",
        ])  # fmt: skip
    header = [
        "scores", "MiB on disk", "write (s)", "figures (s)", "memory (MiB)",
        "figures in memory (s)", "its memory (MiB)", "largest difference",
    ]  # fmt: skip
    return table(header, lines)


TABLES = {"scale": scale}
